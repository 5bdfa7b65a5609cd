"""`LassoCoder` against scikit-learn's solver and the optimality conditions."""

import warnings

import numpy as np
import pytest
import torch
from digits import atoms, objectives
from scipy.sparse import issparse
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from scvae_fast import sparse_code
from scvae_fast.estimators import LassoCoder
from scvae_fast.ops.lasso_solver import Lasso, solve


@pytest.mark.parametrize("alpha", [0.05, 0.4])
@pytest.mark.parametrize("norms", [1.0, 3.0])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("algorithm", [None, "fista"])
def test_codes_have_the_objective_of_scikit_learns(digits, alpha, norms, positive, algorithm):
    X, D = digits[1], norms * atoms(96)
    coder = LassoCoder(
        D, alpha=alpha, positive=positive, transform_algorithm=algorithm, transform_tol=1e-7, transform_max_iter=5000
    )
    found = coder.fit(X).transform(X)
    ours = objectives(X, D, found, alpha)
    codes = sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, max_iter=50_000, positive=positive)
    theirs = objectives(X, D, codes, alpha)
    assert (ours <= theirs * (1 + 1e-6)).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # scikit-learn 1.7 stops earlier than later versions
    assert coder.score(X) == pytest.approx(-ours.mean())
    assert (found >= 0).all() == positive


@pytest.mark.parametrize("algorithm", ["cd", "fista", "ista"])
def test_codes_are_within_the_stated_gap_and_satisfy_the_optimality_conditions(digits, algorithm):
    X, D, alpha = digits[1], atoms(96), 0.2
    coder = LassoCoder(D, alpha=alpha, transform_algorithm=algorithm, transform_max_iter=20_000)
    best = objectives(X, D, sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, max_iter=50_000), alpha)
    energy = 0.5 * np.square(X).sum(1)
    loose = coder.set_params(transform_tol=1e-2).fit(X).transform(X)
    assert (objectives(X, D, loose, alpha) - best <= 1e-2 * energy).all()
    assert (objectives(X, D, loose, alpha) - best).max() > 1e-6
    z = coder.set_params(transform_tol=1e-12).fit(X).transform(X)
    correlations = (X - z @ D) @ D.T
    np.testing.assert_allclose(correlations[z != 0], alpha * np.sign(z[z != 0]), atol=1e-5)
    assert np.abs(correlations).max() <= alpha + 1e-5


def test_duality_gap_bounds_the_suboptimality(digits):
    X, D = torch.from_numpy(digits[1]), torch.from_numpy(atoms(96)).T
    problem = Lasso.over(D, 0.2)
    best = problem.objective(X, solve(problem, X, algorithm="fista", max_iter=5000, tol=1e-12)[0])
    for n_iter in (0, 3, 30):
        z, gap = solve(problem, X, algorithm="ista", max_iter=n_iter, tol=0)
        assert torch.equal(gap, problem.relative_gap(X, z))
        missing = problem.objective(X, z) - best
        assert (problem.relative_gap(X, z) * 0.5 * X.square().sum(1) >= missing - 1e-10).all()
        assert (missing > 1e-4).any()


@pytest.mark.parametrize("n_iter", [0, 7])
def test_without_a_tolerance_it_equals_ista(digits, n_iter):
    X, D, alpha = torch.from_numpy(digits[1]), torch.from_numpy(atoms(96)).T, 0.1
    c = torch.linalg.matrix_norm(D, ord=2) ** 2
    z, x_hat = sparse_code(X, D.T / c, torch.eye(96, dtype=D.dtype) - D.T @ D / c, alpha / c, D, n_iter)
    coder = LassoCoder(
        D.T, alpha=alpha, transform_algorithm="ista", transform_max_iter=n_iter, transform_tol=0, sparse_output=True
    )
    codes = coder.fit(X).transform(X)
    assert issparse(codes)
    np.testing.assert_allclose(codes.toarray(), z, atol=1e-12)
    np.testing.assert_allclose(coder.inverse_transform(codes), x_hat, atol=1e-12)


def test_rows_do_not_depend_on_each_other_or_on_the_pieces(digits, monkeypatch):
    X = digits[1].copy()
    X[::2] *= 1e-3  # these end at 0, at once
    coder = LassoCoder(atoms(96), alpha=0.1).fit(X)
    whole = coder.transform(X)
    assert not whole[::2].any()
    monkeypatch.setattr("scvae_fast.estimators._base._ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(coder.transform(X), whole, atol=1e-9)
    assert coder.score(X) == pytest.approx(-objectives(X, atoms(96), whole, 0.1).mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["cd", "fista", "ista"])
def test_codes_scale_with_data_and_alpha(digits, dtype, algorithm):
    """However small or large they are; by powers of two exactly."""
    X, D = digits[1].astype(dtype), atoms(96)

    def codes(scale):
        coder = LassoCoder(D, alpha=0.125 * scale, transform_algorithm=algorithm, transform_max_iter=5000)
        return coder.fit(X).transform(X * dtype(scale)) / dtype(scale), coder.score(X * dtype(scale)) / scale**2

    z, score = codes(1.0)
    assert 0.01 < (z != 0).mean() < 0.9
    for exponent in (-76, -33, 33, 66):
        scaled, scaled_score = codes(2.0**exponent)
        assert np.array_equal(scaled, z)
        assert scaled_score == pytest.approx(score, rel=1e-5)
    for scale in (1e-23, 1e20):
        scaled, _ = codes(scale)
        np.testing.assert_allclose(scaled, z, atol=2e-2 * np.abs(z).max())


def test_rows_far_from_alpha_are_solved_or_reported(digits):
    """Squares of their entries, or of α, overflow in float32, or vanish."""
    X = digits[1][:20].astype(np.float32)
    for scale in (1e-30, 1e25, 1e30):
        coder = LassoCoder(atoms(96), alpha=0.1, transform_max_iter=200).fit(X)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            z = coder.transform(X * np.float32(scale))
        if scale < 1:
            assert not z.any()
            assert not caught
        elif caught:
            assert "20 of 20 rows did not reach a duality gap" in str(caught[0].message)
        else:
            left = (X - z.astype(np.float64) / scale @ atoms(96)).astype(np.float64)
            assert (np.square(left).sum(1) <= 1e-3 * np.square(X).sum(1)).all()


def test_unfinished_rows_are_reported(digits):
    coder = LassoCoder(atoms(96), alpha=0.1, transform_max_iter=2, transform_tol=1e-9).fit(digits[1])
    with pytest.warns(ConvergenceWarning, match=r"LassoCoder: 200 of 200 rows did not reach a duality gap of 1e-09"):
        codes = coder.transform(digits[1])
    assert np.isfinite(codes).all()


def test_search_by_the_objective(digits):
    coder = LassoCoder(alpha=0.2)
    search = GridSearchCV(coder, {"dictionary": [atoms(64), atoms(64, seed=1) * 2]}, cv=2).fit(digits[1])
    np.testing.assert_array_equal(search.best_params_["dictionary"], atoms(64, seed=1) * 2)  # longer atoms cost less
