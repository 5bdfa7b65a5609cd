"""`scvae-fast doctor`."""

import argparse

from scvae_fast.cli._types import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="show versions, processor, GPU, and which backends can be used")
    parser.add_argument(
        "--trial", action="store_true", help="try the GPU kernels on each card again, and print the results"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands import doctor

    return doctor.try_kernels() if options.trial else doctor.main()
