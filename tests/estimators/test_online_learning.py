"""`OnlineDictionaryLearning` against scikit-learn's, and against planted atoms."""

import pickle

import numpy as np
import pytest
from digits import atoms, objectives
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode

from scvae_fast.estimators import LassoCoder, OnlineDictionaryLearning


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
