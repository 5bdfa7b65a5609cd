"""`scvae-fast train`."""

import argparse

from scvae_fast.cli._types import Commands, add_keyed


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_keyed(
        commands,
        "train",
        options="--config FILE [--out DIR] [--resume] [--ema DECAY] [--checkpoint_minutes MINUTES]",
        help="train an SC-VAE from a YAML configuration",
        description="Train an SC-VAE. --config takes a YAML file, or the name of one in the package, such as "
        "pictures64. For several GPUs: --trainer.devices 8 --trainer.strategy ddp. For several machines: the same "
        "under torchrun.",
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.train import train

    return train(options.rest)
