from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from pictures import TINY
from toy import LOSS, OPTIMISER, Run

from scvae_fast.models import SCVAEConfig
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.second_stage import SecondStageSettings

pytestmark = pytest.mark.slow


class StopAfter(Callback):
    """Ends training after the given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def test_training_lowers_the_loss_and_records_every_term(tmp_path: Path) -> None:
    rows = Run(tmp_path, 60).fit().history.rows
    assert [row["step"] for row in rows] == list(range(1, 61))
    names = {"step", "seconds", "psnr", "density", "loss/total", "loss/image", "loss/latent", "loss/sparsity"}
    assert set(rows[0]) == names
    terms = [row["loss/image"] + row["loss/latent"] + row["loss/sparsity"] for row in rows]
    assert [row["loss/total"] for row in rows] == pytest.approx(terms)
    first, last = (sum(row["loss/image"] for row in part) for part in (rows[:20], rows[-20:]))
    assert last < 0.7 * first


@pytest.mark.parametrize("parts", ["plain", "averaged", "second stage", "dropout", "restarts"])
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, parts: str) -> None:
    module: dict[str, Any] = {"start": "linear"}
    if parts == "second stage":
        module["second_stage"] = SecondStageSettings(perceptual_weight=0, start_step=3, width=4, layers=1)

    def run(folder: str, *others: Callback) -> Run:
        if parts == "restarts":
            module["restart_atoms"] = 3
        averaging = [EMAWeightAveraging(decay=0.9)] if parts == "averaged" else []
        made = Run(tmp_path / folder, 8, *others, *averaging, **module)
        if parts == "dropout":
            made.module.model.encoder.mid.block_1.dropout.p = 0.5
        return made

    whole = run("whole").fit()
    first = run("parts", StopAfter(4)).fit()
    assert len(first.history.rows) == 4
    second = run("parts").fit(resume=True)
    assert second.losses == whole.losses
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name


def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", 4).fit(batch_size=4)
    parts = Run(tmp_path / "parts", 4, accumulate=2).fit(batch_size=2)
    assert len(whole.losses) == 4
    assert len(parts.losses) == 8
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_averaged_weights_remain(tmp_path: Path) -> None:
    class Weights(Callback):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            self.seen.append(pl_module.model.decoder.conv_out.weight.detach().clone())

    weights = Weights()
    run = Run(tmp_path, 6, weights, EMAWeightAveraging(decay=0.5)).fit()
    average = weights.seen[0]
    for seen in weights.seen[1:]:
        average = 0.5 * average + 0.5 * seen
    torch.testing.assert_close(run.module.model.decoder.conv_out.weight.detach(), average)


def test_the_discriminator_starts_when_it_is_to(tmp_path: Path) -> None:
    settings = SecondStageSettings(perceptual_weight=0, start_step=3, width=4, layers=1)

    class Discriminator(Callback):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            self.seen.append(pl_module.second_stage.discriminator[0].weight.detach().clone())

    discriminator = Discriminator()
    rows = Run(tmp_path, 6, discriminator, second_stage=settings).fit().history.rows
    seen = discriminator.seen
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[3], seen[4])
    assert ["loss/discriminator" in row for row in rows] == [False] * 3 + [True] * 3


def test_the_step_constant_stays_above_the_norm_of_the_dictionary(tmp_path: Path) -> None:
    class Grow(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 5:
                pl_module.model.bottleneck.dictionary.data.mul_(1.5)

    model = Run(tmp_path, 12, Grow()).fit().module.model
    norm = torch.linalg.matrix_norm(model.bottleneck.dictionary.detach(), ord=2)
    assert model.bottleneck.c >= norm**2


def test_without_the_projection_a_warning_is_given(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, project_c=False)
    run.module.model.bottleneck.dictionary.data.mul_(1.5)
    with pytest.warns(UserWarning, match="fell below ‖D‖₂²"):
        run.fit()


def test_learning_rate_warms_up_and_falls(tmp_path: Path) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    Run(tmp_path, 100, rates).fit()
    highest = rates.rates.index(max(rates.rates))
    assert highest == 5, "5 % of the steps"
    assert rates.rates[highest] == pytest.approx(OPTIMISER.learning_rate)
    assert rates.rates[highest:] == sorted(rates.rates[highest:], reverse=True)
    assert rates.rates[-1] < 0.03 * OPTIMISER.learning_rate


def test_starts_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="SCVAEModule: start must be one of"):
        SCVAEModule(TINY, LOSS, OPTIMISER, start="zero")
    normalised = SCVAEConfig(**{**TINY.to_dict(), "norm_out": True})
    with pytest.raises(ValueError, match="needs a network with norm_out=False"):
        SCVAEModule(normalised, LOSS, OPTIMISER, start="linear")
