"""scvae-fast doctor."""

import torch

import scvae_fast
from scvae_fast.commands import doctor
from scvae_fast.ops import native


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
        @staticmethod
        def build_info():
            raise RuntimeError("no such instructions")

    monkeypatch.setattr(native, "module", Unusable)
    assert doctor.main() == 1
    assert "problem: no such instructions" in capsys.readouterr().err


def test_optional_packages_that_are_absent_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "_OPTIONAL", ("surely-not-installed",))
    assert doctor.report()["versions"]["surely-not-installed"] == "not installed"
