"""`scvae-fast train`."""

import argparse

from scvae_fast.cli._types import Commands, add_keyed


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_keyed(
        commands,
        "train",
        options={
            "--config FILE": "YAML file, or the name of one in the package, such as pictures64",
            "--out DIR": "folder of the training run (default: out/train)",
            "--resume": "continue the training run in --out, if there is one",
            "--ema DECAY": "decay of averaged weights, such as 0.999 (default: none are kept)",
            "--checkpoint_minutes MINUTES": "minutes between two checkpoints (default: 10)",
        },
        help="train an SC-VAE from a YAML configuration",
        description="Train an SC-VAE. For several GPUs: --trainer.devices 8 --trainer.strategy ddp. For several "
        "machines: the same under torchrun.",
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.train import train

    return train(options.rest)
