"""The iteration is ISTA: it solves the lasso ½‖x − Dz‖² + λ‖z‖₁, without reference to another implementation."""

import itertools

import pytest
import torch
from problems import BACKENDS
from sklearn.decomposition import sparse_encode

from scvae_fast import dictionaries, sparse_code

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
DICTIONARIES = {
    "random": lambda: dictionaries.random_unit(16, 40, dtype=torch.float64),
    "dct": lambda: dictionaries.dct(16, 36, dtype=torch.float64),
}


def ista(x, D, lmbda, n_iter, backend, z0=None):
    c = torch.linalg.matrix_norm(D, ord=2) ** 2
    S = torch.eye(D.shape[1], dtype=D.dtype) - D.T @ D / c
    z, _ = sparse_code(x, D.T / c, S, lmbda / c, D, n_iter, z0=z0, backend=backend)
    return z


def optimality_residual(x, D, lmbda, z):
    """Largest distance of Dᵀ(x − Dz) from λ ∂‖z‖₁: 0 exactly at a solution of the lasso."""
    correlation = (x - z @ D.T) @ D
    on_support = (correlation - lmbda * z.sign()).abs()
    off_support = (correlation.abs() - lmbda).clamp_min(0)
    return torch.where(z != 0, on_support, off_support).max()


@EVERY_BACKEND
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_residual_falls_to_the_fixed_point(backend, kind):
    D = DICTIONARIES[kind]()
    x, lmbda = torch.randn(6, 16, dtype=torch.float64), 0.4
    residuals, z = [], None
    for _ in range(4):
        z = ista(x, D, lmbda, 1500, backend, z0=z)
        residuals.append(float(optimality_residual(x, D, lmbda, z)))
    start = float(optimality_residual(x, D, lmbda, ista(x, D, lmbda, 0, backend)))
    assert residuals[0] < 1e-2 * start
    assert residuals[-1] < 1e-9
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(residuals))
    assert 0 < (z != 0).double().mean() < 0.5


@EVERY_BACKEND
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_objective_falls_with_every_iteration(backend, kind):
    D = DICTIONARIES[kind]()
    x, lmbda = torch.randn(6, 16, dtype=torch.float64), 0.4

    def objective(z):
        return float(0.5 * (x - z @ D.T).square().sum() + lmbda * z.abs().sum())

    values = [objective(ista(x, D, lmbda, n, backend)) for n in range(12)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


@EVERY_BACKEND
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_objective_is_scikit_learns(backend, kind):
    D = DICTIONARIES[kind]()
    x, lmbda = torch.randn(8, 16, dtype=torch.float64), 0.4
    z = ista(x, D, lmbda, 4000, backend)
    theirs = torch.from_numpy(
        sparse_encode(x.numpy(), D.T.contiguous().numpy(), algorithm="lasso_cd", alpha=lmbda, max_iter=100_000)
    )

    def objective(codes):
        return 0.5 * (x - codes @ D.T).square().sum(1) + lmbda * codes.abs().sum(1)

    torch.testing.assert_close(objective(z), objective(theirs), rtol=1e-5, atol=0)
    assert (objective(z) <= objective(theirs) * (1 + 1e-9)).all()


@EVERY_BACKEND
def test_orthogonal_dictionary_needs_no_iteration(backend):
    D = dictionaries.orthogonal_dct(9, dtype=torch.float64)
    x = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(ista(x, D, 0.3, 4, backend), ista(x, D, 0.3, 0, backend))
