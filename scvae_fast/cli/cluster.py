"""`scvae-fast cluster`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import (
    Commands,
    add_batching,
    add_checkpoint,
    add_codes,
    add_pictures,
    add_resize,
    check_source,
    counts,
    natural,
)


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cluster",
        help="cluster the patches of pictures by their codes",
        description="Run K-means on the codes of all patches. Writes clustering.safetensors, metrics.json, a table "
        "(metrics.md), the patches of each cluster, and maps of the first pictures. Memory does not grow with the "
        "number of patches.",
    )
    add_checkpoint(parser)
    add_pictures(parser, required=False)
    add_codes(parser)
    add_resize(parser)
    parser.add_argument(
        "--clusters",
        type=counts,
        required=True,
        metavar="K[,K…]",
        help="number of clusters; of several, such as 4,8,16, the one with the largest silhouette is used",
    )
    parser.add_argument(
        "--scale",
        choices=("none", "unit", "magnitude"),
        default="unit",
        help="compare codes as z (none), z / ‖z‖ (unit) or |z| / ‖z‖ (magnitude) (default: %(default)s)",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default: %(default)s")
    add_batching(parser)
    parser.add_argument("--out", type=Path, default=Path("out/cluster"), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    check_source(options, resize=None)
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands.cluster import Pictures, cluster_codes
    from scvae_fast.tasks.clustering import KMeansSettings

    source = options.codes or Pictures(
        data=options.data,
        layout=options.layout or "auto",
        split=options.split,
        resize=options.resize,
        limit=options.limit,
    )
    cluster_codes(
        options.checkpoint,
        source,
        options.out,
        clusters=options.clusters,
        settings=KMeansSettings(scale=options.scale, seed=options.seed),
        inference=InferenceOptions(device=options.device, batch_size=options.batch_size),
    )
    return 0
