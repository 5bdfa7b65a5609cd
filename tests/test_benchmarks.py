"""The benchmark program: what it refuses, what it prints, and that a wrong result has no speed."""

import json

import pytest
import torch

from benchmarks import cases, run, timing
from benchmarks.cases import Case

SMALL = Case(rows=32, n_iter=3, density=0.2, official=False)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cases, "CASES", [SMALL])


def test_cases_have_the_density_asked_for():
    for density in (0.05, 0.5):
        case = Case(rows=512, n_iter=4, density=density, official=True)
        z, _ = cases.released(cases.tensors(case), case.n_iter)
        assert abs(float((z != 0).float().mean()) - density) < 0.03


def test_rivals_compute_the_same():
    t = cases.tensors(SMALL)
    for ours, theirs in zip(cases.clean(t, 3), cases.released(t, 3), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_rounds_are_interleaved_and_ratios_paired():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    samples = list(timing.interleaved(runs, rounds=3, warmup=1))
    assert "".join(calls) == "abababab"
    assert len(samples) == 3
    drifting = [{"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, {"a": 3.0, "b": 3.0}]
    assert timing.speedups(drifting, over="b") == {"a": 2.0, "b": 1.0}
    assert timing.medians(drifting) == {"a": 3.0, "b": 3.0}


def test_prints_a_row_for_each_direction_and_writes_every_sample(tmp_path, capsys):
    assert run.main(["--case", SMALL.name, "--rounds", "2", "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(SMALL.name) == 2
    assert "forward and backward" in printed
    document = json.loads((tmp_path / "out.json").read_text())
    (result,) = document["results"]
    assert result["case"] == SMALL._asdict()
    assert [len(result[what]) for what in ("forward", "forward and backward")] == [2, 2]
    assert document["environment"]["torch"] == torch.__version__


def test_wrong_result_is_reported_and_not_timed(monkeypatch, capsys):
    def wrong(t, n_iter):
        z, x_hat = cases.released(t, n_iter)
        return z, x_hat * 1.001

    honest = run.contestants()
    monkeypatch.setattr(run, "contestants", lambda: {**honest, "broken": wrong})
    assert run.main(["--rounds", "1"]) == 1
    printed = capsys.readouterr().out
    assert "NOT TIMED, wrong result: broken: error 1.0e-03" in printed
    assert " ms" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--case", "M1"], "--case: no case 'M1'; --list prints them"),
        (["--rounds", "0"], "--rounds and --threads must be at least 1"),
        (["--threads", "-2"], "--rounds and --threads must be at least 1"),
    ],
)
def test_bad_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_list_names_the_cases(capsys):
    assert run.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [SMALL.name]
