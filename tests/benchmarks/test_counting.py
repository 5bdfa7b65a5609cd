"""Useful arithmetic, against loops that do every multiply-add and look at its factors."""

import itertools

import pytest
import torch

from benchmarks import counting


def by_loops(iterates: list[torch.Tensor], op: str, n: int) -> tuple[int, int]:
    """(forward, backward), counted one multiply-add at a time."""
    T, (M, K) = len(iterates) - 1, iterates[0].shape
    encodes, decodes = op not in ("lista", "decode"), op not in ("lista", "LISTA")
    forward = backward = 0
    for m in range(M):
        z = [[bool(code) for code in codes[m]] for codes in iterates]
        for _feature, atom in itertools.product(range(n), range(K)):
            if encodes:
                forward += 1  # b
                backward += 2  # ∂x, ∂W_e
            if decodes:
                forward += z[T][atom]  # x̂
                backward += 1 + z[T][atom]  # g_T, ∂D
        for t, j, k in itertools.product(range(T if op != "decode" else 0), range(K), range(K)):
            forward += z[t][j]  # z_t Sᵀ
            backward += z[t + 1][k]  # ĝ_{t+1} S
            backward += z[t + 1][k] and z[t][j]  # ∂S
    return forward, backward


@pytest.mark.parametrize("op", ["sparse_code", "lista", "decode", "LISTA", "DictionaryLISTA"])
@pytest.mark.parametrize("n_iter", [0, 1, 3])
def test_agrees_with_loops(op, n_iter):
    iterates = [torch.randn(3, 6) * (torch.rand(3, 6) < p) for p in (0.9, 0.5, 0.2, 0.4)[: n_iter + 1]]
    assert counting.useful(iter(iterates), op, n_features=4)[:2] == by_loops(iterates, op, n=4)


def test_dense_codes_need_every_multiply_add():
    M, K, n, T = 2, 5, 3, 4
    counted = counting.useful([torch.ones(M, K)] * (T + 1), "sparse_code", n)
    assert counted.forward == 2 * M * n * K + T * M * K * K
    assert counted.backward == 4 * M * n * K + 2 * T * M * K * K
    assert counted.densities == [1.0] * (T + 1)
    assert sum(counted.densities[:-1]) == T


def test_without_a_start_there_is_nothing_to_count():
    with pytest.raises(ValueError, match="useful: iterates must hold z_0 at least, got none"):
        counting.useful([], "lista", 3)
