"""Comparison of lasso solvers: they solve the lasso, with no more iterations than needed."""

import pytest
import torch
from sklearn.linear_model import Lasso as ScikitLasso

from benchmarks import lasso
from benchmarks.cases import LassoCase
from benchmarks.lasso import FISTA, ISTA, ITSELF, OUR_FISTA, OURS, SKLEARN, fewest

SMALL = LassoCase(rows=12, side=4, overcomplete=2, lmbda=0.5, dictionary="random")


def test_the_optimum_is_scikit_learns_and_certified():
    p = lasso.problem(SMALL, "cpu")
    assert p.x.shape == (12, 16)
    torch.testing.assert_close(p.x.mean(1), torch.zeros(12), atol=1e-5, rtol=0)
    best, gap = lasso.optimum(p)
    assert 0 <= gap < 1e-6
    solver = ScikitLasso(alpha=p.lmbda / 16, fit_intercept=False, tol=1e-10, max_iter=100_000)
    z = torch.from_numpy(solver.fit(p.D.double().numpy(), p.x.double().numpy().T).coef_)
    assert p.objective(z) == pytest.approx(best, rel=1e-6)


def test_every_solver_reaches_the_gap():
    found = lasso.measure(SMALL, "cpu", 0)
    # Without SPAMS, which takes part only where the user has installed it.
    efforts = {name for name in found["efforts"] if not name.startswith("SPAMS")}
    assert efforts == {OURS, OUR_FISTA, FISTA, "ISTA, cpu", ISTA, SKLEARN}
    assert set(found["efforts"]) == set(found["samples"][0])
    assert all(effort["gap"] <= 1.01e-4 for effort in found["efforts"].values())
    assert found["efforts"][FISTA]["iterations"] < found["efforts"][ISTA]["iterations"]
    assert 0 < found["density"] < 1


def test_a_solver_that_misses_the_gap_has_no_time(monkeypatch):
    monkeypatch.setattr(lasso, "MOST_ITERATIONS", 2)
    monkeypatch.setattr(lasso, "optimum", lambda p: (1.0, 0.0))
    found = lasso.measure(SMALL, "cpu", 0)
    assert found["samples"][0] == {}
    assert all(effort["gap"] > 1e-4 for effort in found["efforts"].values())
    assert all(e["iterations"] == (None if name in ITSELF else 2) for name, e in found["efforts"].items())


def test_gaussian_rows_are_for_solvers_alone():
    case = SMALL._replace(data="gaussian", loops=False)
    p = lasso.problem(case, "cpu")
    assert p.x.shape == (12, 16)
    assert 0.7 < float(p.x.std()) < 1.3
    found = lasso.measure(case, "cpu", 0)
    assert {name for name in found["efforts"] if not name.startswith("SPAMS")} == {OURS, OUR_FISTA, SKLEARN}


def test_iterations_are_found_with_a_part_of_the_rows_and_do_for_all(monkeypatch):
    monkeypatch.setattr(lasso, "_ROWS_OF_SEARCH", 2)
    found = lasso.measure(SMALL._replace(loops=False), "cpu", 0)
    assert found["efforts"][OUR_FISTA]["iterations"] > 1
    assert all(effort["gap"] <= 1.01e-4 for effort in found["efforts"].values())


def test_who_takes_too_long_is_left_out_and_who_takes_long_is_timed_once(monkeypatch):
    monkeypatch.setattr(lasso, "ONCE", 0.0)
    found = lasso.measure(SMALL._replace(loops=False), "cpu", 0)
    assert found["left out"] == {}
    assert {OURS, OUR_FISTA, SKLEARN} <= set(found["samples"][0])
    assert not any(found["samples"][1:])
    monkeypatch.setattr(lasso, "MOST_SECONDS", 0.0)
    found = lasso.measure(SMALL._replace(loops=False), "cpu", 0)
    assert {OURS, OUR_FISTA, SKLEARN} <= set(found["left out"])
    assert all("more than 0 s" in why for why in found["left out"].values())
    assert not any(found["samples"])


@pytest.mark.parametrize("needed", [1, 2, 3, 37, 64, 65, 1000])
def test_the_fewest_iterations_are_found_to_within_a_sixteenth(needed):
    n, reached = fewest(lambda n: torch.tensor(float(n)), lambda z: 0.0 if z >= needed else 1.0, 0.5)
    assert reached == 0.0
    assert needed <= n <= max(needed + 1, needed * 1.13)
