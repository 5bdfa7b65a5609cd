"""The errors against float64, and what comes of bad options."""

import json

import pytest
import torch

import scvae_fast
from benchmarks import accuracy, run

NAMES = ["codes", "x̂", "∂x", "∂W_e", "∂S", "∂theta", "∂D", "∂gain"]


def test_prints_and_writes_a_line_for_each_backend_and_number_of_iterations(tmp_path, capsys):
    words = ["--device", "cpu", "--rows", "48", "--n-iter", "0", "3", "--json", str(tmp_path / "out.json")]
    assert accuracy.main(words) == 0
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["T"], r["backend"]) for r in results] == [(T, name) for T in (0, 3) for name in ("cpu", "eager")]
    for result in results:
        assert list(result["errors"]) == NAMES
        assert all(0 <= error < 1e-5 for error in result["errors"].values())
        assert 24 < result["M"] <= 48
        assert result["errors"]["codes"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(results)


def test_rows_where_a_rounding_could_switch_a_code_are_left_out():
    t = accuracy.problem("cpu", torch.float32, 48, 2)
    assert not accuracy.near_a_tie(t.double(), 2).any()
    first = torch.zeros_like(t.W_e[0]).double()
    first[0] = t.theta.double() / (t.W_e[0, 0].double() * t.gain.double())  # a drive at its threshold
    assert accuracy.near_a_tie(t.double()._replace(x=first[None]), 0).all()
    assert len(accuracy.problem("cpu", torch.float16, 48, 2).x) == 48


def test_what_is_wrong_shows(monkeypatch):
    def wrong(backend, t, n_iter):
        z, x_hat = fused(backend, t, n_iter)
        return z, x_hat if backend == "eager" else 1.5 * x_hat

    fused = run.fused
    monkeypatch.setattr(run, "fused", wrong)
    found = accuracy.errors(accuracy.problem("cpu", torch.float32, 32, 1), 1)
    assert found["cpu"]["x̂"] == pytest.approx(0.5, rel=1e-3)
    assert found["cpu"]["∂D"] == pytest.approx(0.5, rel=1e-3)
    assert found["cpu"]["codes"] < 1e-5
    assert found["eager"]["x̂"] < 1e-5


def test_backends_that_decline_a_dtype_are_left_out():
    assert set(accuracy.takers("cpu", torch.float16)) == {"eager"}
    assert set(accuracy.takers("cpu", torch.float32)) <= set(scvae_fast.backends())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "--rows must be at least 1"),
        (["--n-iter", "-1"], "--n-iter at least 0"),
        pytest.param(
            ["--device", "cuda"],
            "torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_bad_options_end_with_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        accuracy.main(words)
    assert message in capsys.readouterr().err
