"""The demonstration: train on the embedded photographs, rate the model on two that were held out, draw pictures."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scvae_fast._files import write_json
from scvae_fast._settings import differences
from scvae_fast.commands._demonstration import draw_report
from scvae_fast.data import CropSettings, Photograph, held_out_photographs, training_photographs
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.photographs import evaluate
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.training.bar import TrainingBar, clock
from scvae_fast.training.callbacks import History, KeepCheckpoint, LossGuard, StopOnSignal
from scvae_fast.training.data import Photographs
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.monitors import CodeMonitor
from scvae_fast.training.noise import lightning_noise_silenced
from scvae_fast.training.settings import LossSettings, OptimiserSettings
from scvae_fast.training.single import single_trainer

try:
    from lightning.pytorch.callbacks import Timer
except ImportError as error:
    raise ImportError('scvae_fast.commands.demo needs lightning: pip install "scvae_fast[train]"') from error

# Training photographs are rated in their middle only, to keep the evaluation short.
_RATED_SIDE = 384


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """All that decides what the demonstration trains, but for the time it may take: `configs/pictures64.yaml`."""

    model: SCVAEConfig = field(default_factory=lambda: SCVAEConfig.preset("pictures64"))
    loss: LossSettings = field(default_factory=lambda: LossSettings(code_weight=6000.0))
    optimiser: OptimiserSettings = field(
        default_factory=lambda: OptimiserSettings(
            learning_rate=3e-4, betas=(0.9, 0.99), warm_up=0.05, last_learning_rate=0.02
        )
    )
    crops: CropSettings = field(default_factory=CropSettings)
    batch_size: int = 8
    clip: float = 1.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All fields, as they look when they were written as JSON and read again."""
        return dict(json.loads(json.dumps(asdict(self))))


class DemoError(UsageError):
    """The demonstration can't go on in the folder it was given; the message says why and what to do."""


class _Folder:
    """What the demonstration keeps in its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.state = path / "training.ckpt"  # all that a resumption needs
        self.model = path / "checkpoint"  # for SCVAE.from_pretrained
        self.metrics = path / "metrics.json"
        self.pictures = path / "pictures"

    def claim(self, settings: DemoSettings) -> None:
        """Make sure that the folder can be written to and holds no training with other settings."""
        wanted = settings.to_dict()
        found = json.loads(self.settings.read_text(encoding="utf-8")) if self.settings.exists() else wanted
        if different := differences(wanted, found):
            raise DemoError(
                f"{self.path} holds a training with other settings ({', '.join(different)}): "
                "choose another folder, or delete it to start anew"
            )
        try:
            write_json(self.settings, wanted)
        except OSError as error:
            raise DemoError(f"{self.path} can't be written to: {error}") from error

    def result(self) -> dict[str, Any] | None:
        """The metrics of a finished training, if there is one."""
        if not (self.metrics.exists() and self.model.exists()):
            return None
        return dict(json.loads(self.metrics.read_text(encoding="utf-8")))


def run_demo(out: Path, minutes: float, settings: DemoSettings | None = None) -> int:
    """Train for `minutes`, evaluate and draw, into the folder `out`; go on there if that was stopped before.

    Where the folder holds the result of as many minutes or more, its figures are printed and that is all. Where it
    holds the result of fewer, training goes on from there, with the learning rate of that point of the longer
    schedule.

    Returns:
        0, or 130 if a signal stopped the training: its state is kept, and the next call goes on from it.

    Raises:
        DemoError: minutes is not positive, the folder can't be written to, or it holds a training with other settings.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise DemoError(f"minutes must be a positive number, got {minutes:g}")
    settings, folder = settings or DemoSettings(), _Folder(out)
    folder.claim(settings)
    if result := folder.result():
        if result["minutes"] >= minutes:
            print(f"{out} holds the result of {result['minutes']:g} minutes of training already.\n")
            print(_summary(result, out))
            return 0
        print(f"{out} holds the result of {result['minutes']:g} minutes of training; it goes on to {minutes:g}.")
    with lightning_noise_silenced():
        trained = _train(folder, minutes, settings)
    if trained is None:
        print(f"Stopped. {folder.state} keeps the state of the training: the same command goes on from there.")
        return 130
    result = _evaluate(folder, minutes, settings, trained, training_photographs())
    print(_summary(result, out))
    return 0


