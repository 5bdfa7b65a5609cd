"""Builds the native module `scvae_fast._native` with CMake; everything else is in pyproject.toml."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CUDA_SETTINGS = {"": "AUTO", "auto": "AUTO", "1": "ON", "0": "OFF"}


def cuda_setting() -> str:
    """CMake's value of SCVAE_FAST_CUDA for the environment variable of that name."""
    value = os.environ.get("SCVAE_FAST_CUDA", "").lower()
    if value not in CUDA_SETTINGS:
        raise SystemExit(f"SCVAE_FAST_CUDA must be 0, 1 or auto, got {value!r}")
    return CUDA_SETTINGS[value]


class CMakeBuild(build_ext):
    """Configures and builds csrc/ in a separate tree, and puts the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        tree = Path(self.build_temp).resolve() / "cmake"
        tree.mkdir(parents=True, exist_ok=True)
        # The cache of an earlier build environment refers to tools that no longer exist.
        (tree / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{tree}",
            "-GNinja",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DSCVAE_FAST_CUDA={cuda_setting()}",
        ]
        # In CMake's format, "80-real;90a-real". By default those that cmake/cuda.cmake chooses for this nvcc.
        if architectures := os.environ.get("SCVAE_FAST_CUDA_ARCHITECTURES"):
            configure.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(tree)], check=True)


setup(ext_modules=[Extension("scvae_fast._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
