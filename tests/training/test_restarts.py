"""Atoms that hardly any code uses start anew."""

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
from scvae_fast.training.restarts import AtomRestarts, _beyond_support, restart_atoms

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


def test_unused_atoms_start_anew_one_after_the_other_and_are_used(tmp_path: Path) -> None:
    killed = Kill()
    run = Run(tmp_path, 10, killed, restart_atoms=4).fit()
    # A running total: one of 24 atoms at a time, after windows of four batches, and none in the last fifth.
    assert [row["atoms_restarted"] for row in run.history.rows] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    norms = torch.stack([D[:, _DEAD].norm(dim=0) for D in killed.after])
    assert torch.equal(norms > 0.5, torch.tensor([[step >= 4, step >= 8] for step in range(10)]))


def test_atoms_that_are_seldom_used_are_found_the_least_used_first() -> None:
    trainer = cast(Trainer, SimpleNamespace(world_size=1))
    restarts = AtomRestarts(2, 1e-4)
    usage = torch.full((96,), 1000)
    usage[[5, 40, 41, 90]] = torch.tensor([4, 0, 3, 2])
    restarts.count(usage, 20_000)
    assert restarts.seldom_used(trainer) is None
    restarts.count(usage, 20_000)
    # In fewer than 1e-4 of 40,000 codes.
    found = restarts.seldom_used(trainer)
    assert found is not None
    assert found.tolist() == [40]
    restarts.count(usage, 20_000)
    restarts.count(usage, 80_000)  # all four, of which 96 / 32 at a time
    found = restarts.seldom_used(trainer)
    assert found is not None
    assert found.tolist() == [40, 90, 41]


def test_of_several_processes_all_codes_count() -> None:
    strategy = SimpleNamespace(reduce=lambda usage, reduce_op: 2 * usage)
    trainer = cast(Trainer, SimpleNamespace(world_size=2, strategy=strategy))
    restarts = AtomRestarts(1, 1e-4)
    restarts.count(torch.tensor([2, 3, 9]), 30_000)
    found = restarts.seldom_used(trainer)
    assert found is not None
    assert found.tolist() == [0]  # 4 of 60,000


def test_a_new_direction_is_what_the_atoms_of_a_code_cannot_represent() -> None:
    D, rows, codes = torch.randn(8, 12), torch.randn(5, 8), torch.zeros(5, 12)
    codes[:4, [1, 4, 6]] = 1.0
    codes[3, :9] = 1.0  # these span all
    rests = _beyond_support(rows, codes, torch.zeros(5, 8), D)
    torch.testing.assert_close(rests[:3] @ D[:, [1, 4, 6]], torch.zeros(3, 3), atol=1e-4, rtol=0)
    assert bool((rests[:3].norm(dim=1) > 0.1).all())
    assert torch.equal(rests[3:], rows[3:])  # the error of codes that give 0, and what a code without atoms leaves


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
    assert moments.first[3][_DEAD[0]] == 0  # of the fifth step, the first one with its new direction
    assert moments.first[4][_DEAD[0]] > 0


@pytest.mark.parametrize("window", [0, -3])
def test_no_window_is_refused(tmp_path: Path, window: int) -> None:
    with pytest.raises(ValueError, match=f"restart_atoms must be None or at least 1, got {window}"):
        Run(tmp_path, 1, restart_atoms=window)


def test_no_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"restart_share must be in 0 … 1, got 1\.5"):
        Run(tmp_path, 1, restart_atoms=4, restart_share=1.5)


def test_every_process_takes_what_the_first_one_drew() -> None:
    torch.manual_seed(0)
    model = SCVAE(TINY)
    D = model.bottleneck.dictionary
    others = [k for k in range(D.shape[1]) if k not in _DEAD]
    drawn = torch.randn(D.shape[0], len(_DEAD))
    trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda mine: (torch.tensor(_DEAD), drawn)))
    before = D.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters())
    count = restart_atoms(
        model, torch.tensor(_DEAD), torch.rand(2, 3, 16, 16) * 2 - 1, optimizer, cast(Trainer, trainer)
    )
    assert count == len(_DEAD)
    torch.testing.assert_close(D[:, _DEAD].detach(), drawn)
    assert torch.equal(D[:, others], before[:, others])
