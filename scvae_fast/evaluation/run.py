"""One pass over pictures: the model, every metric, the pictures worth a look."""

import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.extremes import Extremes
from scvae_fast.evaluation.meters import BlockMeansMeter, CodesMeter, Meters
from scvae_fast.evaluation.rebuilding import rebuild
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics.weights import WeightsFile
from scvae_fast.models import SCVAE


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    n_pictures: int
    n_tiled: int  # those of them that did not go through the model as a whole
    figures: dict[str, dict[str, Any]]  # by the name of the metric, see `meters`
    unavailable: dict[str, str]  # why a metric has none
    weights: dict[str, list[WeightsFile]]  # that the metrics used
    extremes: Extremes


def evaluate(
    model: SCVAE,
    pictures: Iterable[NamedPicture],
    settings: EvaluationSettings | None = None,
    *,
    warn: Callable[[str], object] | None = None,
) -> Evaluation:
    """Rate a model on pictures. What is kept does not grow with their number, but for KID's features (16 KiB each).

    Args:
        model: put into evaluation mode, float32 and on the settings' device.
        pictures: (3, H, W) in −1 … 1, each with its name; for instance a `PictureStream`.
        settings: see there.
        warn: gets each metric that is unavailable for lack of weights, before any work is done.

    Raises:
        UsageError: there are no pictures, the model is not one for colour pictures, or a reconstruction is not finite.
    """
    settings = settings or EvaluationSettings()
    if model.config.in_channels != 3:
        raise UsageError(f"the model must code pictures of 3 channels, it has {model.config.in_channels}")
    model = settings.speed.prepare(model.float().to(settings.device).eval())
    codes, extremes = CodesMeter(model, settings.value_bits), Extremes(settings.extremes)
    meters = Meters(settings, {"codes": lambda: codes, "block-means": lambda: BlockMeansMeter(model.config.stride)})
    if warn is not None:
        for metric, reason in meters.unavailable.items():
            warn(f"{metric} is unavailable: {reason}")
    n_pictures = n_tiled = 0
    with _progress(pictures, settings.limit) as bar:
        chosen = itertools.islice(pictures, settings.limit)
        for rebuilt in rebuild(
            model, chosen, on_codes=codes.take, batch_size=settings.batch_size, speed=settings.speed
        ):
            meters.update(rebuilt)
            extremes.update(rebuilt, meters.quality.psnr)
            n_pictures += len(rebuilt.names)
            n_tiled += len(rebuilt.names) * rebuilt.tiled
            bar.update(len(rebuilt.names))
    if not n_pictures:
        raise UsageError("there are no pictures to evaluate the model on")
    return Evaluation(n_pictures, n_tiled, meters.figures(), meters.unavailable, meters.weights, extremes)


def _progress(pictures: Iterable[NamedPicture], limit: int | None) -> Any:
    known = [count for count in (limit, getattr(pictures, "length", None)) if count is not None]  # shards may not know
    # A log file gets a line every half minute, a terminal a bar that moves.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(total=min(known, default=None), desc="evaluating", unit=" pictures", mininterval=interval)
