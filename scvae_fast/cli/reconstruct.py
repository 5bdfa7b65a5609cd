"""`scvae-fast reconstruct`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_checkpoint, add_device


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reconstruct",
        help="encode pictures with a trained model and decode them again",
        description="Encode pictures of any size with a trained model, decode the codes, and write the results as PNG.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURE", help="PNG, JPEG … file, or a folder of them"
    )
    add_device(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the results; only results of an earlier run are replaced, other files are kept",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.reconstruct import reconstruct_files

    unread = reconstruct_files(options.checkpoint, options.pictures, options.out, device=options.device)
    return 1 if unread else 0
