"""`scvae-fast evaluate`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import (
    Commands,
    add_batching,
    add_checkpoint,
    add_codes,
    add_pictures,
    check_source,
    natural,
    square_side,
)
from scvae_fast.errors import ArgumentError

# Exit status: some of the requested metrics could not be computed.
UNAVAILABLE = 3

_METRICS = ("psnr", "ssim", "lpips-alex", "lpips-vgg", "fid", "kid", "codes", "block-means")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model on pictures: PSNR, SSIM, LPIPS, rFID, KID and statistics of its codes",
        description="Evaluate a trained model on pictures in one pass. Writes metrics.json, a table (metrics.md), and "
        "the best and worst reconstructions.",
        epilog="Exit status: 0 if every metric was computed; 3 if one could not be, for example because its weights "
        "are missing: the others are computed, and the result says how to provide what is missing; 1 after an error; 2 "
        "after an invalid option.",
    )
    add_checkpoint(parser)
    add_pictures(parser, required=False)
    add_codes(parser, "; only the metric codes is computed")
    parser.add_argument(
        "--resize",
        type=square_side,
        default="model",
        metavar="PIXELS",
        help='scale the shorter side to this many pixels and crop the centre; "none" keeps pictures whole '
        "(default: the model's resolution)",
    )
    add_batching(parser)
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics", nargs="+", type=_metric, metavar="METRIC", help=f"any of {', '.join(_METRICS)} (default: all)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="folder with the weights of the metrics' networks; torch hub's folder is searched next",
    )
    parser.add_argument("--download", action="store_true", help="fetch weights that are missing")
    parser.add_argument(
        "--value-bits",
        type=natural,
        default=16,
        metavar="N",
        help="bits to count for each nonzero value of a code (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("out/evaluate"), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _metric(text: str) -> str:
    if text not in _METRICS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_METRICS)}, got {text!r}")
    return text


def _run(options: argparse.Namespace) -> int:
    check_source(options, resize="model")
    if options.codes is not None:
        options.metrics = options.metrics or ["codes"]
        if options.metrics != ["codes"]:
            raise ArgumentError("with --codes, only --metrics codes can be computed; the other metrics need --data")
    # Imported here because the base installation has neither torchmetrics nor Pillow.
    from scvae_fast._devices import find_device
    from scvae_fast.commands.evaluate import evaluate_checkpoint
    from scvae_fast.evaluation.settings import METRICS, EvaluationSettings
    from scvae_fast.models.speed import SpeedSettings

    try:
        settings = EvaluationSettings(
            metrics=tuple(dict.fromkeys(options.metrics or METRICS)),
            limit=options.limit,
            batch_size=options.batch_size,
            device=str(find_device(options.device)),
            speed=SpeedSettings(precision=options.precision),
            weights=options.weights,
            download=options.download,
            value_bits=options.value_bits,
        )
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    content = evaluate_checkpoint(
        options.checkpoint,
        options.data,
        options.out,
        settings,
        codes=options.codes,
        layout=options.layout or "auto",
        split=options.split,
        resize=options.resize,
    )
    return UNAVAILABLE if content["unavailable"] else 0
