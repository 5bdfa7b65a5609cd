"""The choice of the backend of a call, and errors for unsuitable backends."""

import pytest
import torch

import scvae_fast
from scvae_fast.ops import backends, native
from scvae_fast.ops.backends import cuda, trial, triton


@pytest.fixture(autouse=True)
def nothing_is_tried(monkeypatch):
    """No card has a verdict, and no trial starts."""
    monkeypatch.setattr(trial, "CHOOSER", type("Nothing", (), {"fastest": staticmethod(lambda *_: None)}))


def test_every_backend_is_usable_here_or_says_why():
    found = scvae_fast.backends()
    assert found["eager"] is None
    assert found["cpu"] is None, "the tests need the compiled module"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_automatic_choice_on_the_cpu(dtype):
    assert backends.choose("lista", None, torch.device("cpu"), dtype, 100) == "cpu"


def test_few_rows_are_decoded_by_pytorch():
    cpu = torch.device("cpu")
    found = {rows: backends.choose("decode", None, cpu, torch.float32, rows) for rows in (0, 1, 511, 512, 4096)}
    assert found == {0: "eager", 1: "eager", 511: "eager", 512: "cpu", 4096: "cpu"}
    assert backends.choose("lista", None, cpu, torch.float32, 1) == "cpu"
    assert backends.choose("decode", "cpu", cpu, torch.float32, 1) == "cpu"


def test_automatic_choice_on_a_device_that_no_kernels_run_on_is_eager():
    assert backends.choose("lista", None, torch.device("meta"), torch.float32, 100) == "eager"


def test_triton_says_why_it_is_not_used(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scvae_fast.backends()["triton"] == "torch finds no CUDA device"
    assert backends.choose("lista", None, torch.device("cuda"), torch.float32, 100) == "eager"
    with pytest.raises(RuntimeError, match="lista: backend 'triton' can't be used: torch finds no CUDA device"):
        scvae_fast.lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 1, backend="triton")


def test_triton_runs_on_cards_that_it_fits_for_those_who_ask_for_it(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "_unfit", lambda index: None if index == 0 else "it is too old")
    monkeypatch.setattr(cuda, "_unfit", lambda index: "it is too old")
    fit, old = torch.device("cuda", 0), torch.device("cuda", 1)
    assert backends.choose("lista", None, fit, torch.float32, 100) == "eager"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert backends.choose("lista", "triton", fit, dtype, 100) == "triton"
    with pytest.raises(RuntimeError, match="decode: backend 'triton' can't be used: it is too old"):
        backends.choose("decode", "triton", old, torch.float32, 100)
    with pytest.raises(RuntimeError, match="it runs on CUDA tensors, got a tensor on cpu"):
        backends.choose("decode", "triton", torch.device("cpu"), torch.float32, 100)


def test_cuda_says_why_it_is_not_used(monkeypatch):
    monkeypatch.delenv(cuda.device.EMULATOR, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(native, "module", type("Built", (), {"cuda_plan": None}))
    assert scvae_fast.backends()["cuda"] == "torch finds no CUDA device"
    built = type("Built", (), {"without_cuda": "nvcc 12.0 can't compile here: it is too old"})
    monkeypatch.setattr(native, "module", built)
    reason = "the compiled module has no CUDA kernels: nvcc 12.0 can't compile here: it is too old"
    assert scvae_fast.backends()["cuda"] == reason
    with pytest.raises(
        RuntimeError, match="decode: backend 'cuda' can't be used: the compiled module has no CUDA kernels: nvcc"
    ):
        scvae_fast.decode(torch.zeros(2, 3), torch.zeros(4, 3), backend="cuda")


def test_cuda_runs_on_cards_that_it_fits_for_those_who_ask_for_it(monkeypatch):
    monkeypatch.delenv(cuda.device.EMULATOR, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(native, "module", type("Built", (), {"cuda_plan": None}))
    monkeypatch.setattr(cuda, "_unfit", lambda index: None if index == 0 else "it is too old")
    monkeypatch.setattr(triton, "_unfit", lambda index: "it is too old")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    fit, old = torch.device("cuda", 0), torch.device("cuda", 1)
    assert backends.choose("lista", None, fit, torch.float32, 100) == "eager"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert backends.choose("lista", "cuda", fit, dtype, 100) == "cuda"
    with pytest.raises(RuntimeError, match="decode: backend 'cuda' can't be used: it is too old"):
        backends.choose("decode", "cuda", old, torch.float32, 100)
    with pytest.raises(RuntimeError, match="it takes float32, bfloat16 and float16, got"):
        backends.choose("decode", "cuda", fit, torch.float64, 100)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="lista: backend must be one of cpu, eager, triton, cuda, or None, got 'gpu'"):
        scvae_fast.lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 1, backend="gpu")


def test_forced_backend_raises_on_another_device():
    z, D = torch.zeros(2, 3, device="meta"), torch.zeros(4, 3, device="meta")
    with pytest.raises(RuntimeError, match="it runs on CPU tensors, got a tensor on meta"):
        backends.choose("decode", "cpu", z.device, D.dtype, 100)


