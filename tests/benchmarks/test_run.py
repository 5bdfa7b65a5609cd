"""The benchmark program: what it refuses, what it prints, and that a wrong result has no speed."""

import json
import platform

import pytest
import torch

from benchmarks import cases, program, run
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


def test_gain_of_the_paper_is_none_and_that_of_the_released_code_c():
    assert cases.tensors(SMALL).gain is None
    official = cases.tensors(SMALL._replace(official=True))
    assert official.gain == pytest.approx(float(torch.linalg.matrix_norm(official.D.double(), ord=2)) ** 2, rel=1e-5)


def test_training_step_gives_the_gradients_of_all_arguments_but_the_gain():
    found = {}

    def rival(t, n_iter):
        for name, tensor in t._asdict().items():
            found[name] = tensor.requires_grad
        return cases.released(t, n_iter)

    run.training_step(rival, cases.tensors(SMALL._replace(official=True)), 2)
    assert found == {"x": True, "W_e": True, "S": True, "theta": True, "D": True, "gain": False}


def test_tuned_allocator_is_used_in_a_new_process_and_recorded(tmp_path, capfd, monkeypatch):
    monkeypatch.undo()  # the new process knows the real cases
    out = tmp_path / "out.json"
    case = Case(rows=256, n_iter=5, density=0.05, official=False)
    words = ["--case", case.name, "--rounds", "1", "--threads", "1", "--json", str(out), "--tuned-allocator"]
    assert run.main(words) == 0
    assert "1 thread," in (printed := capfd.readouterr().out)
    assert "tuned allocator" in printed
    assert json.loads(out.read_text())["environment"]["allocator"] == program.TUNED


def test_other_allocators_cannot_be_tuned(monkeypatch, capsys):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(SystemExit):
        run.main(["--tuned-allocator"])
    assert "--tuned-allocator: only glibc's allocator can be tuned" in capsys.readouterr().err
