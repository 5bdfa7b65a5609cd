"""The progress bar in a log file."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from scvae_fast.training import bar


def test_a_resumed_training_goes_on_to_show_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = cast(Any, SimpleNamespace(is_global_zero=True, global_step=0, callback_metrics={"psnr": 30.0}))
    progress, now = iter([0.5, 0.51, 0.52]), iter([100.0, 140.0, 150.0, 180.0])
    monkeypatch.setattr(bar, "progress_of", lambda trainer: next(progress))
    monkeypatch.setattr(bar, "time_spent", lambda trainer: 60.0)
    monkeypatch.setattr(bar.time, "monotonic", lambda: next(now))
    shown = bar.TrainingBar()
    shown.on_train_start(trainer, cast(Any, None))
    for trainer.global_step in (10, 20, 25, 30):
        shown.on_train_batch_end(trainer, cast(Any, None))
    shown.on_train_end(trainer, cast(Any, None))
    written = capsys.readouterr().err
    assert all(f"step {step}: 30.0 dB" in written for step in (10, 20, 30))
    assert "step 25" not in written  # less than half a minute after the one before