def test_missing_native_module_is_a_reason_and_never_chosen(monkeypatch):
    monkeypatch.setattr(native, "missing", "it is not built")
    assert scvae_fast.backends()["cpu"] == "it is not built"
    assert backends.choose("lista", None, torch.device("cpu"), torch.float32, 100) == "eager"
    with pytest.raises(RuntimeError, match="lista: backend 'cpu' can't be used: it is not built"):
        scvae_fast.lista(torch.zeros(2, 3), torch.zeros(3, 3), 0.1, 1, backend="cpu")


@pytest.mark.parametrize(
    ("target", "runs", "does_not"),
    [
        ("80-real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (10, 0)]),
        ("86", [(8, 6), (8, 9), (9, 0), (12, 0)], [(8, 0), (7, 5)]),
        ("90-virtual", [(9, 0), (10, 0), (12, 1)], [(8, 9)]),
        ("90a-real", [(9, 0)], [(8, 9), (10, 0)]),
        ("90a", [(9, 0)], [(9, 1), (10, 0)]),
        ("100f-real", [(10, 0), (10, 3)], [(9, 0), (12, 0)]),
        ("120", [(12, 0), (12, 1)], [(10, 0)]),
        ("all-major", [(8, 0), (12, 0)], []),
    ],
)
def test_cards_that_run_what_was_compiled(target, runs, does_not):
    assert [card for card in runs + does_not if cuda.runs_on(target, *card)] == runs


def test_cuda_declines_a_card_that_it_was_not_compiled_for(monkeypatch):
    built = type("Built", (), {"cuda_oldest_major": 8, "cuda_compiled_for": "80-real 90a-real"})
    cards = {0: (8, 6), 1: (9, 0), 2: (12, 0), 3: (7, 5)}
    monkeypatch.setattr(cuda, "module", lambda: built)
    monkeypatch.setattr(
        cuda, "card", lambda index: type("Card", (), {"major": cards[index][0], "minor": cards[index][1]})
    )
    assert [cuda._unfit(index) for index in cards] == [
        None,
        None,
        "it was compiled for 80-real 90a-real, this card has compute capability 12.0",
        "it needs compute capability 8.0 or newer, this card has 7.5",
    ]


@pytest.fixture
def a_card(monkeypatch):
    """One that the Triton kernels take, and no module with CUDA kernels."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv(cuda.device.EMULATOR, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "_unfit", lambda index: None)
    return torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["eager", "triton"])
def test_the_environment_names_the_backend_of_cuda_tensors(name, a_card, monkeypatch):
    monkeypatch.setenv("SCVAE_FAST_BACKEND", name)
    assert backends.choose("lista", None, a_card, torch.float32, 100) == name
    assert backends.choose("lista", "eager", a_card, torch.float32, 100) == "eager"
    assert backends.choose("lista", None, torch.device("cpu"), torch.float32, 100) == "cpu"


def test_sizes_that_a_backend_does_not_take_go_to_another_one(a_card, monkeypatch):
    """K atoms and n features; the trial found `cuda` fastest, then `triton`."""

    def fastest(index, dtype, rows, able):
        return next((name for name in ("cuda", "triton") if name in able), None)

    def plan(card, rows, atoms, features, product, itemsize):
        if max(atoms, features) > 1024:
            raise ValueError("backend 'cuda': too much shared memory")

    monkeypatch.delenv("SCVAE_FAST_BACKEND", raising=False)
    monkeypatch.setattr(backends.trial.CHOOSER, "fastest", fastest)
    monkeypatch.setattr(native, "module", type("Built", (), {"cuda_plan": staticmethod(plan)}))
    monkeypatch.setattr(cuda, "_unfit", lambda index: None)
    monkeypatch.setattr(cuda, "card", lambda index: None)
    monkeypatch.setattr(cuda, "module", lambda: native.module)

    def chosen(K, n, backend=None):
        return backends.choose("lista", backend, a_card, torch.float32, 16_384, (), (K, n))

    assert [chosen(512, 256), chosen(4096, 256), chosen(512, 4096), chosen(65_536, 256)] == [
        "cuda",
        "triton",
        "triton",
        "eager",
    ]
    with pytest.raises(RuntimeError, match="lista: backend 'cuda' can't be used: too much shared memory"):
        chosen(4096, 256, "cuda")
    with pytest.raises(RuntimeError, match="it takes at most 32768 atoms or features, got 65536"):
        chosen(65_536, 256, "triton")


def test_a_backend_of_the_environment_that_declines_is_named(a_card, monkeypatch):
    monkeypatch.setenv("SCVAE_FAST_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="lista: SCVAE_FAST_BACKEND=triton can't be used: its matrix products"):
        backends.choose("lista", None, a_card, torch.float64, 100)
    monkeypatch.setenv("SCVAE_FAST_BACKEND", "cpu")
    with pytest.raises(ValueError, match="lista: SCVAE_FAST_BACKEND must be one of eager, triton, cuda, got 'cpu'"):
        backends.choose("lista", None, a_card, torch.float32, 100)
