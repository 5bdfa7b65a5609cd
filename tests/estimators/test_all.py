"""All estimators: scikit-learn's own checks, pipelines and searches, errors."""

import os
import pickle
import sys

import numpy as np
import processes
import pytest
from digits import atoms
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from scvae_fast.errors import UsageError
from scvae_fast.estimators import LassoCoder, LISTACoder, OnlineDictionaryLearning

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
