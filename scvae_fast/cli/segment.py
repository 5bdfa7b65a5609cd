"""`scvae-fast segment`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_checkpoint, add_device, count, name_of_data, natural
from scvae_fast.errors import ArgumentError

_FEATURES = ("codes", "latents", "pixels", "centred", "colour")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "segment",
        help="segment pictures by the codes of their cells, without labels or with a few",
        description="Segment pictures and score them against their masks. Writes masks as PNG, overlays, and mIoU, "
        "Dice and pixel accuracy (metrics.json, metrics.md). Without --labels, cells are clustered and clusters are "
        "matched to the masks (Hungarian method); with --labels, a classifier learns from that many pictures.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--data",
        required=True,
        type=name_of_data,
        metavar="DATA",
        help='"mosaics" of embedded textures, or a folder: images/ and masks/, Oxford flowers, CUB, ISIC',
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "folder", "flowers17", "flowers102", "cub", "isic"),
        default="auto",
        help="how the folder is arranged (default: detected)",
    )
    parser.add_argument("--classes", type=count, metavar="N", help="classes in masks/, 2 … 255 (default: 2)")
    parser.add_argument(
        "--limit", type=count, metavar="N", help="segment at most N pictures (default: all; 16 for mosaics)"
    )
    parser.add_argument(
        "--labels",
        type=natural,
        default=0,
        metavar="N",
        help="learn from N pictures with masks, which are not segmented (default: none)",
    )
    parser.add_argument(
        "--classifier",
        choices=("logistic", "centres"),
        help="with labels: logistic regression, or the nearest class mean (default: logistic)",
    )
    parser.add_argument(
        "--clusters", type=count, metavar="K", help="clusters, without labels (default: as many as classes)"
    )
    parser.add_argument(
        "--features",
        type=_features,
        metavar="F[,F…]",
        help=f"features of a cell: {', '.join(_FEATURES)}; several are compared (default: codes)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare all features, each also for single cells, without words and window",
    )
    _add_method(parser)
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=count, default=1, metavar="N", help="run with N seeds (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--out", type=Path, default=Path("out/segment"), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--words",
        type=natural,
        default=256,
        metavar="N",
        help="clusters of cells; their histograms describe a cell's surroundings; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        type=_not_negative,
        default=1.5,
        metavar="CELLS",
        help="standard deviation of the Gaussian window of these histograms (default: %(default)s)",
    )
    parser.add_argument(
        "--shifts",
        type=count,
        default=2,
        metavar="N",
        help="average the maps of N x N shifts of the cells (default: %(default)s)",
    )
    parser.add_argument(
        "--smooth",
        type=_not_negative,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the total variation that smooths maps; 0 for none (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    _check(options)
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands.segment import Labels, segment_pictures
    from scvae_fast.tasks.segmentation import FEATURES, FeatureSettings, MapSettings
    from scvae_fast.tasks.segmentation.experiment import Method

    labels = Labels(
        data=options.data,
        layout=options.layout,
        classes=options.classes,
        labelled=options.labels,
        limit=options.limit,
    )
    method = Method(
        features=FeatureSettings(words=options.words, pool=options.pool, seed=options.seed),
        maps=MapSettings(shifts=options.shifts, smooth=options.smooth),
        clusters=options.clusters,
        classifier=options.classifier or "logistic",
    )
    segment_pictures(
        options.checkpoint,
        labels,
        options.out,
        method,
        features=FEATURES if options.compare else options.features or ("codes",),
        plain=options.compare,
        repeats=options.repeats,
        inference=InferenceOptions(device=options.device),
    )
    return 0


def _check(options: argparse.Namespace) -> None:
    """Check that no option is given that another one makes useless.

    Raises:
        ArgumentError: one is; the message names both.
    """
    if options.labels and options.clusters:
        raise ArgumentError("--clusters can't be used with --labels: a classifier has the classes of the masks")
    if options.classifier and not options.labels:
        raise ArgumentError("--classifier can't be used without --labels: there are no masks to learn from")
    if options.compare and options.features:
        raise ArgumentError("--features can't be used with --compare, which compares all features")


def _features(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    if unknown := [part for part in chosen if part not in _FEATURES]:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(_FEATURES)}, got {unknown[0]!r}")
    return list(dict.fromkeys(chosen))


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return value
