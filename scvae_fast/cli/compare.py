"""`scvae-fast compare`."""

import argparse

from scvae_fast.cli._types import Commands, add_keyed


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_keyed(
        commands,
        "compare",
        options="--config FILE [--out DIR] [--resume] [--methods NAME …] [--again PHASE] [--docs PAGE] "
        "[--weights DIR] [--download] [--part I/N]",
        help="train and evaluate SC-VAE alongside VAE, β-VAE, Info-VAE, VQGAN, ViT-VQGAN, RQ-VAE and Mo-VQGAN",
        description="Train SC-VAE and the autoencoders it is compared with in the same way, evaluate them on the same "
        "pictures, and write one table (JSON, CSV, Markdown) and figures. --config takes a YAML file, or "
        "compare-pictures64 or compare-ffhq256. --resume continues a comparison that was stopped or killed, without "
        "training its finished methods again. With --part I/N, a job trains and evaluates a part of the methods. The "
        "last job measures the training steps and writes the table, as does a call without --part.",
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.compare import run

    return run(options.rest)
