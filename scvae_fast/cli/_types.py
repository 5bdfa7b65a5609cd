"""Types of options, and of what `add` gets."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def count(text: str) -> int:
    """A number of things, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`, what `load_model` takes."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="folder of a training, or written by save_pretrained; a last.ckpt; or a name on the hub",
    )
