"""scvae-fast doctor."""

import pytest
import torch

import scvae_fast
from scvae_fast.commands import doctor
from scvae_fast.ops import native
from scvae_fast.ops.backends import trial


def test_report_says_what_is_there(capsys):
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in printed
    assert f"scvae-fast: {scvae_fast.__version__}" in printed
    assert f"threads: {torch.get_num_threads()}" in printed
    assert "eager: can be used" in printed
    assert "cpu: can be used" in printed


def test_missing_module_is_reported_with_its_reason(monkeypatch, capsys):
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "missing", "no such file")
    assert doctor.main() == 1
    captured = capsys.readouterr()
    assert "missing: no such file" in captured.out
    assert "problem: no such file" in captured.err


def test_instruction_set_that_is_not_there_is_reported(monkeypatch, capsys):
    class Unusable:
        without_cuda = "nvcc was not found"

        @staticmethod
        def build_info():
            raise RuntimeError("no such instructions")

    monkeypatch.setattr(native, "module", Unusable)
    assert doctor.main() == 1
    assert "problem: no such instructions" in capsys.readouterr().err


def test_optional_packages_that_are_absent_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "_OPTIONAL", ("surely-not-installed",))
    assert doctor.report()["versions"]["surely-not-installed"] == "not installed"


def test_trial_without_a_card_says_why(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert doctor.try_kernels() == 1
    assert capsys.readouterr().err.startswith("no trial: none (")


@pytest.fixture
def a_card(monkeypatch, tmp_path):
    monkeypatch.setenv("SCVAE_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(doctor, "_gpus", lambda: ["a card"])
    monkeypatch.setattr(trial, "card_of", lambda index: trial.Card("a card", "GPU-0", "a card"))


def test_trial_prints_a_table(a_card, monkeypatch, capsys):
    def run(card, into, pairs, told):
        told("trying triton, float32")
        into.add(card.key, "triton:float32", trial.Verdict(True, "", 0.25, {64: 0.5, 1024: 3.0}))
        into.add(card.key, "cuda:float32", trial.Verdict(False, "∂S has 9.0 times the allowed error", 9.0, {}))

    monkeypatch.setattr(trial, "run", run)
    assert doctor.try_kernels() == 1
    printed = capsys.readouterr().out
    right = "right, error 0.25 of the limit; 0.50 × eager at 64 rows, 3.00 × eager at 1024 rows"
    for line in (
        "a card: 180 s at most",
        "trying triton, float32",
        right,
        "wrong: ∂S has 9.0 times the allowed error",
        "cuda, float16    no verdict",
        "float32: runs eager from 1 row, triton from 1024 rows",
        "float16: runs eager from 1 row\n",
    ):
        assert line in printed
    found = doctor.report()["GPU kernels"]
    assert found == {"0, a card": "right: triton float32", "0, cuda:float32": "∂S has 9.0 times the allowed error"}


def test_report_says_that_nothing_was_tried(a_card):
    assert doctor.report()["GPU kernels"] == {"0, a card": "not tried yet"}
