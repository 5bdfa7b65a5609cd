"""The sweep: its problems have the density asked for, nothing is left out silently, losing shapes are named."""

import json

import pytest
import torch

from benchmarks import budget, formulas, sweep, sweep_cases
from benchmarks.run import BOTH, CLEAN, FORWARD, RELEASED
from benchmarks.sweep_cases import SweepCase

CASE = SweepCase("lista", rows=8, atoms=16, n_iter=2, threads=1, what=FORWARD, density=0.5)
SMALL = ["--rows", "1", "8", "--atoms", "8", "16", "--density", "0", "0.5", "1", "--n-iter", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sweep, "SAMPLE_SECONDS", 1e-6)
    monkeypatch.setattr(sweep, "MOST_ROUNDS", 3)


@pytest.mark.parametrize("op", ["lista", "sparse_code"])
@pytest.mark.parametrize("density", [0, 0.02, 0.1, 0.5, 0.75, 1])
def test_every_iterate_has_the_density_asked_for(op, density):
    case = CASE._replace(op=op, rows=128, atoms=256, n_iter=5, density=density)
    found = [formulas.density(codes) for codes in sweep_cases.iterates(sweep_cases.arguments(case), 5)]
    assert len(found) == 6
    assert found == pytest.approx([density] * 6, abs=0.02 if 0 < density < 1 else 0)


def test_times_every_case_and_writes_every_sample(tmp_path, capsys):
    threads = torch.get_num_threads()
    assert sweep.main([*SMALL, "--json", str(tmp_path / "out.json")]) == 0
    assert torch.get_num_threads() == threads
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len({SweepCase(**result["case"]) for result in results}) == len(results) == 2 * 2 * 2 * 2 * 3
    for result in results:
        assert [set(sample) for sample in result["samples"]] == [{RELEASED, CLEAN, "cpu"}] * 3
    printed = capsys.readouterr().out
    assert "sparse_code, M = 8, K = 16, T = 2, 1 thread, forward and backward" in printed
    assert "LEFT OUT" not in printed
    assert printed.count("of 48 cases") == 2


def test_filters_choose():
    chosen = sweep.arguments(["--op", "lista", "--what", "both", *SMALL])
    cases = sweep.chosen_cases(chosen)
    assert {(case.op, case.what) for case in cases} == {("lista", BOTH)}
    sizes = [case.multiply_adds for case in cases]
    assert sizes == sorted(sizes)


def test_what_there_is_no_time_for_is_named(capsys):
    assert sweep.main([*SMALL, "--op", "lista", "--what", "forward", "--minutes", "1e-9"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("LEFT OUT: lista, M = ") == 4
    assert "LEFT OUT: lista, M = 8, K = 16, T = 2, 1 thread, forward, d = 0, 0.5, 1: it needs about" in printed
    assert "of 0 cases" in printed


def test_wrong_result_is_reported_and_not_timed(monkeypatch, capsys):
    honest = sweep_cases.contestants("lista")
    wrong = {**honest, "cpu": lambda t, n_iter: (honest[CLEAN](t, n_iter)[0] + 1e-3,)}
    monkeypatch.setattr(sweep_cases, "contestants", lambda op: wrong)
    assert sweep.main([*SMALL, "--op", "lista", "--what", "forward"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("NOT TIMED, wrong result: lista, M = ") == 12
    assert "cpu: error " in printed
    assert "of 0 cases" in printed


def test_losing_shapes_come_last_the_slowest_first(capsys):
    seconds = {0.1: 1.0, 0.2: 4.0, 0.5: 2.0, 0.75: 1.02}
    results = [
        {"case": CASE._replace(density=density)._asdict(), "samples": [{CLEAN: 1.0, "cpu": taken}] * 3}
        for density, taken in seconds.items()
    ]
    sweep.report(results)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "slower than clean eager, 0.97 to 1 times as fast: 1 of 4 cases",
        "  0.98  lista, M = 8, K = 16, T = 2, 1 thread, forward, d = 0.75",
        "",
        "slower than clean eager, below 0.97 times as fast: 2 of 4 cases",
        "  0.25  lista, M = 8, K = 16, T = 2, 1 thread, forward, d = 0.2",
        "  0.50  lista, M = 8, K = 16, T = 2, 1 thread, forward, d = 0.5",
    ]


def test_budget_learns_what_a_case_takes():
    now = [0.0]
    ten_seconds = budget.Budget(10, ceiling=1.0, clock=lambda: now[0])
    larger = CASE._replace(rows=16)
    assert "it needs about" in ten_seconds.refusal(CASE)
    ten_seconds.learn(CASE, seconds_a_round=0.5)
    assert ten_seconds.refusal(larger) is None  # (3 + 2) rounds of 2 × 0.5 s
    assert ten_seconds.refusal(larger._replace(what=BOTH)) is not None
    assert ten_seconds.share(4) == 2.5
    now[0] = 7.0
    assert ten_seconds.refusal(larger) == "it needs about 5 s, 3 s are left"
    assert ten_seconds.share(3) == 1.0


def test_the_ceiling_limits_what_small_cases_teach():
    ten_seconds = budget.Budget(10, ceiling=1e-9)
    ten_seconds.learn(CASE._replace(rows=1), seconds_a_round=1.0)
    assert ten_seconds.refusal(CASE) is None


def test_what_memory_is_too_small_for_is_left_out():
    vast = CASE._replace(rows=10**9, atoms=2048)
    assert "clean eager needs about" in budget.Budget(1e30, ceiling=1e-30).refusal(vast)
    training = CASE._replace(what=BOTH)
    assert budget.bytes_needed(training, RELEASED) > budget.bytes_needed(training, CLEAN)
    assert budget.bytes_needed(CASE, RELEASED) == budget.bytes_needed(CASE, "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "--rows must be at least 1"),
        (["--atoms", "1"], "--atoms must be at least 2"),
        (["--n-iter", "-1"], "--n-iter must be at least 0"),
        (["--density", "1.5"], "--density must be from 0 to 1"),
        (["--minutes", "0"], "--minutes must be positive"),
    ],
)
def test_bad_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        sweep.main(words)
    assert message in capsys.readouterr().err
