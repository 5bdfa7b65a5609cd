"""`scvae-fast train`."""

import argparse

from scvae_fast.cli._types import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "train",
        help="train an SC-VAE as a YAML file says",
        description="What follows goes to Lightning's command line; see scvae-fast train --help.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.train import train

    return train(options.rest)
