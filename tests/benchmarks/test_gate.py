"""The gate that a result passes before it is timed."""

import math

import torch

from benchmarks import gate

EXACT = torch.tensor([3.0, 4.0], dtype=torch.float64)


def test_error_is_relative_to_what_is_exact_or_to_a_scale():
    assert gate.error(EXACT + torch.tensor([0.0, 0.5]), EXACT) == 0.1
    assert gate.error(EXACT + torch.tensor([0.0, 0.5]), EXACT, scale=2 * EXACT) == 0.05
    assert gate.errors({"z": 2 * EXACT, "unknown": EXACT}, {"z": EXACT, "missing": EXACT}) == {"z": 1.0}


def test_zero_is_right_where_all_is_zero_and_nothing_else_is():
    zero = torch.zeros(3, dtype=torch.float64)
    assert gate.error(zero, zero) == 0
    assert gate.error(zero + 1e-9, zero) > 1
    assert math.isnan(gate.error(zero * torch.nan, zero))


def test_who_is_worse_than_twice_the_reference_fails_and_so_does_nan():
    found = {"reference": {"z": 1e-2, "x̂": 1.0}, "as good": {"z": 1.5e-2}, "worse": {"z": 3e-2}, "nan": {"z": math.nan}}
    assert gate.failures(found, "reference", torch.float32) == {
        "worse": "z: error 3.0e-02, allowed 2.0e-02",
        "nan": "z: error nan, allowed 2.0e-02",
    }


def test_a_single_number_may_be_less_lucky():
    found = {"reference": {"∂theta": 0.0}, "ours": {"∂theta": 2e-5}}
    assert gate.failures(found, "reference", torch.float32) != {}
    assert gate.failures(found, "reference", torch.float32, lenient=["∂theta"]) == {}
    found["ours"]["∂theta"] = 4e-5
    assert gate.failures(found, "reference", torch.float32, lenient=["∂theta"]) != {}
