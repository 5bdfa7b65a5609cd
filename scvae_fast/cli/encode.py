"""`scvae-fast encode`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_batching, add_checkpoint, add_pictures, add_resize, part


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "encode",
        help="encode pictures into one file of sparse codes",
        description="Encode pictures of any size with a trained model into one Parquet file. Prints its size in bits "
        "per pixel. Memory does not grow with the number of pictures. Under torchrun, and with --part, each process "
        "writes one part into the folder --out. Repeat the command to write missing parts.",
    )
    add_checkpoint(parser)
    add_pictures(parser)
    add_resize(parser)
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="dtype of the stored values; float32 keeps them exactly (default: %(default)s)",
    )
    add_running(parser)
    parser.add_argument(
        "--part",
        type=part,
        metavar="I/N",
        help="encode only part I of N (I = 1 … N), without other processes; array takes I and N from a Slurm job array",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="such as codes.parquet; with parts, a folder"
    )
    parser.set_defaults(run=_run)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add `--batch-size`, `--device` and `--precision`."""
    add_batching(parser)
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of encoder and decoder (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands.encode import encode_data

    encode_data(
        options.checkpoint,
        options.data,
        options.out,
        layout=options.layout or "auto",
        split=options.split,
        resize=options.resize,
        limit=options.limit,
        values=options.dtype,
        inference=InferenceOptions(device=options.device, precision=options.precision, batch_size=options.batch_size),
        part=options.part,
    )
    return 0
