"""The networks of the LISTA family: the loop and the call that replaces it are the same function."""

import pytest
import torch

from benchmarks import cases, family
from benchmarks.cases import BOTH, FORWARD, FamilyCase
from benchmarks.family import LOOP, NETWORKS

EVERY_FORM = pytest.mark.parametrize("form", NETWORKS)


def small(form, direction=BOTH):
    return FamilyCase(form, direction, rows=9, n_iter=3, density=0.3, atoms=24, features=8)


@EVERY_FORM
def test_the_call_is_the_loop(form):
    case = small(form)
    a = {name: t.double() for name, t in family.tensors(case, "cpu", 9, family.threshold(case, "cpu")).items()}
    torch.testing.assert_close(NETWORKS[form].ours(a, case, "cpu"), NETWORKS[form].loop(a, case))


@EVERY_FORM
@pytest.mark.parametrize("direction", [FORWARD, BOTH])
def test_every_contestant_is_correct_and_timed(form, direction):
    found = family.measure(small(form, direction), "cpu", 0)
    assert found["wrong"] == {}
    assert found["chosen"] == "cpu"
    assert set(found["samples"][0]) == {LOOP, "cpu"} == set(found["errors"])
    assert ("∂theta" in found["errors"]["cpu"]) == (direction == BOTH)
    assert 0.1 < found["densities"][-1] < 0.5


def test_a_wrong_contestant_is_not_timed(monkeypatch):
    case = small("non-negative FISTA", FORWARD)
    right = NETWORKS[case.form]
    monkeypatch.setitem(NETWORKS, case.form, right._replace(ours=lambda a, case, backend: 1.01 * right.loop(a, case)))
    found = family.measure(case, "cpu", 0)
    assert set(found["wrong"]) == {"cpu"}
    assert set(found["samples"][0]) == {LOOP}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_standard_plan_has_every_form(device):
    assert {case.form for case in cases.plan(device, "standard")["family"]} == set(NETWORKS)
