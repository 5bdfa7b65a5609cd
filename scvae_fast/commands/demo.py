"""`scvae-fast demo`: runs `train` with pictures64.yaml and a time limit, draws pictures, and runs `evaluate`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.commands.evaluate import evaluate_checkpoint
from scvae_fast.commands.train import RunFolder, train
from scvae_fast.data import held_out_photographs
from scvae_fast.errors import ArgumentError
from scvae_fast.evaluation.record import identity
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics.psnr import psnr
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model
from scvae_fast.plotting import figures

# All metrics that need no downloaded weights.
_METRICS = ("psnr", "ssim", "codes", "block-means")


def run_demo(out: Path, minutes: float, settings: Sequence[str] = ()) -> int:
    """Train for `minutes` in the folder `out`, draw pictures and evaluate; continue a run that was stopped.

    The folder is that of a training run (see docs/training.md), with the evaluation in `evaluation` and three more
    pictures: `held_out`, `density` and `losses`. If it holds the result of at least as many minutes, that is printed
    and nothing is trained. If it holds the result of fewer minutes, training continues from there, with the learning
    rate at that point of the longer schedule.

    Args:
        out: the folder.
        minutes: total training time, rounded up to seconds.
        settings: more arguments of `scvae-fast train`.

    Returns:
        0, or 128 + the number of a signal that stopped the training; its state is kept, and the next call continues.

    Raises:
        UsageError: minutes is not positive; or as `train` and `evaluate_checkpoint`.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise ArgumentError(f"minutes must be a positive number, got {minutes:g}")
    seconds, folder = math.ceil(60 * minutes), RunFolder(out)
    if (trained := _seconds_of(folder)) >= seconds:
        print(f"{out} already holds the result of {trained / 60:g} minutes of training.", flush=True)
    else:
        limit = ("--trainer.max_steps=-1", f"--trainer.max_time={_clock(seconds)}")
        status = train(["--config", "pictures64", "--out", str(out), "--resume", *limit, *settings])
        if status != 0:
            print("Run the same command again to continue.")
            return status
    metrics = out / "evaluation" / "metrics.json"
    if _read(metrics).get("checkpoint") == identity(folder.model):
        print((metrics.parent / "metrics.md").read_text(encoding="utf-8"))
    else:
        # Pictures first: if the evaluation exists, everything else does.
        for name, figure in _draw(load_model(folder.model), _read(folder.record).get("history", [])).items():
            figures.save(folder.pictures / f"{name}.png", figure, bbox_inches="tight", pad_inches=0.1)
        evaluation = EvaluationSettings(metrics=_METRICS)
        evaluate_checkpoint(folder.model, "photographs", metrics.parent, evaluation, resize=None)
    print(f"Pictures in {folder.pictures}, metrics in {metrics}, model in {folder.model}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; an empty dictionary if there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _clock(seconds: int) -> str:
    """Format as DD:HH:MM:SS for Lightning."""
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours // 24:02}:{hours % 24:02}:{minutes % 60:02}:{seconds % 60:02}"


def _seconds_of(folder: RunFolder) -> int:
    """The time limit, in seconds, of the training in the folder if it is finished; 0 otherwise."""
    record = _read(folder.record)
    limit = record.get("settings", {}).get("trainer", {}).get("max_time")
    if record.get("stopped") or not isinstance(limit, str):
        return 0
    days, hours, minutes, seconds = map(int, limit.split(":"))
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _draw(model: SCVAE, history: Sequence[dict[str, float]]) -> dict[str, figures.Figure]:
    """Draw the held-out photographs and their reconstructions, the density of their codes, and the losses."""
    photographs = held_out_photographs()
    names, originals = [each.name for each in photographs], [each.picture for each in photographs]
    rebuilt = [reconstruct_tiled(model, picture) for picture in originals]
    shares = [float(each.active.float().mean()) / model.config.n_atoms for each in rebuilt]
    captions = [
        f"{psnr(each.x_hat, picture):.1f} dB, {share:.0%} of the code entries nonzero"
        for each, picture, share in zip(rebuilt, originals, shares, strict=True)
    ]
    title, pictures = "Held-out photographs, never trained on", [each.x_hat for each in rebuilt]
    active, config = [each.active for each in rebuilt], model.config
    drawn = {
        "held_out": figures.reconstructions(title, names, originals, pictures, captions),
        "density": figures.density_overlay(names, originals, active, stride=config.stride, n_atoms=config.n_atoms),
    }
    return {**drawn, "losses": figures.loss_curves(history)} if history else drawn
