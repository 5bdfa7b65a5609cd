"""Useful arithmetic, against loops that do every multiply-add and look at its factors."""

import itertools

import pytest
import torch

from benchmarks import cases, counting
from benchmarks.cases import Case


def by_loops(iterates: list[torch.Tensor], n: int) -> tuple[int, int]:
    """(forward, backward), counted one multiply-add at a time."""
    T, (M, K) = len(iterates) - 1, iterates[0].shape
    forward = backward = 0
    for m in range(M):
        z = [[bool(code) for code in codes[m]] for codes in iterates]
        for _feature, _atom in itertools.product(range(n), range(K)):
            forward += 1  # b
            backward += 3  # ∂x, ∂W_e, g_T
        for _feature, atom in itertools.product(range(n), range(K)):
            forward += z[T][atom]  # x̂
            backward += z[T][atom]  # ∂D
        for t, j, k in itertools.product(range(T), range(K), range(K)):
            forward += z[t][j]  # z_t Sᵀ
            backward += z[t + 1][k]  # ĝ_{t+1} S
            backward += z[t + 1][k] and z[t][j]  # ∂S
    return forward, backward


@pytest.mark.parametrize("n_iter", [0, 1, 3])
def test_agrees_with_loops(n_iter):
    iterates = [torch.randn(3, 6) * (torch.rand(3, 6) < p) for p in (0.9, 0.5, 0.2, 0.4)[: n_iter + 1]]
    assert counting.useful(iter(iterates), n_features=4)[:2] == by_loops(iterates, n=4)


def test_dense_codes_need_every_multiply_add():
    M, K, n, T = 2, 5, 3, 4
    counted = counting.useful([torch.ones(M, K)] * (T + 1), n)
    assert counted.forward == 2 * M * n * K + T * M * K * K
    assert counted.backward == 4 * M * n * K + 2 * T * M * K * K
    assert counted.densities == [1.0] * (T + 1)
    assert counted.iterated_density == T


def test_without_a_start_there_is_nothing_to_count():
    with pytest.raises(ValueError, match="useful: iterates must hold z_0 at least, got none"):
        counting.useful([], 3)


def test_iterates_end_in_the_codes_of_the_case():
    case = Case(rows=16, n_iter=3, density=0.2, official=True)
    t = cases.tensors(case)
    iterates = list(cases.iterates(t, case.n_iter))
    assert len(iterates) == 4
    torch.testing.assert_close(iterates[-1], cases.released(t, case.n_iter)[0])
