from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from pictures import TINY, scene
from toy import Run, Toy

from scvae_fast.models import SCVAE
from scvae_fast.nn.attention import AttentionName
from scvae_fast.training.bar import clock, figures_line
from scvae_fast.training.data import Found, _InMemory
from scvae_fast.training.lightning_messages import lightning_messages_silenced
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.monitors import CodeMonitor, PictureMonitor, look


def test_atoms_in_use_and_speed_are_logged(tmp_path: Path) -> None:
    class Figures(Callback):
        def __init__(self) -> None:
            self.usage = torch.zeros(TINY.n_atoms, dtype=torch.int64)
            self.logged: list[float] = []

        def on_train_batch_end(self, trainer: Trainer, pl_module: SCVAEModule, outputs: Any, *args: Any) -> None:
            self.usage += outputs["usage"]
            if "atoms_in_use" in trainer.callback_metrics:
                self.logged.append(float(trainer.callback_metrics["atoms_in_use"]))
                assert trainer.callback_metrics["pictures_per_second"] > 0

    figures = Figures()
    Run(tmp_path, 4, CodeMonitor(window=4), figures).fit()
    assert figures.logged[-1] == int((figures.usage > 0).sum())


def test_dead_atoms_are_warned_of_once(tmp_path: Path) -> None:
    class Kill(Callback):
        """From step 3 on, no code uses an atom; a threshold beyond all drives does that."""

        def on_train_batch_start(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
            if trainer.global_step == 3:
                pl_module.model.bottleneck.lmbda = 1e6

    with pytest.warns(UserWarning, match=r"of 24 atoms that were in use are in none of the codes") as caught:
        Run(tmp_path, 9, CodeMonitor(window=3), Kill()).fit()
    assert len([each for each in caught if "atoms that were in use" in str(each.message)]) == 1


@pytest.mark.parametrize("attention", ["constant", "eq"])
def test_a_view_of_the_model_leaves_it_as_it_was(attention: AttentionName) -> None:
    model = SCVAE(replace(TINY, attention=attention)).train()
    pictures = torch.stack([scene(16, 16, seed=1), scene(16, 16, seed=2)])
    view = look(model, pictures)
    assert model.training
    weights = {"alpha"} if attention == "eq" else set()  # which are no picture where they are all the same
    assert set(view.figures) == {"reconstructions", "atoms", "supports"} | weights
    codes = model.eval()(pictures).codes
    assert view.supports.tolist() == (codes != 0).sum(-1).flatten().tolist()
    assert view.usage.tolist() == (codes != 0).sum((0, 1, 2)).tolist()


@pytest.mark.parametrize("validated", [True, False])
def test_the_end_of_a_training_is_drawn_without_a_validation(tmp_path: Path, validated: bool) -> None:
    class Data(Toy):
        def find(self) -> Found:
            return super().find()._replace(validation=_InMemory([scene(16, 16)] * 3) if validated else None)

    run = Run(tmp_path, 1, PictureMonitor(tmp_path / "pictures"))
    with lightning_messages_silenced():
        run.trainer.fit(run.module, datamodule=Data())
    drawn = {path.stem for path in tmp_path.glob("pictures/*.png")}
    assert drawn == ({"reconstructions", "atoms", "supports"} if validated else set())


def test_lines_of_figures() -> None:
    figures = {"loss/total": torch.tensor(0.5), "density": torch.tensor(0.12), "psnr": torch.tensor(20.0), "other": 1.0}
    assert figures_line(figures) == "loss 0.5, 20.0 dB, density 12.0%"
    assert [clock(seconds) for seconds in (-1, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
