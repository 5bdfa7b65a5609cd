"""`scvae-fast probe`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_batching, add_checkpoint, count, name_of_data, natural, square_side

DESCRIPTORS = (
    "KIND[:POOLING[:GRID]], or thumbnail (the picture at 8 x 8 pixels). KIND: codes, latents, pixels (of the cells), "
    "colour (their means). POOLING: mean, max (of absolute values), signs (means of positive and of negative entries; "
    "the default), use (share of cells that use an atom). GRID: 1 (the whole picture; the default), 2 (its quarters as "
    "well). Default: a selection"
)


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "probe",
        help="train a linear classifier on the codes of labelled pictures",
        description="Train a logistic regression on pooled codes of labelled pictures, and on latents and pixels for "
        "comparison; its regularisation is chosen by cross-validation on the training pictures alone. Writes "
        "metrics.json and a table (metrics.md).",
    )
    add_checkpoint(parser)
    add_labelled(parser)
    parser.add_argument(
        "--repeats", type=count, default=5, metavar="N", help="number of random splits (default: %(default)s)"
    )
    parser.add_argument(
        "--folds", type=count, default=3, metavar="N", help="folds of the cross-validation (default: %(default)s)"
    )
    add_batching(parser)
    parser.add_argument("--out", type=Path, default=Path("out/probe"), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(run=_run)


def add_labelled(parser: argparse.ArgumentParser) -> None:
    """Add the options that select labelled pictures and their descriptors."""
    parser.add_argument(
        "--data",
        required=True,
        type=name_of_data,
        metavar="DATA",
        help="folder with CLASS/… or with train/CLASS/… and val/CLASS/…; patches (of the embedded photographs: each "
        "photograph is a class, with one end for training, the other for testing) or digits (scikit-learn's, enlarged)",
    )
    parser.add_argument(
        "--resize",
        type=square_side,
        default="model",
        metavar="PIXELS",
        help='side of the squares that pictures are resized and cropped to; "none" keeps those of folders whole '
        "(default: the model's resolution)",
    )
    parser.add_argument(
        "--per-class", type=count, metavar="N", help="use at most N pictures per class (default: all; 24 for patches)"
    )
    parser.add_argument("--descriptors", nargs="+", metavar="DESCRIPTOR", help=DESCRIPTORS)
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default: %(default)s")


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands._labelled import LabelledData
    from scvae_fast.commands.probe import probe_checkpoint

    probe_checkpoint(
        options.checkpoint,
        LabelledData(options.data, options.resize, options.per_class, options.seed),
        options.out,
        descriptors=options.descriptors,
        repeats=options.repeats,
        folds=options.folds,
        inference=InferenceOptions(device=options.device, batch_size=options.batch_size),
    )
    return 0
