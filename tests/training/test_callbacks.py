import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from pictures import scene
from toy import OPTIMISER, Run, Toy

from scvae_fast.errors import UsageError
from scvae_fast.training.callbacks import AtomicCheckpointIO, KeepCheckpoint, TrainingDivergedError
from scvae_fast.training.data import Found, _InMemory
from scvae_fast.training.lightning_messages import lightning_messages_silenced
from scvae_fast.training.module import SCVAEModule


class SignalAt(Callback):
    """Sends this process a signal in the given step."""

    def __init__(self, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_after_the_step(tmp_path: Path, number: int) -> None:
    run = Run(tmp_path, 8, SignalAt(3, number)).fit()
    assert run.stop.number == number
    assert len(run.history.rows) == 4
    assert torch.load(run.state, weights_only=False)["global_step"] == 4
    again = Run(tmp_path, 8).fit(resume=True)
    assert not again.stop.stopped
    assert again.losses == Run(tmp_path / "whole", 8).fit().losses


def test_a_second_signal_ends_at_once_and_the_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        Run(tmp_path, 8, SignalAt(2, times=2)).fit()
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored after such an end
    Run(tmp_path, 2).fit()
    assert signal.getsignal(signal.SIGINT) is before


def test_state_is_kept_during_the_training(tmp_path: Path) -> None:
    class Crash(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("power cut")

    crashed = Run(tmp_path, 8, Crash())
    next(c for c in crashed.trainer.callbacks if isinstance(c, KeepCheckpoint)).every = 0
    with pytest.raises(RuntimeError, match="power cut"):
        crashed.fit()
    again, whole = Run(tmp_path, 8).fit(resume=True), Run(tmp_path / "whole", 8).fit()
    assert again.losses == whole.losses


def test_a_loss_that_is_not_finite_ends_the_training_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 3:
                pl_module.model.decoder.conv_out.weight.data.fill_(float("nan"))

    run = Run(tmp_path, 8, Spoil())
    next(c for c in run.trainer.callbacks if isinstance(c, KeepCheckpoint)).every = 0
    with pytest.raises(TrainingDivergedError, match="the loss of batch 4 is nan"):
        run.fit()
    state = torch.load(run.state, weights_only=False)
    assert state["global_step"] == 3
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_the_loss_of_the_last_step_is_checked_too(tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 3:
                pl_module.model.decoder.conv_out.weight.data.fill_(float("inf"))

    with pytest.raises(TrainingDivergedError, match="the loss of batch 4"):
        Run(tmp_path, 4, Spoil()).fit()
    assert not (tmp_path / "training.ckpt").exists()


@pytest.mark.parametrize("averaged", [False, True])
def test_weights_that_one_gradient_spoiled_reach_no_checkpoint(tmp_path: Path, averaged: bool) -> None:
    """The loss before the step is finite, and so is that of the checkpoint before."""

    class Spoil(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 3:
                pl_module.model.decoder.conv_out.weight.grad.fill_(float("nan"))

    run = Run(tmp_path, 8, Spoil(), *([EMAWeightAveraging(decay=0.9)] if averaged else []))
    next(c for c in run.trainer.callbacks if isinstance(c, KeepCheckpoint)).every = 0
    with pytest.raises(TrainingDivergedError, match="the weights are not finite after step 4"):
        run.fit()
    for name, step in ((run.state.name, 3), (f"before-{run.state.name}", 2)):
        state = torch.load(run.state.with_name(name), weights_only=False)
        assert state["global_step"] == step
        assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_a_stop_is_not_held_up_by_a_validation(tmp_path: Path) -> None:
    class Validated(Callback):
        times = 0

        def on_validation_batch_start(self, *args: Any) -> None:
            self.times += 1

    class WithValidation(Toy):
        def find(self) -> Found:
            return super().find()._replace(validation=_InMemory([scene(16, 16)]))

    for callbacks, expected in (([], 1), ([SignalAt(1)], 0)):
        validated = Validated()
        run = Run(tmp_path / str(expected), 4, validated, *callbacks)
        run.trainer.limit_val_batches = run.trainer.val_check_interval = 1.0
        run.trainer.num_sanity_val_steps = 0
        data = WithValidation()
        data.samples = 8
        with lightning_messages_silenced():
            run.trainer.fit(run.module, datamodule=data)
        assert validated.times == expected


def test_settings_of_the_optimiser_hold_after_a_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path, 4).fit()
    same = Run(tmp_path, 6).fit(resume=True)
    assert "other settings" not in capsys.readouterr().out
    other = replace(OPTIMISER, learning_rate=1e-5, betas=(0.5, 0.6), weight_decay=0.25)
    run = Run(tmp_path, 8)
    run.module.optimiser = other
    run.fit(resume=True)
    assert "resumed with different optimiser settings: initial_lr 0.001 -> 1e-05, betas" in capsys.readouterr().out
    (group,) = torch.load(run.state, weights_only=False)["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], tuple(group["betas"]), group["weight_decay"]) == (1e-5, (0.5, 0.6), 0.25)
    assert group["lr"] == pytest.approx(other.factor(1.0) * 1e-5)
    assert same.trainer.optimizers[0].param_groups[0]["initial_lr"] == OPTIMISER.learning_rate


def test_a_checkpoint_that_can_not_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def full_disk(checkpoint: object, temporary: Path) -> None:
        temporary.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UsageError, match=r"last\.ckpt can't be written; the previous one is kept: .*No space left"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