class _Trained(NamedTuple):
    model: SCVAE
    history: list[dict[str, float]]
    steps: int
    seconds: float


def _train(folder: _Folder, minutes: float, settings: DemoSettings) -> _Trained | None:
    """None if a signal stopped it."""
    torch.manual_seed(settings.seed)
    module = SCVAEModule(settings.model, settings.loss, settings.optimiser, start="linear", seed=settings.seed)
    timer, history, stop = Timer(timedelta(minutes=minutes), verbose=False), History(), StopOnSignal()
    trainer = single_trainer(
        [timer, CodeMonitor(), LossGuard(), history, stop, TrainingBar(), KeepCheckpoint(folder.state)],
        clip=settings.clip,
    )
    resume = folder.state.exists()
    if not resume:
        print("fitting the first weights to crops of the photographs …", flush=True)
    data = Photographs(
        crops=settings.crops, resolution=settings.crops.size, batch_size=settings.batch_size, seed=settings.seed
    )
    trainer.fit(module, datamodule=data, ckpt_path=folder.state if resume else None)
    if stop.stopped:
        return None
    return _Trained(module.model.cpu().eval(), history.rows, trainer.global_step, timer.time_elapsed())


def _evaluate(
    folder: _Folder, minutes: float, settings: DemoSettings, trained: _Trained, photographs: list[Photograph]
) -> dict[str, Any]:
    print("rating the model on whole photographs …", flush=True)
    begin = time.monotonic()
    held_out = evaluate(trained.model, held_out_photographs())
    seen = evaluate(trained.model, [_middle(photograph) for photograph in photographs if photograph.colour])
    trained.model.save_pretrained(folder.model)
    draw_report(folder.pictures, trained.model, held_out, seen, trained.history)
    result = {
        "minutes": minutes,
        "steps": trained.steps,
        "seconds": {"training": trained.seconds, "evaluation": time.monotonic() - begin},
        "held_out": held_out.figures,
        "training": {"crop": f"the middle of each, at most {_RATED_SIDE} x {_RATED_SIDE}", **seen.figures},
        "settings": settings.to_dict(),
        "versions": {name: version(name) for name in ("scvae-fast", "torch", "lightning", "torchmetrics")},
        "threads": torch.get_num_threads(),
    }
    write_json(folder.metrics, result)
    return result


def _middle(photograph: Photograph) -> Photograph:
    height, width = photograph.picture.shape[1:]
    top, left = max(height - _RATED_SIDE, 0) // 2, max(width - _RATED_SIDE, 0) // 2
    middle = photograph.picture[:, top : top + _RATED_SIDE, left : left + _RATED_SIDE]
    return photograph._replace(picture=middle)


def _summary(result: dict[str, Any], out: Path) -> str:
    atoms = result["settings"]["model"]["n_atoms"]
    lines = []
    for title, key in (("held out, never trained on", "held_out"), ("training photographs", "training")):
        figures = result[key]
        lines.append(f"{title}: {', '.join(figures['pictures'])}")
        lines.append(
            f"  SC-VAE           PSNR {figures['psnr']:5.2f} dB   SSIM {figures['ssim']:.3f}   "
            f"{figures['density']:.1%} of the code entries not zero, {figures['atoms_in_use']} of {atoms} atoms in use"
        )
        for size, rating in figures["block_means"].items():
            lines.append(f"  {size} block means  PSNR {rating['psnr']:5.2f} dB   SSIM {rating['ssim']:.3f}")
    seconds = result["seconds"]
    lines.append(f"{result['steps']} steps in {clock(seconds['training'])}, evaluation {clock(seconds['evaluation'])}")
    lines.append(f"Pictures in {out / 'pictures'}, figures in {out / 'metrics.json'}, model in {out / 'checkpoint'}")
    return "\n".join(lines)
