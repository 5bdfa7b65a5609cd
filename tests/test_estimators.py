"""scikit-learn's interface: its own checks, the lasso against its solvers, and life in pipelines and searches."""

import os
import pickle
import sys
import warnings

import numpy as np
import processes
import pytest
import torch
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from scvae_fast import dictionaries, sparse_code
from scvae_fast.errors import UsageError
from scvae_fast.estimators import LassoCoder, LISTACoder, OnlineDictionaryLearning
from scvae_fast.ops.lasso_solver import Lasso, solve

CHECKED = [
    LassoCoder(),
    LassoCoder(transform_algorithm="ista"),
    LassoCoder(positive=True, transform_algorithm="fista"),
    LISTACoder(epochs=2),
    OnlineDictionaryLearning(max_iter=3),
    OnlineDictionaryLearning(max_iter=3, positive_code=True, positive_dict=True),
]


@parametrize_with_checks(CHECKED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_the_check_that_scikit_learn_skips_without_the_array_api():
    script = (
        "from sklearn.utils.estimator_checks import check_array_api_input\n"
        "from scvae_fast.estimators import *\n"
        "for each in LassoCoder(), LISTACoder(epochs=2), OnlineDictionaryLearning(max_iter=3):\n"
        "    check_array_api_input(type(each).__name__, each, 'numpy')\n"
        "print('passed')"
    )
    assert processes.run(sys.executable, "-c", script, env={**os.environ, "SCIPY_ARRAY_API": "1"}) == "passed\n"


@pytest.fixture(scope="module")
def digits():
    X = load_digits().data / 16
    X -= X.mean(0)
    return X[:600], X[600:800]


def atoms(n_components, dtype=np.float64, seed=0):
    D = dictionaries.random_unit(64, n_components, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return D.T.numpy().astype(dtype)


def objectives(X, atoms, codes, alpha):
    """½‖x − Dz‖² + α‖z‖₁ of each row."""
    return 0.5 * np.square(X - codes @ atoms).sum(1) + alpha * np.abs(codes).sum(1)


# The lasso


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


def test_positive_codes_and_atoms_are_learned(digits):
    X = np.abs(digits[0])
    learner = OnlineDictionaryLearning(
        24, alpha=0.3, positive_code=True, positive_dict=True, random_state=0, max_iter=5
    )
    codes = learner.fit(X).transform(X)
    assert (codes >= 0).all()
    assert (learner.components_ >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(learner.components_, axis=1), 1)
    assert learner.error_[-1] < learner.error_[0]
    theirs = sparse_encode(X, learner.components_, algorithm="lasso_cd", alpha=0.3, positive=True, max_iter=50_000)
    best = objectives(X, learner.components_, theirs, 0.3).mean()
    assert -learner.score(X) == pytest.approx(best, rel=1e-3)


def test_the_error_of_a_pass_is_over_the_dictionary_that_rows_met(digits):
    learner = OnlineDictionaryLearning(24, alpha=0.3, dict_init=atoms(24), batch_size=600, max_iter=1, random_state=0)
    before = LassoCoder(atoms(24), alpha=0.3).fit(digits[0]).score(digits[0])
    assert learner.fit(digits[0]).error_[0] == pytest.approx(-before, rel=1e-6)


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


def test_learning_scales_with_data_and_alpha(digits):
    X = digits[1].astype(np.float32)

    def learned(scale):
        learner = OnlineDictionaryLearning(24, alpha=0.125 * scale, max_iter=3, random_state=0)
        return learner.fit(X * np.float32(scale))

    expected = learned(1.0)
    for exponent in (-76, 66):
        found = learned(2.0**exponent)
        assert np.array_equal(found.components_, expected.components_)
        np.testing.assert_allclose(found.error_ / 4.0**exponent, expected.error_, rtol=1e-6)


def test_arrays_of_any_strides(digits):
    """Turned round, sliced, in Fortran's order or read-only; dictionaries too."""
    X, D = digits[1].astype(np.float32), atoms(96).astype(np.float32)
    frozen = X.copy()
    frozen.flags.writeable = False
    expected = LassoCoder(D, alpha=0.1).fit(X).transform(X)
    for given in (X[::-1][::-1], X[:, ::-1][:, ::-1], np.asfortranarray(X), np.repeat(X, 2, 1)[:, ::2], frozen):
        assert np.array_equal(LassoCoder(D[::-1][::-1], alpha=0.1).fit(given).transform(given), expected)
    turned = LassoCoder(D[:, ::-1], alpha=0.1).fit(X[:, ::-1])
    np.testing.assert_allclose(turned.transform(X[:, ::-1]), expected, atol=1e-3)
    np.testing.assert_allclose(turned.inverse_transform(expected[::-1])[::-1, ::-1], expected @ D, atol=1e-4)
    learner = OnlineDictionaryLearning(8, max_iter=1, random_state=0).fit(X[::-1, ::-1])
    assert learner.transform(X[::-1, ::-1]).shape == (len(X), 8)
    coder = LISTACoder(D, alpha=0.1, epochs=1, random_state=0).fit(X[::-1, ::-1])
    assert coder.transform(X[::-1, ::-1]).shape == (len(X), 96)


def test_unfinished_rows_are_reported(digits):
    coder = LassoCoder(atoms(96), alpha=0.1, transform_max_iter=2, transform_tol=1e-9).fit(digits[1])
    with pytest.warns(ConvergenceWarning, match=r"LassoCoder: 200 of 200 rows did not reach a duality gap of 1e-09"):
        codes = coder.transform(digits[1])
    assert np.isfinite(codes).all()


# Learning dictionaries


def test_learned_dictionary_is_as_good_as_scikit_learns(digits):
    (train, held_out), alpha = digits, 0.3
    ours = OnlineDictionaryLearning(48, alpha=alpha, random_state=0).fit(train)
    theirs = MiniBatchDictionaryLearning(
        48, alpha=alpha, fit_algorithm="cd", transform_algorithm="lasso_cd", random_state=0
    ).fit(train)
    np.testing.assert_allclose(np.linalg.norm(ours.components_, axis=1), 1)
    their_atoms = theirs.components_ / np.linalg.norm(theirs.components_, axis=1, keepdims=True)
    found = [
        objectives(held_out, D, sparse_encode(held_out, D, algorithm="lasso_cd", alpha=alpha, max_iter=20_000), alpha)
        for D in (ours.components_, their_atoms)
    ]
    assert found[0].mean() <= 1.01 * found[1].mean()
    assert ours.n_iter_ == len(ours.error_) > 1
    assert ours.error_[-1] < ours.error_[0]
    assert ours.n_steps_ == 3 * ours.n_iter_
    assert ours.score(held_out) == pytest.approx(-found[0].mean(), rel=1e-3)


@pytest.mark.slow
def test_planted_atoms_are_found_again():
    random = np.random.RandomState(0)
    planted = random.standard_normal((12, 20))
    planted /= np.linalg.norm(planted, axis=1, keepdims=True)
    codes = random.standard_normal((1000, 12)) * (random.uniform(size=(1000, 12)) < 0.1)
    learner = OnlineDictionaryLearning(12, alpha=0.2, batch_size=64, tol=0, max_iter=20, random_state=1)
    learner.fit(codes @ planted)
    assert (np.abs(learner.components_ @ planted.T).max(0) > 0.99).all()


def test_batches_one_by_one_learn_as_well(digits):
    train, held_out = digits
    learner = OnlineDictionaryLearning(48, alpha=0.3, random_state=0)
    scores = []
    for start in [*range(0, 600, 100)] * 3:
        learner.partial_fit(train[start : start + 100])
        scores.append(learner.score(held_out))
    assert learner.n_steps_ == 18
    assert scores[-1] > scores[0]
    again = pickle.loads(pickle.dumps(learner)).partial_fit(train[:100])
    np.testing.assert_array_equal(again.components_, learner.partial_fit(train[:100]).components_)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("count", [3, 37])
@pytest.mark.parametrize("compiled", [False, True])
def test_one_round_over_the_atoms_minimises_each_in_turn(monkeypatch, positive, count, compiled):
    from scvae_fast.estimators.online_learning import _update_atoms, native

    assert native.missing is None
    monkeypatch.setattr(native, "missing", None if compiled else "tried without")
    random = np.random.RandomState(0)
    x, z = random.standard_normal((50, 5)), random.standard_normal((50, count))
    found = atoms(64)[:count, :5].copy()
    if positive:
        x, z, found = np.abs(x), np.abs(z), np.abs(found)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    expected = found.copy()
    for atom in range(count):
        others = x - z @ expected + np.outer(z[:, atom], expected[atom])
        # ‖others − z d‖² over ‖d‖ = 1 is least where d is along othersᵀ z, or its positive part.
        best = np.maximum(others.T @ z[:, atom], 0 if positive else -np.inf)
        if best.any():
            expected[atom] = best / np.linalg.norm(best)
    _update_atoms(found, z.T @ z, z.T @ x, positive)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_unused_atoms_are_replaced(digits):
    start = atoms(40)
    start[9] = np.eye(64)[0]  # the first pixel is 0 in all digits
    unused = LassoCoder(start, alpha=0.3).fit(digits[0]).transform(digits[0]).any(0) == 0
    assert unused[9]
    learner = OnlineDictionaryLearning(40, alpha=0.3, dict_init=start, random_state=0, max_iter=1).fit(digits[0])
    assert learner.transform(digits[0]).any(0).all()
    kept = OnlineDictionaryLearning(40, alpha=0.3, dict_init=start, random_state=0).partial_fit(digits[0])
    # What takes its place are rows of the batch.
    rows = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    assert (kept.components_[unused] @ rows.T).max(1) == pytest.approx(1)


def test_learning_goes_on_with_atoms_of_another_dtype(digits):
    one, other = (OnlineDictionaryLearning(40, alpha=0.3, random_state=0).partial_fit(digits[0]) for _ in range(2))
    other.components_ = other.components_.astype(np.float32)
    for learner in (one, other):
        learner.partial_fit(digits[0])
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-4)


def test_more_atoms_than_rows_and_rows_of_zeros():
    X = np.zeros((4, 3), np.float32)
    learner = OnlineDictionaryLearning(6, random_state=0).fit(X)
    assert learner.components_.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(learner.components_, axis=1), 1, rtol=1e-6)
    assert not learner.transform(X).any()


