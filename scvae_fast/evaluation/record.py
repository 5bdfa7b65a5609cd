"""The record of an evaluation: a dictionary for JSON, and a table for people."""

import math
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from scvae_fast._markdown import markdown_table
from scvae_fast.codes.storage import CodeFile
from scvae_fast.data.stream import PictureStream
from scvae_fast.evaluation.run import Evaluation
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics.weights import inspect
from scvae_fast.models import SCVAEConfig
from scvae_fast.models._hub import WEIGHTS_FILE
from scvae_fast.models.loading import checkpoint_path

SCHEMA = 1

_LPIPS = "lpips 0.1 over {}, pictures in −1 … 1 at the size evaluated, reconstructions clipped; mean over pictures"
_INCEPTION = (
    "originals against reconstructions, by the 2048 features of torch-fidelity's Inception v3; 8-bit pictures, "
    "stretched to 299 x 299 bilinearly without antialiasing; "
)
METHODS = {
    "psnr": "dB; torchmetrics, float64, data range 2: pictures in −1 … 1, reconstructions clipped, not rounded; "
    "pooled: of the squared error of all pixels together, mean: over the pictures' own",
    "ssim": "torchmetrics, Gaussian window of 11 x 11, σ = 1.5, data range 2: pictures in −1 … 1, reconstructions "
    "clipped; mean over all pixels, reflected beyond the edges, then over pictures",
    "lpips-alex": _LPIPS.format("AlexNet"),
    "lpips-vgg": _LPIPS.format("VGG-16"),
    "fid": _INCEPTION + "torchmetrics, float64",
    "kid": _INCEPTION
    + "torchmetrics, float64; cubic kernel, unbiased, mean and standard deviation over random subsets",
    "codes": "density: share of entries not zero; hoyer: mean over the codes that are not zero; hoyer_of_all: of all "
    "codes as one vector, as the authors' code has it; usage_entropy: bits, of the atoms' shares in all uses; "
    "coherence: largest |cosine| between two atoms; bits: log2(K + 1) + log2 binomial(K, s) + s · value_bits for a "
    "code with s of K entries not zero",
    "block-means": "PSNR (pooled) and SSIM, as above, of pictures in which every block is its mean",
}


