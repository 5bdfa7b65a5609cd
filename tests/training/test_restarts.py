"""Atoms that no code uses start anew."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from pictures import TINY
from toy import Run

from scvae_fast.models import SCVAE
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.restarts import restart_atoms

pytestmark = pytest.mark.slow

_DEAD = [3, 7]


class Kill(Callback):
    """Takes two atoms out of use once, by making them far too short to pass the threshold."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: SCVAEModule) -> None:
        pl_module.model.bottleneck.dictionary.data[:, _DEAD] *= 1e-6

    def on_train_batch_end(self, trainer: Trainer, pl_module: SCVAEModule, *args: Any) -> None:
        self.after.append(pl_module.model.bottleneck.dictionary.detach().clone())


def test_unused_atoms_get_the_direction_of_an_error_and_are_used(tmp_path: Path) -> None:
    killed = Kill()
    run = Run(tmp_path, 10, killed, restart_atoms=4).fit()
    restarted = [row["atoms_restarted"] for row in run.history.rows]
    assert restarted[:4] == [0, 0, 0, 0]
    assert restarted[4] >= len(_DEAD)
    before, after = (killed.after[step][:, _DEAD].norm(dim=0) for step in (3, 4))
    assert bool((before < 0.1).all())
    assert bool((after > 0.5).all())
    assert not any(restarted[9:])  # the last fifth of the training


def test_without_it_they_stay_dead(tmp_path: Path) -> None:
    killed = Kill()
    rows = Run(tmp_path, 10, killed).fit().history.rows
    assert "atoms_restarted" not in rows[0]
    assert bool((killed.after[-1][:, _DEAD].norm(dim=0) < 0.1).all())


def test_moments_of_a_restarted_atom_are_forgotten(tmp_path: Path) -> None:
    class Moments(Callback):
        def __init__(self) -> None:
            self.first: list[torch.Tensor] = []

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: SCVAEModule, optimizer: Any) -> None:
            state = optimizer.state.get(pl_module.model.bottleneck.dictionary)
            if state:
                self.first.append(state["exp_avg_sq"].detach().abs().sum(0))

    moments = Moments()
    Run(tmp_path, 6, Kill(), moments, restart_atoms=4).fit()
    assert bool((moments.first[3][_DEAD] == 0).all())  # of the fifth step, the first one with their new directions
    assert bool((moments.first[4][_DEAD] > 0).all())


@pytest.mark.parametrize("window", [0, -3])
def test_no_window_is_refused(tmp_path: Path, window: int) -> None:
    with pytest.raises(ValueError, match=f"restart_atoms must be None or at least 1, got {window}"):
        Run(tmp_path, 1, restart_atoms=window)


def test_every_process_takes_what_the_first_one_drew() -> None:
    torch.manual_seed(0)
    model = SCVAE(TINY)
    D = model.bottleneck.dictionary
    unused = torch.zeros(D.shape[1], dtype=torch.bool)
    unused[_DEAD] = True
    drawn = torch.randn(D.shape[0], len(_DEAD))
    trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda mine: (torch.tensor(_DEAD), drawn)))
    before = D.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters())
    count = restart_atoms(model, unused, torch.rand(2, 3, 16, 16) * 2 - 1, optimizer, cast(Trainer, trainer))
    assert count == len(_DEAD)
    torch.testing.assert_close(D[:, _DEAD].detach(), drawn)
    assert torch.equal(D[:, ~unused], before[:, ~unused])
