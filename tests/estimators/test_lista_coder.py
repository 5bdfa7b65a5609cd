"""`LISTACoder` between ISTA and the optimum."""

import numpy as np
import pytest
import torch
from digits import atoms
from sklearn.base import clone

from scvae_fast.estimators import LassoCoder, LISTACoder


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


def test_units_of_the_data_do_not_matter_to_the_network(digits):
    X = digits[0][:200].astype(np.float64)
    coder = LISTACoder(atoms(64), alpha=0.5, epochs=1, random_state=0)
    expected = coder.fit(X).transform(X)
    for unit in (2.0**530, 2.0**-530):
        coder.set_params(alpha=0.5 * unit)
        np.testing.assert_allclose(coder.fit(X * unit).transform(X * unit) / unit, expected, atol=1e-9)


def test_a_wild_learning_rate_leaves_ista(digits):
    wild = LISTACoder(atoms(96), alpha=0.1, n_iter=3, epochs=1, learning_rate=10.0, random_state=0).fit(digits[0])
    ista = LISTACoder(atoms(96), alpha=0.1, n_iter=3, epochs=0).fit(digits[0])
    assert not wild.error_[1] < wild.error_[0]
    np.testing.assert_array_equal(wild.transform(digits[1]), ista.transform(digits[1]))
