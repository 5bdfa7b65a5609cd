"""`scvae-fast bench`."""

import argparse
import sys
from pathlib import Path

from scvae_fast.cli._types import Commands
from scvae_fast.errors import UsageError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure scvae_fast against eager PyTorch on this machine (needs the source tree)",
        usage="scvae-fast bench [--quick | --full] [--case PATTERN] [--list] [--out DIR] [OPTION …]",
        description="All options go to python -m benchmarks, in the source tree that this package runs from. "
        "python -m benchmarks --help lists them.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_run, rest=[])


def _run(options: argparse.Namespace) -> int:
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "run.py").exists():
        raise UsageError("an installed package does not contain the benchmarks; run `make bench` in the source tree")
    sys.path.insert(0, str(root))
    from benchmarks.run import main as run_benchmarks

    return run_benchmarks(options.rest)
