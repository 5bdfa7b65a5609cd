"""Dictionary learning as it is measured: everyone starts alike and learns; who takes part; what is reported."""

import numpy as np
import pytest

from benchmarks import dictionary_learning, run
from benchmarks.cases import DictionaryLearningCase
from benchmarks.dictionary_learning import OURS, SKLEARN

SMALL = DictionaryLearningCase(batches=20, batch=32, side=4, atoms=20)


def test_the_problem_is_the_same_each_time_and_its_atoms_are_patches():
    p, again = (dictionary_learning.problem(SMALL) for _ in range(2))
    assert p.x.shape == (640, 16)
    assert p.start.shape == (20, 16)
    np.testing.assert_array_equal(p.x, again.x)
    np.testing.assert_array_equal(p.start, again.start)
    np.testing.assert_allclose(np.linalg.norm(p.start, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate(p.batches()), p.x)
    cosines = p.start @ (p.x / np.linalg.norm(p.x, axis=1, keepdims=True).clip(1e-30)).T
    np.testing.assert_allclose(cosines.max(1), 1, rtol=1e-5)
    assert len(np.unique(p.start, axis=0)) == 20


def test_the_objective_is_that_of_the_lasso():
    p = dictionary_learning.problem(SMALL)
    square = np.eye(16, dtype=np.float32)
    shrunk = np.sign(p.x) * np.maximum(np.abs(p.x) - p.lmbda, 0)  # the codes over an orthonormal dictionary
    expected = (0.5 * np.square(p.x - shrunk).sum(1) + p.lmbda * np.abs(shrunk).sum(1)).mean()
    assert p.objective(square) == pytest.approx(float(expected), rel=1e-5)


def test_everyone_learns():
    found = run.measure(SMALL, "cpu", 0)
    # Without SPAMS, which takes part only where the user has installed it.
    assert {name for name in found["efforts"] if not name.startswith("SPAMS")} == {OURS, SKLEARN}
    assert set(found["efforts"]) == set(found["samples"][0])
    assert all(0 < effort["objective"] < 0.9 * found["start"] for effort in found["efforts"].values())
    assert found["chosen"] == OURS


def test_a_learner_is_left_as_the_others_find_it():
    p = dictionary_learning.problem(SMALL)
    before = p.start.copy()
    for learn in dictionary_learning.learners().values():
        first = learn(p)
        np.testing.assert_array_equal(p.start, before)
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-3)
