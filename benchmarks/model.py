"""The whole model: seconds of a training step or an inference, compared with the released code's way of doing it.

All contestants start from the same weights, get the same pictures, and minimise the same loss. The gate is the loss of
the first batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import formulas, memory, operations, pictures, released, timing
from benchmarks.cases import FORWARD, ModelCase, ParityCase
from scvae_fast import SCVAE, SCVAEConfig
from scvae_fast.models.loss import SCVAELoss, scvae_loss
from scvae_fast.models.speed import SpeedSettings

HABITS, EAGER, FLOAT32, OURS = "released code's habits", "clean eager LISTA", "ours, float32", "ours"
NAMES = (HABITS, EAGER, FLOAT32, OURS)
BATCHES = 4
# Allowed relative errors of the first loss against float64: twice the effect of another order of sums or of bfloat16.
_ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
_PROFILED_STEPS, _OPERATIONS = 3, 12


def config_of(case: ModelCase | ParityCase) -> SCVAEConfig:
    """The preset, with the case's attention and, if requested, T and β of the released code."""
    config = SCVAEConfig.preset(case.preset, attention=case.attention)
    if isinstance(case, ModelCase) and not case.released:
        return config
    return replace(config, compat="official", n_iter=30, lmbda=1.0)


def batches(config: SCVAEConfig, batch: int, device: str, seed: int = 0) -> Iterator[torch.Tensor]:
    """Endless batches of pictures (batch, 3, size, size)."""
    for first in itertools.count(0, batch):
        yield pictures.crops(config.resolution, first, batch, seed).to(device)


@dataclass
class Contestant:
    """A model and how it is trained."""

    model: SCVAE
    optimizer: torch.optim.Optimizer
    speed: SpeedSettings
    copies_losses: bool = False  # copies losses to the host in every step
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext

    def loss(self, x: torch.Tensor) -> SCVAELoss:
        """The released code's loss of a batch."""
        with self.scope(), self.speed.autocast(x.device.type):
            output = self.model(x)
        return scvae_loss(x, output, lmbda=0, reduction="mean")

    def train(self, x: torch.Tensor) -> SCVAELoss:
        """A training step."""
        loss = self.loss(x)
        if self.copies_losses:
            for term in loss:
                term.item()
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def infer(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstructed pictures."""
        with self.scope(), self.speed.autocast(x.device.type):
            return self.model(x).x_hat


def contestant(name: str, config: SCVAEConfig, device: str, seed: int = 0) -> Contestant:
    """One of NAMES, with weights drawn from the seed; Adam with the released code's settings."""
    torch.manual_seed(seed)
    model = SCVAE(config)
    speed, habits = SpeedSettings.of(device) if name == OURS else SpeedSettings(), name == HABITS
    if habits:
        released.with_released_habits(model)
    elif name == EAGER:
        released.with_eager_lista(model)
    model = speed.prepare(model.to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-5, betas=(0.5, 0.9), fused=None if habits else True)
    scope = released.separate_norms if habits else nullcontext
    return Contestant(model, optimizer, speed, habits, scope)


def measure(case: ModelCase, device: str, seconds: float) -> dict[str, Any]:
    """First losses, samples of every contestant, profiles of two of them, memory on a GPU."""
    config = config_of(case)
    stream = batches(config, case.batch, device)
    given = [next(stream) for _ in range(BATCHES)]
    entered = {name: contestant(name, config, device) for name in NAMES}
    errors = _errors(entered, given[0])
    wrong = {
        name: f"loss: error {e['loss']:.1e}, allowed {_ALLOWED[entered[name].speed.precision]:.1e}"
        for name, e in errors.items()
        if not e["loss"] <= _ALLOWED[entered[name].speed.precision]
    }
    runs = {name: _run(case, one, given) for name, one in entered.items() if name not in wrong}
    for run in runs.values():  # compile, and allocate every buffer
        run()
        run()
    rounds = (operations.LEAST_ROUNDS + 2, 2 * operations.MOST_ROUNDS)
    samples = timing.until(3 * seconds, runs, *rounds, device=device)
    out = {
        "chosen": OURS,
        "batch": case.batch,
        "pictures": pictures.kind(),
        "errors": errors,
        "wrong": wrong,
        "samples": samples,
    }
    out["density"] = _density(entered[FLOAT32], given[0])
    out["profile"] = {name: _profile(runs[name], device) for name in (HABITS, OURS) if name in runs}
    if device == "cuda":
        out["peak"] = {name: memory.allocated_at_peak(run) for name, run in runs.items()}
    return out


def _run(case: ModelCase, one: Contestant, given: list[torch.Tensor]) -> Callable[[], object]:
    step = one.infer if case.direction == FORWARD else one.train
    one.model.train(case.direction != FORWARD)
    count = 0

    def run() -> object:
        nonlocal count
        count += 1
        return step(given[count % BATCHES])

    return run


@torch.no_grad()
def _errors(entered: dict[str, Contestant], x: torch.Tensor) -> dict[str, dict[str, float]]:
    """Errors of each contestant's first loss, against the released formulas in float64."""
    exact_one = contestant(HABITS, entered[FLOAT32].model.config, str(x.device))
    exact_one.model.double()
    exact = float(exact_one.loss(x.double()).total)
    return {name: {"loss": abs(float(one.loss(x).total) - exact) / exact} for name, one in entered.items()}


@torch.no_grad()
def _density(one: Contestant, x: torch.Tensor) -> float:
    return formulas.density(one.model.encode(x).codes)


def _profile(run: Callable[[], object], device: str) -> list[list[Any]]:
    """The operations that take most of the time, and their shares of it."""
    activities = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(_PROFILED_STEPS):
            run()
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = sorted(((getattr(e, field), e.key) for e in profiler.key_averages()), reverse=True)
    total = sum(t for t, _ in times)
    return [[name, t / total] for t, name in times[:_OPERATIONS]]
