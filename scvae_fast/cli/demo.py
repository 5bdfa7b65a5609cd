"""`scvae-fast demo`."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, positive


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="train a small SC-VAE on real photographs and evaluate it on two others",
        description="Train a small SC-VAE on the photographs that come with scikit-image and scikit-learn, evaluate it "
        "on two that are held out, and draw pictures. Ctrl-C keeps the state; run the same command again to continue.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--minutes", type=positive, default=10.0, help="total training time (default: %(default)g)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # Imported here because the base installation has neither Lightning nor Pillow.
    from scvae_fast.commands.demo import run_demo

    return run_demo(options.out, options.minutes)
