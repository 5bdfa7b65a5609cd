"""The GPU benchmark: a trial run where kernels are interpreted, its gate, and what comes of bad options."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cases, gpu, run
from benchmarks.gpu import Setting

ROOT = Path(__file__).resolve().parent.parent.parent
SETTING = Setting("float32", 20, 2, run.BOTH)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton on this platform")
def test_trial_run(tmp_path):
    words = ["--device", "cpu", "--rows", "20", "--n-iter", "1", "--dtypes", "float32", "--rounds", "2"]
    path = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words, "--json", str(path)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(path.read_text())["results"]
    assert [result["direction"] for result in results] == [run.FORWARD, run.BOTH]
    for result in results:
        assert set(result["ms"]) == {"eager", "triton", *gpu.WAYS}
        assert all(0 < line["p20"] <= line["p50"] <= line["p80"] for line in result["ms"].values())
        assert len(result["samples"]) == 2
    kept = {name: line[gpu.BYTES_KEPT] for name, line in results[1]["ms"].items()}
    assert 0 < kept["triton"] < kept["eager"]


def test_wrong_result_gets_no_time(monkeypatch):
    def wrong(t, n_iter):
        z, x_hat = cases.released(t, n_iter)
        return z, 1.01 * x_hat

    monkeypatch.setattr(gpu, "contestants", lambda *_: {"eager": cases.released, "ours": wrong})
    result = gpu.measure(SETTING, "cpu", 2, compile_=False)
    assert result["wrong"] == ["ours"]
    assert set(result["ms"]) == {"eager"}
    assert "ours: NOT TIMED, wrong result" in gpu.line(result, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "--rows, --n-iter and --rounds must be at least 1"),
        (["--dtypes", "int8"], "invalid choice: 'int8'"),
        pytest.param(
            [], "torch finds no CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
        ),
    ],
)
def test_bad_options_end_with_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(words)
    assert message in capsys.readouterr().err
