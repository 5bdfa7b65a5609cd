"""`scvae-fast retrieve`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_batching, add_checkpoint, count
from scvae_fast.cli.probe import add_labelled


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "retrieve",
        help="find the pictures whose codes are most similar",
        description="Find the nearest neighbours of pictures by their pooled codes. Where the pictures have classes, "
        "precision@k and mAP say how often neighbours share the class, for codes, latents and pixels. Writes "
        "metrics.json, a table (metrics.md) and a sheet of queries and their neighbours (neighbours.png).",
    )
    add_checkpoint(parser)
    add_labelled(parser)
    parser.add_argument(
        "--query",
        nargs="+",
        type=Path,
        default=[],
        metavar="PICTURE",
        help="find the neighbours of these files; DATA may then be any folder, or photographs (default: a few of DATA)",
    )
    parser.add_argument("--k", type=count, default=5, metavar="N", help="neighbours per picture (default: %(default)s)")
    add_batching(parser)
    parser.add_argument("--out", type=Path, default=Path("out/retrieve"), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands._labelled import LabelledData
    from scvae_fast.commands.retrieve import retrieve_checkpoint

    retrieve_checkpoint(
        options.checkpoint,
        LabelledData(options.data, options.resize, options.per_class, options.seed),
        options.out,
        queries=options.query,
        descriptors=options.descriptors,
        k=options.k,
        inference=InferenceOptions(device=options.device, batch_size=options.batch_size),
    )
    return 0
