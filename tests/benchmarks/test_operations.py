"""A measured case: right results only, gradients among them, and figures that follow from the problem."""

import pytest
import torch

from benchmarks import memory, operations, problems, rivals
from benchmarks.cases import BACKWARD, BOTH, DIRECTIONS, FORWARD, OPERATIONS, Case
from benchmarks.rivals import CLEAN, COMPILED, PRODUCTS, RELEASED


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(operations, "SAMPLE_SECONDS", {"cpu": 1e-6})
    monkeypatch.setattr(operations, "MOST_ROUNDS", 2)


def case_of(op, direction, **changes):
    settings = {
        "rows": 24,
        "n_iter": 2,
        "density": 0.2,
        "atoms": 128,
        "start": "paper" if op == "LISTA" else "official",
    }
    return Case(op, direction, **{**settings, **changes})


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_contestant_is_correct_and_timed(op, direction):
    found = operations.measure(case_of(op, direction), "cpu", 0)
    # So few rows are decoded by PyTorch if nobody asks for a backend.
    rivals_of = {CLEAN, PRODUCTS, "eager"} if op == "decode" else {RELEASED, CLEAN, PRODUCTS}
    assert found["wrong"] == {}
    assert found["chosen"] == ("eager" if op == "decode" else "cpu")
    assert [set(sample) for sample in found["samples"]] == [rivals_of | {"cpu"}] * 2
    assert all(seconds > 0 for sample in found["samples"] for seconds in sample.values())
    gradients = {name for name in found["errors"]["cpu"] if name.startswith("∂")}
    assert bool(gradients) == (direction != FORWARD)
    assert set(found["kept"] if direction != FORWARD else rivals_of | {"cpu"}) == set(found["errors"]) | (
        {PRODUCTS} if direction == FORWARD else set()
    )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype):
    found = operations.measure(case_of("sparse_code", BOTH, dtype=dtype), "cpu", 0)
    assert "cpu" not in found["wrong"]
    assert max(found["errors"]["cpu"].values()) < {"float64": 1e-12, "bfloat16": 0.02, "float16": 2e-3}[dtype]


def test_a_wrong_result_is_not_timed(monkeypatch):
    def wrong(op, backend, p, a):
        z, x_hat = honest(op, backend, p, a)
        return z, 1.001 * x_hat

    honest = rivals.operation
    monkeypatch.setattr(rivals, "operation", wrong)
    found = operations.measure(case_of("sparse_code", FORWARD), "cpu", 0)
    assert found["wrong"]["cpu"].startswith("x̂: error 1.0e-03, allowed")
    assert all("cpu" not in sample for sample in found["samples"])


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    honest = rivals.operation
    monkeypatch.setattr(rivals, "operation", lambda *of: tuple(map(Doubled.apply, honest(*of))))
    found = operations.measure(case_of("lista", BACKWARD), "cpu", 0)
    assert "∂b: error 1.0e+00" in found["wrong"]["cpu"]


def test_a_contestant_without_enough_memory_is_left_out_with_the_reason(monkeypatch):
    case = case_of("lista", BOTH, rows=4096)
    released = 4 * (4096 * 128 * (6 * 3 + 8) + 8 * 128**2)
    monkeypatch.setattr(memory, "there_is", lambda device: released - 1)
    found = operations.measure(case, "cpu", 0)
    assert found["left out"] == {RELEASED: "released formula needs about 0 GiB of memory, 0 GiB may be used"}
    assert set(found["samples"][0]) == {CLEAN, "cpu", PRODUCTS}
    monkeypatch.setattr(memory, "there_is", lambda device: 1000)
    assert set(operations.measure(case, "cpu", 0)) == {"left out"}


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own
def test_compiled_rivals_take_part():
    found = operations.measure(case_of("lista", FORWARD, compiled="default", rows=8), "cpu", 0)
    assert {RELEASED + COMPILED, CLEAN + COMPILED} <= set(found["samples"][0])
    assert found["wrong"] == {}


def test_arithmetic_and_traffic_of_dense_codes():
    M, K, T = 24, 128, 2
    found = operations.measure(case_of("lista", FORWARD, density=1.0), "cpu", 0)
    assert found["useful multiply-adds"] == M * K * K * T
    assert found["least bytes"] == 4 * (M * K + K * K + 1 + M * K)
    assert found["densities"] == [1.0] * 3


def test_bare_products_are_those_of_the_formula():
    counted = []
    real = torch.mm

    def mm(a, b, out):
        counted.append(a.shape[0] * a.shape[1] * b.shape[1])
        return real(a, b, out=out)

    case = case_of("sparse_code", BOTH)
    run = rivals.bare_products(case, problems.problem(case))
    torch.mm, before = mm, torch.mm
    try:
        run()
    finally:
        torch.mm = before
    M, K, n, T = 24, 128, 64, 2
    assert sum(counted) == 3 * T * M * K * K + 6 * M * n * K
