"""`scvae-fast decode`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_checkpoint
from scvae_fast.cli.encode import add_running


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "decode",
        help="decode a file of codes into pictures",
        description="Decode every picture in a file of codes with the model that made them, and write them under their "
        "names into a new folder.",
    )
    add_checkpoint(parser)
    parser.add_argument("codes", type=Path, metavar="CODES", help="file that scvae-fast encode wrote, or its folder")
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="accept codes that another model made")
    add_running(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the pictures")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands._inputs import InferenceOptions
    from scvae_fast.commands.decode import decode_codes

    decode_codes(
        options.checkpoint,
        options.codes,
        options.out,
        suffix=options.format,
        force=options.force,
        inference=InferenceOptions(device=options.device, precision=options.precision, batch_size=options.batch_size),
    )
    return 0
