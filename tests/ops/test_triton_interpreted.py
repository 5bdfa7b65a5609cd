"""The Triton kernels by Triton's interpreter, on the CPU: a process interprets kernels or compiles them, for good."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from processes import run

HERE = Path(__file__).resolve().parent

pytestmark = [
    pytest.mark.nested,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton on this platform"),
]


@pytest.mark.parametrize("name", ["fused", "triton", "fuzz", "lista", "sparse_code", "decode", "autograd", "trial"])
def test_kernels_hold_interpreted(name):
    folder = HERE.parent / "transforms" if name == "autograd" else HERE
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton", str(folder / f"test_{name}.py")]
    # The interpreter computes with NumPy, which warns of the NaN and infinity that some cases are about.
    quiet = ["-W", "ignore:invalid value encountered:RuntimeWarning"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    printed = run(sys.executable, *command, *quiet, env=environment, cwd=HERE.parent.parent)
    assert "passed" in printed
    assert "skipped" not in printed
