"""Fixtures of the whole suite."""

import faulthandler
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# What cuBLAS asks for before it computes deterministically.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# No test starts a trial of GPU kernels unless it is about that.
os.environ.setdefault("SCVAE_FAST_TRIAL", "0")

# A test that takes longer ends its process: a signal would wait for a kernel that hangs.
SECONDS_PER_TEST = float(os.environ.get("SCVAE_FAST_SECONDS_PER_TEST", "0"))  # 0: as long as it likes
TERMINAL = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep stderr from before a test's output is captured."""
    config.stash[TERMINAL] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Closes it."""
    os.close(config.stash[TERMINAL])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test with its fixtures within its time limit."""
    if not SECONDS_PER_TEST:
        return (yield)
    faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True, file=item.config.stash[TERMINAL])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no worker is left alone with one. Mark tests of GPU kernels."""
    from problems import FLOAT32_BACKENDS

    kernels = {"triton", "cuda"}.intersection(FLOAT32_BACKENDS)
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        words = (re.split(r"\W+", p) for p in parameters if isinstance(p, str))
        if any(kernels.intersection(each) for each in words):
            item.add_marker("gpu")
    longest = ("nested", "compiles", "processes")

    def rank(item: pytest.Item) -> int:
        return next((rank for rank, name in enumerate(longest) if item.get_closest_marker(name)), len(longest))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """A fixed seed; and torch.empty gives NaN, which reveals unwritten memory."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def golden_gat() -> Any:
    """A `golden_cases.GoldenCase`."""
    from golden_cases import load_case

    return load_case("gat")


@pytest.fixture
def small_config() -> Any:
    """An `SCVAEConfig`: two levels, attention on the lower one, a stride of 2; every width small."""
    from scvae_fast.models import SCVAEConfig

    return SCVAEConfig(
        n_features=16,
        n_atoms=24,
        n_iter=3,
        lmbda=0.05,
        resolution=16,
        ch=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_levels=(1,),
        norm_groups=4,
    )


@pytest.fixture
def small_model(small_config: Any) -> Any:
    """An untrained `SCVAE`."""
    from scvae_fast.models import SCVAE

    torch.manual_seed(0)
    return SCVAE(small_config)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained model, `pictures.TINY`."""
    from pictures import TINY

    from scvae_fast.models import SCVAE

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    SCVAE(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Of Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "no Chromium: apt-get install chromium"
        # On the machine that stands for all others, what is not tested has failed.
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found
