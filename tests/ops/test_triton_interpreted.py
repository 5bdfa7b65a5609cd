"""The Triton kernels by Triton's interpreter, on the CPU: a process interprets kernels or compiles them, for good."""

import importlib.util

import pytest
from processes import run_tests_of_kernels

pytestmark = [
    pytest.mark.nested,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton on this platform"),
]


def test_kernels_hold_interpreted():
    # The interpreter computes with NumPy, which warns of the NaN and infinity that some cases are about.
    quiet = ("-W", "ignore:invalid value encountered:RuntimeWarning")
    run_tests_of_kernels("triton", *quiet, TRITON_INTERPRET="1")