def record(
    checkpoint: str | os.PathLike[str],
    config: SCVAEConfig,
    source: PictureStream | CodeFile,
    settings: EvaluationSettings,
    evaluation: Evaluation,
    processes: int = 1,
) -> dict[str, Any]:
    """Everything about an evaluation, JSON-serialisable: NaN is null, infinity the text "inf"."""
    weights = {
        metric: [file.to_dict() for file in files]
        for metric, files in evaluation.weights.items()
        if metric in evaluation.figures
    }
    content = {
        **head(checkpoint, "torchmetrics", "lpips", "torch-fidelity"),
        "model": config.to_dict(),
        **_about(source),
        "limit": settings.limit,
        "n_pictures": evaluation.n_pictures,
        "n_tiled": evaluation.n_tiled,
        "range": "pictures in −1 … 1, reconstructions clipped to it",
        "figures": evaluation.figures,
        "methods": {metric: METHODS[metric] for metric in evaluation.figures},
        "unavailable": evaluation.unavailable,
        "weights": weights,
        "batch_size": settings.batch_size,
        "device": _device(settings.device),
        "precision": None if isinstance(source, CodeFile) else settings.speed.precision,
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    return {key: plain(value) for key, value in content.items()}


def _about(source: PictureStream | CodeFile) -> dict[str, Any]:
    if isinstance(source, CodeFile):
        data = {"data": str(source.path), "layout": "codes", "split": None, "resize": None}
        return {"data": data, "resize": "none, as they were coded", "skipped": []}
    resize = source.resize
    centre = f"shorter side to {resize}, then the centre, {resize} x {resize}"
    return {
        "data": source.describe(),
        "resize": centre if resize else "none, whole pictures",
        "skipped": list(source.skipped),
    }


def table(content: dict[str, Any], *, notes: bool = True) -> str:
    """The figures of a record as a Markdown table, followed by their source and notes on missing figures."""
    data = content["data"]
    split = f", split {data['split']}" if data["split"] else ""
    lines = [
        markdown_table(("metric", "value"), list(_rows(content["figures"]))),
        "",
        f"N = {content['n_pictures']} pictures of {data['data']} (layout {data['layout']}{split}).",
    ]
    lines += [f"Resize: {content['resize']}; {content['n_tiled']} rebuilt tile by tile. Range: {content['range']}."]
    computed = f" {content['precision']} on {content['device']}." if content["precision"] else ""
    lines += [f"Checkpoint: {content['checkpoint']['path']}.{computed}"]
    lines += [
        f"Weights of {metric}: {', '.join(file['path'] for file in files)}."
        for metric, files in content["weights"].items()
    ]
    if not notes:
        return "\n".join(lines)
    missing = [f"{metric} is unavailable: {reason}" for metric, reason in content["unavailable"].items()]
    missing += [f"{metric}: {warning}" for metric, warning in warnings_of(content)]
    missing += [f"skipped: {message}" for message in content["skipped"]]
    return "\n".join([*lines, *([""] if missing else []), *(f"- {note}" for note in missing)])


def warnings_of(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of a metric's name and a warning about its figures."""
    for metric, figures in content["figures"].items():
        for warning in figures.get("warnings", []):
            yield metric, warning


def _rows(figures: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for metric, found in figures.items():
        if metric == "psnr":
            yield "PSNR, pooled", _number(found["pooled"], ".2f", " dB")
            yield "PSNR, mean", _number(found["mean"], ".2f", " dB")
        elif metric == "kid":
            yield "rKID", f"{_number(found['mean'], '.6f')} ± {_number(found['std'], '.6f')}"
        elif metric == "codes":
            yield from _code_rows(found)
        elif metric == "block-means":
            for size in (key for key in found if key != "n"):
                rated = found[size]
                yield (
                    f"means of {size} blocks",
                    f"{_number(rated['psnr'], '.2f', ' dB')}, {_number(rated['ssim'], '.4f')}",
                )
        else:
            name = {"ssim": "SSIM", "lpips-alex": "LPIPS (alex)", "lpips-vgg": "LPIPS (vgg)", "fid": "rFID"}[metric]
            yield name, _number(found["value" if metric == "fid" else "mean"], ".4f")


def _code_rows(codes: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "nonzero code entries", _number(codes["density"], ".2%")
    yield "Hoyer sparsity, mean of codes", _number(codes["hoyer"], ".4f")
    yield "Hoyer sparsity, all as one", _number(codes["hoyer_of_all"], ".4f")
    yield "atoms in use", f"{codes['atoms_in_use']} of {codes['atoms']}"
    yield "dead atoms", str(codes["dead_atoms"])
    yield "usage entropy", _number(codes["usage_entropy"], ".2f", " bits")
    yield "coherence of the dictionary", _number(codes["coherence"], ".3f")
    yield "bits per picture", _number(codes["bits_per_picture"], ",.0f")
    yield "bits per pixel", _number(codes["bits_per_pixel"], ".3f")


def _number(value: float | str | None, form: str, unit: str = "") -> str:
    if value is None:
        return "undefined"
    return value + unit if isinstance(value, str) else f"{value:{form}}{unit}"


def head(checkpoint: str | os.PathLike[str] | None, *packages: str) -> dict[str, Any]:
    """The head of every metrics.json: schema, date, package versions and, if there is one, the checkpoint.

    The packages always include scvae-fast and torch.
    """
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions("scvae-fast", "torch", *packages),
    }
    return about if checkpoint is None else {**about, "checkpoint": identity(checkpoint)}


def identity(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Path or name of a checkpoint; SHA-256 of a local file."""
    path = checkpoint_path(checkpoint)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    return {"path": os.fspath(checkpoint), "sha256": inspect(file, "").sha256 if file.is_file() else None}


def _device(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def versions(*names: str) -> dict[str, str]:
    """The versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def plain(value: Any) -> Any:
    """The value for JSON, which has no tuples, no NaN (here null) and no infinity (here the text "inf")."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
