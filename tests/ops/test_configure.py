"""CMake's handling of compilers: which kernels it leaves out, and for which GPUs it compiles."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

from scvae_fast.ops.native import module as native

ROOT = Path(__file__).resolve().parents[2]
CMAKE = shutil.which("cmake") or shutil.which("cmake", path=Path(sys.executable).parent)
TOO_OLD = "error: -- unsupported GNU version! gcc versions later than 11 are not supported!"

pytestmark = pytest.mark.compiles


def cmake(*words, **environment):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "CMAKE"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), own["PATH"]))
    return subprocess.run(
        [CMAKE, *words], capture_output=True, text=True, check=False, env={**own, "PATH": path, **environment}
    )


def configured(build, *words, **environment):
    pybind = f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"
    python = f"-DPython_EXECUTABLE={sys.executable}"
    return cmake(f"-S{ROOT}", f"-B{build}", "-GNinja", python, pybind, *words, **environment)


@pytest.fixture
def nvcc(tmp_path):
    """Makes an nvcc of a version, whose compilations end with an error."""

    def make(version):
        script = tmp_path / "nvcc"
        told = f"Cuda compilation tools, release {version}, V{version}.119"
        lines = ["#!/bin/sh", '[ "$1" = --version ] && echo "' + told + '" && exit', f"echo '{TOO_OLD}' >&2", "exit 1"]
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        script.chmod(0o755)
        return script

    return make


@pytest.mark.parametrize(
    ("version", "architectures"),
    [
        ("10.2", ""),
        ("11.5", "80"),
        ("11.8", "80-real;90"),
        ("12.0", "80-real;90a-real;90-virtual"),
        ("12.4", "80-real;90a-real;90-virtual"),
        ("12.8", "80-real;90a-real;100;120-real"),
        ("13.0", "80-real;90a-real;100;120-real"),
    ],
)
def test_an_nvcc_compiles_for_what_it_knows(version, architectures, nvcc, tmp_path):
    script = tmp_path / "ask.cmake"
    script.write_text(
        f"include({ROOT}/cmake/cuda.cmake)\nscvae_fast_nvcc_version({nvcc(version)} version)\n"
        'scvae_fast_cuda_architectures("${version}" found)\nmessage("found=${version}=${found}=")\n',
        encoding="utf-8",
    )
    assert f"found={version}={architectures}=" in cmake("-P", script).stderr


def test_where_nvcc_refuses_the_compiler_the_build_is_for_the_cpu(nvcc, tmp_path):
    done = configured(tmp_path / "build", CUDACXX=str(nvcc("11.5")))
    assert done.returncode == 0, done.stderr
    expected = f"nvcc 11.5 can't compile here: {TOO_OLD} (exit status 1)"
    assert f"{expected}: building for the CPU only" in done.stdout
    rules = (tmp_path / "build" / "build.ninja").read_text(encoding="utf-8")
    assert "SCVAE_FAST_WITHOUT_CUDA=" in rules
    assert "unsupported GNU version" in rules
    asked = configured(tmp_path / "other", "-DSCVAE_FAST_CUDA=ON", CUDACXX=str(nvcc("11.5")))
    assert asked.returncode != 0
    assert "SCVAE_FAST_CUDA=1 requests the CUDA sources, but nvcc 11.5 can't" in re.sub(r"\s+", " ", asked.stderr)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize(
    ("words", "environment", "architectures"),
    [
        ((), {"CUDAARCHS": "86-real"}, "86-real"),
        (("-DCMAKE_CUDA_ARCHITECTURES=80-real;90",), {"CUDAARCHS": "86-real"}, "80-real;90"),
    ],
)
def test_the_builder_says_what_to_compile_for(words, environment, architectures, tmp_path):
    done = configured(tmp_path, *words, **environment)
    assert done.returncode == 0, done.stderr
    cache = (tmp_path / "CMakeCache.txt").read_text(encoding="utf-8")
    assert re.search(r"^CMAKE_CUDA_ARCHITECTURES:\w+=(.*)$", cache, re.MULTILINE)[1] == architectures
    assert architectures.replace(";", " ") in (tmp_path / "build.ninja").read_text(encoding="utf-8")


@pytest.mark.skipif("avx2" not in native.instruction_sets(), reason="no processor with kernels of its own")
@pytest.mark.parametrize("refused", [{"avx512": "v4"}, {"avx512": "v4", "avx2": "v3"}])
def test_kernels_are_left_out_where_the_compiler_does_not_know_their_instructions(refused, tmp_path):
    compiler = tmp_path / "c++"
    cases = "|".join(f"-march=x86-64-{version}" for version in refused.values())
    lines = [
        "#!/bin/sh",
        f"for word; do case $word in {cases}) echo unknown >&2; exit 1 ;; esac; done",
        'exec c++ "$@"',
    ]
    compiler.write_text("\n".join(lines) + "\n", encoding="utf-8")
    compiler.chmod(0o755)
    done = configured(tmp_path / "build", "-DSCVAE_FAST_CUDA=OFF", f"-DCMAKE_CXX_COMPILER={compiler}")
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "build" / "build.ninja").read_text(encoding="utf-8")
    (told,) = re.findall(r'SCVAE_FAST_LEFT_OUT=(?:\\"|")+([^"\\]*)', rules)
    assert told == ", ".join(f"{isa} (the compiler refuses -march=x86-64-{v})" for isa, v in refused.items())
    for isa, flag in (("avx512", "v4"), ("avx2", "v3")):
        line = f"the compiler refuses -march=x86-64-{flag}: the {isa} kernels are left out"
        assert (line in done.stdout) == (isa in refused)
        assert (f"kernels_{isa}.cpp.o:" in rules) == (isa not in refused)
        assert (f"-DSCVAE_FAST_WITH_{isa.upper()}" in rules) == (isa not in refused)
    # What is left links without them: the table of kernels names no others.
    objects = "CMakeFiles/scvae_fast_cpu.dir/csrc/cpu/isa.cpp.o"
    built = cmake("--build", tmp_path / "build", "--target", objects)
    assert built.returncode == 0, built.stdout
    symbols = subprocess.run(["nm", tmp_path / "build" / objects], capture_output=True, text=True, check=True).stdout
    for isa in ("avx512", "avx2"):
        assert (isa in symbols) == (isa not in refused)
    assert "portable" in symbols
