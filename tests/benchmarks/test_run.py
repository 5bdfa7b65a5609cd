"""The program: refusals, keeping and continuing results, and the exit status."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cases, environment, operations, run
from benchmarks.cases import FORWARD, Case
from benchmarks.results import FILE, Results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"rows": 8, "n_iter": 1, "atoms": 128}
ONE, TWO = Case("lista", FORWARD, **SMALL), Case("sparse_code", FORWARD, **SMALL)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cases, "plan", lambda device, extent: {"first": [ONE], "second": [TWO, ONE]})
    monkeypatch.setattr(operations, "MOST_ROUNDS", 2)
    monkeypatch.setattr(operations, "SAMPLE_SECONDS", {"cpu": 1e-6})
    monkeypatch.setattr(run.ceilings, "measured", lambda device: {"copy": 1e10, "product": {"float32": 1e11}})


def main(*words):
    return run.main(["--device", "cpu", *map(str, words)])


def names(folder):
    return [result["name"] for result in Results.read(folder).document["results"]]


@pytest.mark.usefixtures("small")
def test_measures_every_case_once_and_reports(tmp_path, capsys):
    assert main("--out", tmp_path) == 0
    document = json.loads((tmp_path / FILE).read_text())
    assert names(tmp_path) == [ONE.name, TWO.name]
    assert document["groups"] == {"first": [ONE.name], "second": [TWO.name, ONE.name]}
    assert document["environment"]["torch"] == torch.__version__
    assert document["ceilings"]["copy"] == 1e10
    assert (tmp_path / "results.csv").exists()
    assert (tmp_path / "report.html").exists()
    assert "lista" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    honest = operations.measure

    def interrupted(case, device, seconds):
        if case.op == "sparse_code":
            raise KeyboardInterrupt
        return honest(case, device, seconds)

    monkeypatch.setattr(operations, "measure", interrupted)
    assert main("--out", tmp_path) == run.STOPPED
    assert names(tmp_path) == [ONE.name]
    measured = []
    monkeypatch.setattr(operations, "measure", lambda *of: measured.append(of[0]) or honest(*of))
    assert main("--out", tmp_path) == 0
    assert measured == [TWO]
    assert main("--out", tmp_path, "--fresh") == 0
    assert measured == [TWO, ONE, TWO]


@pytest.mark.usefixtures("small")
def test_a_case_that_raises_is_recorded_and_reported(tmp_path, monkeypatch, capsys):
    def broken(case, device, seconds):
        raise ValueError("the kernel is on holiday")

    monkeypatch.setattr(operations, "measure", broken)
    assert main("--out", tmp_path) == run.FAILED
    assert all(
        "ValueError: the kernel is on holiday" in r["raised"] for r in Results.read(tmp_path).document["results"]
    )
    assert f"{ONE.name} raised" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_a_wrong_result_is_reported(tmp_path, monkeypatch):
    honest = operations.measure
    monkeypatch.setattr(operations, "measure", lambda *of: {**honest(*of), "wrong": {"cpu": "z: error 1, allowed 0"}})
    assert main("--out", tmp_path) == run.FAILED


@pytest.mark.usefixtures("small")
def test_a_rival_that_is_wrong_is_no_failure_of_ours(tmp_path, monkeypatch, capsys):
    honest = operations.measure
    monkeypatch.setattr(operations, "measure", lambda *of: {**honest(*of), "wrong": {"clean eager": "z: error 1"}})
    assert main("--out", tmp_path) == 0
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_no_case_starts_after_the_time_limit(tmp_path):
    assert main("--out", tmp_path, "--minutes", "1e-9") == 0
    assert names(tmp_path) == []
    assert main("--out", tmp_path, "--case", "lista-*") == 0
    assert names(tmp_path) == [ONE.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--case", "M1"], "--case: no case matches 'M1'; --list prints their names"),
        (["--minutes", "0"], "--minutes must be positive, --threads at least 1"),
        (["--threads", "-2"], "--minutes must be positive, --threads at least 1"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_wrong_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(*words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_another_allocator_can_not_be_tuned(monkeypatch, capsys):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    with pytest.raises(SystemExit):
        main("--tuned-allocator")
    assert "only glibc's allocator can be tuned" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_results_of_another_kind_and_folders_that_can_not_be_written_to_are_named(tmp_path, capsys):
    (tmp_path / FILE).write_text('{"schema": "other"}')
    assert main("--out", tmp_path) == run.FAILED
    assert "has the schema 'other'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main("--out", tmp_path / "file" / "folder") == run.FAILED
    assert "file" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_list_names_the_cases(capsys):
    assert main("--list") == 0
    assert capsys.readouterr().out.split() == [ONE.name, TWO.name]


WITHOUT_EXTRAS = """
import sys
for name in ("tqdm", "matplotlib", "sklearn", "skimage", "PIL", "scipy", "lightning", "joblib"):
    sys.modules[name] = None
from benchmarks import run
from benchmarks import pictures
assert pictures.kind() == "noise"
run.ceilings.measured = lambda device: {}
sys.exit(run.main(["--device", "cpu", "--case", "lista-forward-M1-T5-d0.05-*", "--out", sys.argv[1]]))
"""


def test_runs_with_torch_and_numpy_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(names(tmp_path)) == 1
    assert "matplotlib" in done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton on this platform")
def test_gpu_kernels_take_part_where_they_can_run(tmp_path):
    case = Case("lista", FORWARD, rows=20, n_iter=1, atoms=128)
    script = (
        "from benchmarks import operations\nfrom benchmarks.cases import Case\nimport json\n"
        "operations.SAMPLE_SECONDS, operations.MOST_ROUNDS = {'cpu': 1e-6}, 2\n"
        f"print(json.dumps(operations.measure(Case(*{tuple(case)!r}), 'cpu', 0)))"
    )
    environ = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {"triton", "triton, one launch", "triton, by iteration"} <= set(found["samples"][0])
    assert found["wrong"] == {}


def test_the_environment_names_what_a_figure_depends_on():
    found = environment.environment("cpu")
    assert set(environment.DECISIVE) <= set(found)
    assert environment.device_name("cpu") in environment.heading(found)
    folder = environment.folder_name("cpu")
    assert folder == folder.lower()
    assert folder.replace("-", "").isalnum()
