"""The source distribution builds a wheel, and the wheel is all that is needed."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).resolve().parent.parent

USE = """
import sys, scvae_fast, torch
assert scvae_fast.__file__.startswith(sys.argv[1]), scvae_fast.__file__
assert scvae_fast.backends()["cpu"] is None, scvae_fast.backends()
layer = scvae_fast.LISTA(6, 9, 3)
layer(torch.randn(4, 6)).sum().backward()
print(float(layer.S.grad.abs().sum()))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel, built from an unpacked source distribution, as `python -m build` does; without CUDA, for its time."""
    dist = tmp_path_factory.mktemp("dist")
    without_cuda = {**os.environ, "SCVAE_FAST_CUDA": "0"}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT), env=without_cuda)
    return dist


@pytest.mark.compiles
def test_source_distribution_holds_what_the_build_needs(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "csrc/bindings.cpp"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")} <= names


def test_wheel_holds_the_package_and_nothing_else(built):
    (archive,) = built.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = wheel.namelist()
        (metadata,) = [wheel.read(name).decode() for name in names if name.endswith("METADATA")]
    assert {name.split("/")[0] for name in names} == {"scvae_fast", names[-1].split("/")[0]}
    assert "scvae_fast/py.typed" in names
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert sorted(required) == ["Requires-Dist: numpy", "Requires-Dist: torch>=2.10"]


@pytest.mark.compiles
def test_wheel_works_where_it_is_installed(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel))
    printed = run(
        sys.executable,
        "-c",
        USE,
        str(tmp_path),
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert float(printed) > 0


def test_build_refuses_an_unknown_cuda_setting(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)],
        cwd=ROOT,
        env={"SCVAE_FAST_CUDA": "maybe", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "SCVAE_FAST_CUDA must be 0, 1 or auto, got 'maybe'" in done.stderr
