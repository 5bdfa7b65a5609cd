"""The plans: names are unique, plans cover all promised axes, and results files lead back to the cases."""

import pytest

from benchmarks import cases
from benchmarks.cases import (
    BACKWARD,
    BOTH,
    DIRECTIONS,
    EXTENTS,
    FORWARD,
    Case,
    DictionaryLearningCase,
    LassoCase,
    MemoryCase,
    ModelCase,
    ParityCase,
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("extent", EXTENTS)
def test_names_tell_cases_apart_and_lead_back_to_them(device, extent):
    groups = cases.plan(device, extent)
    every = {case for members in groups.values() for case in members}
    assert len(cases.by_name(groups)) == len(every) > 0
    for case in every:
        assert cases.cases_of({"kind": type(case).__name__, "settings": case._asdict()}) == case


def ops(device, extent):
    return [case for case in cases.by_name(cases.plan(device, extent)).values() if isinstance(case, Case)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_full_plan_has_every_axis(device):
    found = ops(device, "full")
    values = {field: {getattr(case, field) for case in found} for field in Case._fields}
    assert values["op"] == set(cases.OPERATIONS)
    assert values["direction"] == set(DIRECTIONS)
    assert values["n_iter"] >= {5, 16, 30}
    assert {1, 2**20} <= values["rows"]
    assert values["atoms"] >= {128, 512, 2048}
    assert {0.02, 1.0} <= values["density"]
    assert values["dtype"] == {"float64", "float32", "bfloat16", "float16"}
    assert values["dictionary"] == {"dct", "random"}
    assert "default+max-autotune" in values["compiled"]
    kinds = {type(case) for case in cases.by_name(cases.plan(device, "full")).values()}
    assert kinds >= {Case, LassoCase, ModelCase, ParityCase}
    assert (MemoryCase in kinds) == (DictionaryLearningCase in kinds) == (device == "cpu")


def test_the_quick_plan_is_the_layer_alone():
    assert {(case.op, case.direction) for case in ops("cpu", "quick")} == {
        ("DictionaryLISTA", FORWARD),
        ("DictionaryLISTA", BOTH),
    }


def test_names_are_for_people():
    case = Case("lista", BACKWARD, rows=16, density=0.02, atoms=128, dictionary="random")
    assert case.name == "lista-backward-M16-T5-d0.02-K128-float32-random-official"
    assert case.features == 64
    assert ModelCase(FORWARD, "pictures64").name == "model-inference-pictures64-B8-SSGC-released"


def test_a_case_of_another_version_is_refused():
    with pytest.raises(KeyError):
        cases.cases_of({"kind": "Unknown", "settings": {}})
    with pytest.raises(TypeError):
        cases.cases_of({"kind": "Case", "settings": {"colour": 1}})
