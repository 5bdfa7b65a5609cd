"""`scvae-fast compare`."""

import argparse

from scvae_fast.cli._types import Commands, add_keyed


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_keyed(
        commands,
        "compare",
        options={
            "--config FILE": "YAML file, or compare-pictures64 or compare-ffhq256",
            "--out DIR": "folder of the comparison (default: out/compare)",
            "--resume": "continue the comparison in --out, without training its finished methods again",
            "--methods NAME …": "any of vae, beta-vae, info-vae, vqgan, vit-vqgan, rq-vae, mo-vqgan, sc-vae (default: "
            "all)",
            "--again PHASE": "repeat evaluation, timing or table for the trained methods",
            "--docs PAGE": "page to write the table into, between its markers",
            "--weights DIR": "folder with weights of LPIPS and FID",
            "--download": "fetch weights that are missing",
            "--part I/N": "train and evaluate only part I of N of the methods; array takes I and N from a Slurm job "
            "array",
        },
        help="train and evaluate SC-VAE alongside VAE, β-VAE, Info-VAE, VQGAN, ViT-VQGAN, RQ-VAE and Mo-VQGAN",
        description="Train SC-VAE and the autoencoders it is compared with in the same way, evaluate them on the same "
        "pictures, and write one table (JSON, CSV, Markdown) and figures. With --part, the last job measures the "
        "training steps and writes the table, as does a call without --part.",
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    from scvae_fast.commands.compare import run

    return run(options.rest)
