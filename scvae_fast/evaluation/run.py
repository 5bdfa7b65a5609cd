"""One pass over pictures: the model, every metric, and the pictures to show."""

import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from scvae_fast._shares import Processes
from scvae_fast.codes.storage import CodeFile
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.extremes import Extremes
from scvae_fast.evaluation.meters import BlockMeansMeter, CodesMeter, Meter, Meters
from scvae_fast.evaluation.rebuilding import rebuild
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics.weights import WeightsFile
from scvae_fast.models import SCVAE

# Number of codes that are made dense at a time.
_CELLS_AT_ONCE = 4096


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Example:
        >>> from scvae_fast.evaluation import Evaluation
        >>> sorted(Evaluation.__dataclass_fields__)
        ['extremes', 'figures', 'n_pictures', 'n_tiled', 'unavailable', 'weights']
    """

    n_pictures: int
    n_tiled: int  # number of pictures that were processed in tiles
    figures: dict[str, dict[str, Any]]  # by metric, see `meters`
    unavailable: dict[str, str]  # reasons, by metric
    weights: dict[str, list[WeightsFile]]  # files that the metrics used
    extremes: Extremes


def evaluate(
    model: SCVAE,
    pictures: Iterable[NamedPicture],
    settings: EvaluationSettings | None = None,
    *,
    warn: Callable[[str], object] | None = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Evaluate a model on pictures. Memory does not grow with their number.

    Args:
        model: the model; it is converted to float32, moved to the settings' device and put into evaluation mode.
        pictures: (3, H, W) in −1 … 1, each with its name; for instance a `PictureStream`.
        settings: see `EvaluationSettings`.
        warn: called for each metric that is unavailable because its weights are missing, before any work is done.
        processes: the processes that evaluate together, each on its share of the pictures. All get the figures; only
            the first one gets the pictures to show.

    Raises:
        UsageError: there are no pictures, the model is not for colour pictures, or a reconstruction is not finite.

    Example:
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.data import PictureStream
        >>> from scvae_fast.evaluation import EvaluationSettings, evaluate
        >>> model = SCVAE(SCVAEConfig.preset("pictures64"))
        >>> settings = EvaluationSettings(metrics=("psnr", "codes"))
        >>> found = evaluate(model, PictureStream("photographs", resize=64), settings)
        >>> found.n_pictures, sorted(found.figures)
        (2, ['codes', 'psnr'])
    """
    settings, processes = settings or EvaluationSettings(), processes or Processes()
    if model.config.in_channels != 3:
        raise UsageError(f"the model must be for pictures with 3 channels, it has {model.config.in_channels}")
    model = settings.speed.prepare(model.float().to(settings.device).eval())
    codes, extremes = CodesMeter(model, settings.value_bits), Extremes(settings.extremes)
    others: dict[str, Callable[[], Meter]] = {
        "codes": lambda: codes,
        "block-means": lambda: BlockMeansMeter(model.config.stride),
    }
    meters = Meters(settings, others, processes)
    if warn is not None:
        for metric, reason in meters.unavailable.items():
            warn(f"{metric} is unavailable: {reason}")
    n_pictures = n_tiled = 0
    with _progress(pictures, settings.limit, hidden=not processes.first) as bar:
        chosen = itertools.islice(pictures, settings.limit)
        for rebuilt in rebuild(
            model, chosen, on_codes=codes.take, batch_size=settings.batch_size, speed=settings.speed
        ):
            meters.update(rebuilt)
            extremes.update(rebuilt, meters.quality.psnr)
            n_pictures += len(rebuilt.names)
            n_tiled += len(rebuilt.names) * rebuilt.tiled
            bar.update(len(rebuilt.names))
    n_pictures, n_tiled = map(sum, zip(*processes.gather((n_pictures, n_tiled)), strict=True))
    if not n_pictures:
        raise UsageError("there are no pictures to evaluate the model on")
    meters.sum_over(processes)
    extremes.gather(processes)
    figures, unavailable = processes.on_first(lambda: (meters.figures(), meters.unavailable))
    return Evaluation(n_pictures, n_tiled, figures, unavailable, meters.weights, extremes)


def evaluate_codes(
    model: SCVAE, codes: CodeFile, settings: EvaluationSettings, *, processes: Processes | None = None
) -> Evaluation:
    """The figures of existing codes, without the pictures; nothing is encoded or decoded.

    Args:
        model: the model that made the codes.
        codes: the file, or the folder of parts.
        settings: its only metric must be "codes".
        processes: the processes that evaluate together, each on its share of the codes.

    Raises:
        ValueError: other metrics are requested.
        UsageError: another model made the codes, or there are no codes.
    """
    processes = processes or Processes()
    if settings.metrics != ("codes",):
        raise ValueError(f"evaluate_codes: settings.metrics must be ('codes',), got {settings.metrics}")
    codes.check_model(model)
    if not len(codes):
        raise UsageError(f"{codes.path} contains no pictures")
    meter, own = CodesMeter(model, settings.value_bits), codes.part(processes.share)
    with _progress((), len(own), hidden=not processes.first) as bar:
        for coded in own:
            rows = max(1, _CELLS_AT_ONCE // coded.codes.w)
            for first in range(0, coded.codes.h, rows):
                meter.take(coded.codes.dense(slice(first, first + rows), dtype=torch.float32))
            meter.count(1, coded.size[0] * coded.size[1])
            bar.update(1)
    meter.sum_over(processes)
    return Evaluation(len(codes), 0, {"codes": meter.figures("codes")}, {}, {}, Extremes(0))


def _progress(pictures: Iterable[NamedPicture], limit: int | None, *, hidden: bool) -> Any:
    known = [count for count in (limit, getattr(pictures, "length", None)) if count is not None]  # not all shards know
    # A log file gets a line every half minute, a terminal a progress bar.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    total = min(known, default=None)
    return tqdm(total=total, desc="evaluating", unit=" pictures", mininterval=interval, disable=hidden)
