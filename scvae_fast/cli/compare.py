"""`scvae-fast compare`."""

import argparse

from scvae_fast.cli._types import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="train and rate SC-VAE beside VAE, β-VAE, Info-VAE, VQGAN, ViT-VQGAN, RQ-VAE and Mo-VQGAN",
        add_help=False,
        allow_abbrev=False,
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.compare import run

    return run(options.rest)
