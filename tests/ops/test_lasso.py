"""lasso: the optimum over a dictionary, with a certificate."""

import pytest
import torch

from scvae_fast import dictionaries, lasso, lista


def problem(dtype=torch.float64):
    D = dictionaries.random_unit(9, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.randn(4, 5, 9, dtype=dtype), D


@pytest.mark.parametrize("algorithm", ["fista", "ista"])
def test_optimality_conditions_hold(algorithm):
    x, D = problem()
    codes, gap = lasso(x, D, 0.3, tol=1e-12, max_iter=20_000, algorithm=algorithm)
    assert codes.shape == (4, 5, 20)
    assert gap.shape == (4, 5)
    assert (gap <= 1e-12).all()
    correlations = (x - codes @ D.T) @ D
    assert (correlations.abs() <= 0.3 + 1e-5).all()
    torch.testing.assert_close(correlations[codes != 0], 0.3 * codes[codes != 0].sign(), atol=1e-5, rtol=0)


def test_the_gap_bounds_what_is_missing():
    x, D = problem()

    def objective(z):
        return 0.5 * (x - z @ D.T).square().sum(-1) + 0.3 * z.abs().sum(-1)

    best = objective(lasso(x, D, 0.3, tol=1e-13, max_iter=50_000).codes)
    for n_iter in (0, 4, 40):
        codes, gap = lasso(x, D, 0.3, tol=0, max_iter=n_iter, algorithm="ista")
        missing = objective(codes) - best
        assert (gap * 0.5 * x.square().sum(-1) >= missing - 1e-10).all()
        assert (missing >= -1e-10).all()


def test_without_a_tolerance_ista_is_lista():
    x, D = problem()
    c = torch.linalg.matrix_norm(D, 2) ** 2
    expected = lista(x @ D / c, torch.eye(20, dtype=D.dtype) - D.T @ D / c, 0.3 / c, 7)
    torch.testing.assert_close(lasso(x, D, 0.3, tol=0, max_iter=7, algorithm="ista").codes, expected)


def test_empty_batches_and_zeros():
    x, D = problem(torch.float32)
    codes, gap = lasso(x[:0], D, 0.3)
    assert codes.shape == (0, 5, 20)
    assert gap.shape == (0, 5)
    codes, gap = lasso(torch.zeros(9), D, 0.3)
    assert not codes.any()
    assert gap == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "lasso: x must be a torch.Tensor"),
        (
            {"x": torch.ones(2, 9, dtype=torch.bfloat16), "D": torch.ones(9, 3, dtype=torch.bfloat16)},
            TypeError,
            "float32",
        ),
        ({"D": torch.ones(8, 3, dtype=torch.float64)}, ValueError, r"lasso: D must be \(n, K\) with 9 rows"),
        ({"D": torch.zeros(9, 3, dtype=torch.float64)}, ValueError, "lasso: D must be finite and not zero"),
        ({"alpha": 0.0}, ValueError, "lasso: alpha must be a finite number > 0"),
        ({"tol": -1.0}, ValueError, "lasso: tol must be a finite number >= 0"),
        ({"max_iter": -1}, ValueError, "lasso: max_iter must be at least 0"),
        ({"algorithm": "cd"}, ValueError, "lasso: algorithm must be one of"),
        ({"x": torch.ones(2, 9, dtype=torch.float64, requires_grad=True)}, ValueError, "lasso: it has no gradient"),
    ],
)
def test_wrong_arguments(changes, error, message):
    x, D = problem()
    with pytest.raises(error, match=message):
        lasso(**{"x": x, "D": D, "alpha": 0.3, **changes})
