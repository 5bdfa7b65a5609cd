"""The gate that a result passes before it is timed."""

import math

import torch

from benchmarks import gate

EXACT = torch.tensor([3.0, 4.0], dtype=torch.float64)


def test_error_is_relative_to_the_exact_result_or_a_scale():
    assert gate.error(EXACT + torch.tensor([0.0, 0.5]), EXACT) == 0.1
    assert gate.error(EXACT + torch.tensor([0.0, 0.5]), EXACT, scale=2 * EXACT) == 0.05
    assert gate.errors({"z": 2 * EXACT, "unknown": EXACT}, {"z": EXACT, "missing": EXACT}) == {"z": 1.0}


def test_only_zero_is_correct_if_the_exact_result_is_zero():
    zero = torch.zeros(3, dtype=torch.float64)
    assert gate.error(zero, zero) == 0
    assert gate.error(zero + 1e-9, zero) > 1
    assert math.isnan(gate.error(zero * torch.nan, zero))


def test_errors_above_twice_the_reference_and_nan_fail():
    found = {"reference": {"z": 1e-2, "x̂": 1.0}, "as good": {"z": 1.5e-2}, "worse": {"z": 3e-2}, "nan": {"z": math.nan}}
    assert gate.failures(found, "reference", torch.float32) == {
        "worse": "z: error 3.0e-02, allowed 2.0e-02",
        "nan": "z: error nan, allowed 2.0e-02",
    }


def test_a_single_number_gets_a_larger_limit():
    found = {"reference": {"∂theta": 0.0}, "ours": {"∂theta": 2e-5}}
    assert gate.failures(found, "reference", torch.float32) != {}
    assert gate.failures(found, "reference", torch.float32, lenient=["∂theta"]) == {}
    found["ours"]["∂theta"] = 4e-5
    assert gate.failures(found, "reference", torch.float32, lenient=["∂theta"]) != {}
