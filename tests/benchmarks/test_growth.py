"""Exponents of growth: exact power laws are found, noise shows in the error."""

import random
from pathlib import Path

import benchmark_results as made
import pytest

from benchmarks.cases import FORWARD, Case
from benchmarks.report import growth


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_finds_the_exponent_of_a_power_law(exponent: float) -> None:
    sizes = [1, 16, 256, 4096]
    found = growth.fit(sizes, [3e-4 * size**exponent for size in sizes])
    assert found.exponent == pytest.approx(exponent, abs=1e-12)
    assert found.factor == pytest.approx(3e-4)
    assert found.error == pytest.approx(0, abs=1e-7)
    assert found.at(1024) == pytest.approx(3e-4 * 1024**exponent)


def test_the_error_tells_how_far_noise_can_carry_the_exponent() -> None:
    drawn = random.Random(3)
    sizes = [2**i for i in range(12)]
    within = 0
    for _ in range(200):
        found = growth.fit(sizes, [size * 2 ** drawn.gauss(0, 0.3) for size in sizes])
        within += abs(found.exponent - 1) < found.error
    assert 110 < within < 155  # of 200, two thirds lie within a standard error; a little less for few points


@pytest.mark.parametrize(("sizes", "seconds"), [([1, 2], [1, 2]), ([1, 2, 2], [1, 2, 2]), ([1, 2, 3], [1, 2, 0])])
def test_refuses_what_has_no_exponent_with_an_error(sizes: list[int], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="growth"):
        growth.fit(sizes, seconds)


def test_series_hold_what_differs_in_one_size_alone(tmp_path: Path) -> None:
    results = made.everything(tmp_path)
    found = growth.series(results)
    assert {(s.axis, s.shared["direction"]) for s in found} == {
        ("M", "forward"),
        ("M", "both"),
        ("T", "forward"),
        ("T", "both"),
        ("K", "forward"),
    }
    over_T = next(s for s in found if s.axis == "T")
    assert list(over_T.seconds["cpu"]) == [5, 16, 30]
    assert over_T.fits["cpu"].exponent == pytest.approx(1)
    assert over_T.fits["clean eager"].exponent == pytest.approx(0, abs=1e-12)


def test_too_few_sizes_make_no_series(tmp_path: Path) -> None:
    cases = [Case("lista", FORWARD, rows=M) for M in (1, 16, 256)]
    members = [made.timed(cases[0]), made.timed(cases[1]), made.of(cases[2], raised="Traceback\nMemoryError: no")]
    assert growth.series(made.results(tmp_path, {"rows": members})) == []
