"""The command `scvae-fast`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Exit statuses beside 0 and 2, which is argparse's for wrong usage.
FAILED = 1
STOPPED = 130  # by Ctrl-C, as a shell counts it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is _bench:
        options.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.run(options))
    except ImportError as error:
        # An extra that is not installed; the message names it.
        print(f"scvae-fast: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("scvae-fast: stopped", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scvae-fast", description="Fast learned sparse coding, and the sparse-coding VAE built on it."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a small SC-VAE on real photographs, rate it on two others, draw pictures",
        description="Train a small SC-VAE on the photographs that ship inside scikit-image and scikit-learn, rate it "
        "on two that are held out, and draw pictures. Ctrl-C keeps the state; the same command goes on from there.",
    )
    demo.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument(
        "--minutes", type=_positive, default=10.0, help="time for training, in all (default: %(default)g)"
    )
    demo.set_defaults(run=_demo)

    rebuild = commands.add_parser(
        "reconstruct",
        help="code pictures with a trained model and rebuild them from their codes",
        description="Code pictures of any size with a trained model and write what it rebuilds from the codes as PNG.",
    )
    rebuild.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="folder written by save_pretrained, or a name on the hub"
    )
    rebuild.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="PNG, JPEG … file")
    rebuild.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    rebuild.set_defaults(run=_reconstruct)

    bench = commands.add_parser(
        "bench",
        help="measure this machine against eager PyTorch (needs the source tree)",
        description="What follows goes to python -m benchmarks, in the source tree that this package runs from.",
        add_help=False,
    )
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="versions, processor, GPU, and which backends can be used")
    doctor.set_defaults(run=_doctor)
    return parser


# The commands import what they need themselves: the base installation has neither Lightning nor Pillow.


def _demo(options: argparse.Namespace) -> int:
    from scvae_fast.training.demo import DemoError, run_demo

    try:
        return run_demo(options.out, options.minutes)
    except DemoError as error:
        print(f"scvae-fast demo: {error}", file=sys.stderr)
        return FAILED


def _reconstruct(options: argparse.Namespace) -> int:
    from scvae_fast.reconstruct import ReconstructError, reconstruct_files

    try:
        unread = reconstruct_files(options.checkpoint, options.pictures, options.out)
    except ReconstructError as error:
        print(f"scvae-fast reconstruct: {error}", file=sys.stderr)
        return FAILED
    return FAILED if unread else 0


def _bench(options: argparse.Namespace) -> int:
    root = Path(__file__).resolve().parent.parent
    if not (root / "benchmarks" / "run.py").exists():
        print(
            "scvae-fast bench: the benchmarks are no part of an installed package; run `make bench` in the source tree",
            file=sys.stderr,
        )
        return FAILED
    sys.path.insert(0, str(root))
    from benchmarks.run import main as run_benchmarks

    return run_benchmarks(options.rest)


def _doctor(options: argparse.Namespace) -> int:
    from scvae_fast import doctor

    return doctor.main()


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value
