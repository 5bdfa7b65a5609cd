import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from pictures import TINY, photographs

from scvae_fast.data import CropSettings, RandomCrops
from scvae_fast.models import SCVAE
from scvae_fast.training.callbacks import History, KeepCheckpoint, StopOnSignal
from scvae_fast.training.module import SCVAEModule, TrainingSettings
from scvae_fast.training.noise import lightning_noise_silenced

SETTINGS = TrainingSettings(batch_size=2, learning_rate=1e-3)


class SignalAt(Callback):
    """Presses Ctrl-C in the given step."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def train(folder: Path, steps: int, *others: Callback, resume: bool = False) -> tuple[SCVAE, History, StopOnSignal]:
    torch.manual_seed(0)
    model = SCVAE(TINY)
    crops = RandomCrops(photographs(), CropSettings(size=16))
    history, stop, state = History(every=1), StopOnSignal(), folder / "training.ckpt"
    with lightning_noise_silenced():
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            callbacks=[history, stop, *others, KeepCheckpoint(state)],
            gradient_clip_val=SETTINGS.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(SCVAEModule(model, crops, SETTINGS), ckpt_path=state if resume else None)
    return model, history, stop


def losses(history: History) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def test_training_lowers_the_loss_and_records_every_term(tmp_path: Path) -> None:
    _, history, _ = train(tmp_path, 60)
    rows = history.rows
    assert [row["step"] for row in rows] == list(range(1, 61))
    names = {"step", "seconds", "psnr", "density", "loss/total", "loss/image", "loss/latent", "loss/sparsity"}
    assert set(rows[0]) == names
    terms = [row["loss/image"] + row["loss/latent"] + row["loss/sparsity"] for row in rows]
    assert [row["loss/total"] for row in rows] == pytest.approx(terms)
    first, last = (sum(row["loss/image"] for row in part) for part in (rows[:20], rows[-20:]))
    assert last < 0.7 * first


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole_model, whole, _ = train(tmp_path / "whole", 8)
    _, first, stop = train(tmp_path / "parts", 8, SignalAt(3))
    assert stop.stopped
    assert len(first.rows) == 4, "the step under way is finished"
    model, history, stop = train(tmp_path / "parts", 8, resume=True)
    assert not stop.stopped
    assert losses(history) == losses(whole)
    for name, value in whole_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_second_signal_ends_at_once_and_the_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        train(tmp_path, 8, SignalAt(2, times=2))
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored after such an end
    train(tmp_path, 2)
    assert signal.getsignal(signal.SIGINT) is before


def test_state_is_kept_during_the_training(tmp_path: Path) -> None:
    class Crash(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("power cut")

    class Often(KeepCheckpoint):
        def __init__(self) -> None:
            super().__init__(tmp_path / "training.ckpt", every=0)

    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, 8, Often(), Crash())
    _, history, _ = train(tmp_path, 8, resume=True)
    _, whole, _ = train(tmp_path / "whole", 8)
    assert losses(history) == losses(whole)


def test_the_step_constant_stays_above_the_norm_of_the_dictionary(tmp_path: Path) -> None:
    class Grow(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 5:
                pl_module.model.bottleneck.dictionary.data.mul_(1.5)

    model, _, _ = train(tmp_path, 12, Grow())
    norm = torch.linalg.matrix_norm(model.bottleneck.dictionary.detach(), ord=2)
    assert model.bottleneck.step >= norm**2


def test_learning_rate_warms_up_and_falls(tmp_path: Path) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    train(tmp_path, 100, rates)
    highest = rates.rates.index(max(rates.rates))
    assert highest == 5, "5 % of the steps"
    assert rates.rates[highest] == pytest.approx(SETTINGS.learning_rate)
    assert rates.rates[highest:] == sorted(rates.rates[highest:], reverse=True)
    assert rates.rates[-1] < 0.03 * SETTINGS.learning_rate