# The network


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_network_beats_ista_of_as_many_iterations(digits, dtype):
    train, held_out = (X.astype(dtype) for X in digits)
    D, alpha, n_iter = atoms(96, dtype), 0.1, 4
    network = LISTACoder(D, alpha=alpha, n_iter=n_iter, epochs=15, random_state=0).fit(train)
    ista = LassoCoder(D, alpha=alpha, transform_algorithm="ista", transform_max_iter=n_iter, transform_tol=0).fit(train)
    exact = LassoCoder(D, alpha=alpha).fit(train)
    assert network.error_[0] == pytest.approx(-ista.score(train), rel=1e-4)
    assert -network.score(train) == pytest.approx(network.error_.min(), rel=1e-4)
    assert exact.score(held_out) > network.score(held_out)
    # It closes a good part of the gap that is left to ISTA.
    left = [exact.score(held_out) - each.score(held_out) for each in (network, ista)]
    assert left[0] < 0.7 * left[1]
    assert network.transform(held_out).dtype == dtype


METHODS = ("lista", "lista-cp", "tilista", "alista", "slista")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(digits, method):
    coder = LISTACoder(atoms(96), alpha=0.1, method=method, n_iter=4, epochs=5, random_state=0).fit(digits[0])
    assert coder.error_.min() < coder.error_[0]
    assert -coder.score(digits[0]) == pytest.approx(coder.error_.min(), rel=1e-6)
    with torch.no_grad():
        codes = coder.network_(torch.from_numpy(digits[1]))
    np.testing.assert_allclose(coder.transform(digits[1]), codes.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_training_follows_the_units_of_the_data(digits, method):
    coder = LISTACoder(atoms(96), method=method, n_iter=3, epochs=2, random_state=0)
    first, second = (
        clone(coder).set_params(alpha=0.1 * unit).fit(unit * digits[0]).transform(unit * digits[1])
        for unit in (1, 1024)
    )
    np.testing.assert_allclose(second, 1024 * first, rtol=1e-6, atol=1e-6)


def test_a_wild_learning_rate_leaves_ista(digits):
    wild = LISTACoder(atoms(96), alpha=0.1, n_iter=3, epochs=1, learning_rate=10.0, random_state=0).fit(digits[0])
    ista = LISTACoder(atoms(96), alpha=0.1, n_iter=3, epochs=0).fit(digits[0])
    assert not wild.error_[1] < wild.error_[0]
    np.testing.assert_array_equal(wild.transform(digits[1]), ista.transform(digits[1]))


# In scikit-learn's company


@pytest.mark.parametrize("estimator", CHECKED, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("sparse_output", [False, True])
def test_float32_stays_float32(digits, estimator, sparse_output):
    X = digits[1].astype(np.float32)
    fitted = clone(estimator).set_params(alpha=0.2, sparse_output=sparse_output).fit(X)
    codes = fitted.transform(X)
    assert issparse(codes) is sparse_output
    assert codes.dtype == fitted.inverse_transform(codes).dtype == np.float32
    assert fitted.transform(digits[1]).dtype == np.float64


@pytest.mark.parametrize("estimator", CHECKED, ids=lambda each: type(each).__name__)
def test_pickles_and_names(digits, estimator):
    fitted = clone(estimator).set_params(alpha=0.2).fit(digits[1])
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(digits[1]), fitted.transform(digits[1]))
    names = fitted.get_feature_names_out()
    assert list(names[:2]) == [f"{type(estimator).__name__.lower()}{i}" for i in range(2)]
    assert len(names) == 64
    table = fitted.set_output(transform="pandas").transform(digits[1])
    assert list(table.columns) == list(names)


def test_pipeline_classifies_digits_and_a_search_runs_over_it():
    X, y = load_digits(return_X_y=True)
    X, y = X[:500], y[:500]
    pipeline = make_pipeline(
        StandardScaler(with_std=False),
        OnlineDictionaryLearning(64, alpha=2.0, random_state=0, max_iter=2),
        LogisticRegression(max_iter=500),
    )
    search = GridSearchCV(pipeline, {"onlinedictionarylearning__alpha": [2.0, 1e5]}, cv=2).fit(X, y)
    assert search.best_params_ == {"onlinedictionarylearning__alpha": 2.0}  # α = 1e5 makes all codes 0
    assert search.best_score_ > 0.85
    assert pickle.loads(pickle.dumps(search)).predict(X[:5]).shape == (5,)


def test_search_by_the_objective(digits):
    coder = LassoCoder(alpha=0.2)
    search = GridSearchCV(coder, {"dictionary": [atoms(64), atoms(64, seed=1) * 2]}, cv=2).fit(digits[1])
    np.testing.assert_array_equal(search.best_params_["dictionary"], atoms(64, seed=1) * 2)  # longer atoms cost less


# Errors


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LassoCoder(alpha=0), "LassoCoder: alpha must be a number > 0, got 0"),
        (LassoCoder(alpha=True), "LassoCoder: alpha must be a number > 0, got True"),
        (LISTACoder(alpha=float("nan")), "LISTACoder: alpha must be a number > 0, got nan"),
        (
            LassoCoder(transform_algorithm="lars"),
            r"LassoCoder: transform_algorithm must be None or one of .*, got 'lars'",
        ),
        (LassoCoder(transform_tol=-1), "LassoCoder: transform_tol must be a number >= 0, got -1"),
        (LassoCoder(transform_max_iter=1.5), "LassoCoder: transform_max_iter must be a whole number >= 0, got 1.5"),
        (LISTACoder(n_iter=True), "LISTACoder: n_iter must be a whole number >= 0, got True"),
        (LISTACoder(method="fista"), "LISTACoder: method must be one of lista, lista-cp, .*, got 'fista'"),
        (LISTACoder(learning_rate="fast"), "LISTACoder: learning_rate must be a number > 0, got 'fast'"),
        (LassoCoder(positive="yes"), "LassoCoder: positive must be True or False, got 'yes'"),
        (OnlineDictionaryLearning(positive_dict=1), "OnlineDictionaryLearning: positive_dict must be True or False"),
        (OnlineDictionaryLearning(4, positive_dict=True, dict_init=-np.eye(4, 64)), "dict_init must be non-negative"),
        (OnlineDictionaryLearning(0), "OnlineDictionaryLearning: n_components must be a whole number >= 1, got 0"),
        (OnlineDictionaryLearning(batch_size=0), "batch_size must be a whole number >= 1, got 0"),
        (OnlineDictionaryLearning(5, dict_init=np.eye(4, 64)), "dict_init must have 5 atoms, none of them zero, got 4"),
        (
            LassoCoder(np.zeros((9, 64))),
            r"dictionary must be .* = \(K, 64\), an atom a row, and no atom zero, got \(9, 64",
        ),
        (LISTACoder(np.ones((9, 65))), r"dictionary must be .* = \(K, 64\), .*, got \(9, 65\)"),
    ],
)
def test_bad_parameters(digits, estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(digits[1])
    with pytest.raises(NotFittedError):
        estimator.transform(digits[1])


def test_bad_device_and_bad_codes(digits):
    with pytest.raises(UsageError, match="'sofa' is not a device"):
        LassoCoder(device="sofa").fit(digits[1])
    with pytest.raises(ValueError, match="LassoCoder: X must have a column for each of the 64 atoms, got 3"):
        LassoCoder().fit(digits[1]).inverse_transform(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": -1.0}, "alpha must be a number > 0, got -1.0"),
        ({"transform_algorithm": "CD"}, "transform_algorithm must be None or one of"),
        ({"transform_tol": -1}, "transform_tol must be a number >= 0, got -1"),
        ({"transform_max_iter": 1.5}, "transform_max_iter must be a whole number >= 0"),
    ],
)
def test_parameters_set_after_fit_are_checked(digits, changed, message):
    for estimator in (LassoCoder(atoms(64), alpha=0.5), OnlineDictionaryLearning(8, alpha=0.5, max_iter=1)):
        fitted = estimator.fit(digits[0][:50]).set_params(**changed)
        with pytest.raises(ValueError, match=message):
            fitted.transform(digits[1][:5])


def test_units_of_the_data_do_not_matter_to_the_network(digits):
    X = digits[0][:200].astype(np.float64)
    coder = LISTACoder(atoms(64), alpha=0.5, epochs=1, random_state=0)
    expected = coder.fit(X).transform(X)
    for unit in (2.0**530, 2.0**-530):
        coder.set_params(alpha=0.5 * unit)
        np.testing.assert_allclose(coder.fit(X * unit).transform(X * unit) / unit, expected, atol=1e-9)
