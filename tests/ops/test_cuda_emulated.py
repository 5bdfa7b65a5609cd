"""The CUDA kernels on a processor: built as C++ with tests/cuda_emulator, run through the operations' tests."""

import os
import shutil
import sys
from pathlib import Path

import pybind11
import pytest
from processes import run, run_tests_of_kernels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """The module's path."""
    tree = tmp_path_factory.mktemp("emulator")
    # The development environment's, where the system has none.
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    cmake = shutil.which("cmake", path=path)
    assert cmake is not None
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "SCVAE_FAST_CUDA": "OFF",
        "SCVAE_FAST_CUDA_EMULATOR": "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    environment = {**os.environ, "PATH": path}
    run(cmake, "-S", ROOT, "-B", tree, *(f"-D{k}={v}" for k, v in options.items()), env=environment)
    run(cmake, "--build", tree, "--target", "_cuda_emulated", "--parallel", "2", env=environment)
    (module,) = tree.rglob("_cuda_emulated*.so")
    return module


@pytest.mark.nested
def test_kernels_hold_emulated(emulator):
    run_tests_of_kernels("cuda", SCVAE_FAST_CUDA_EMULATOR=str(emulator))
