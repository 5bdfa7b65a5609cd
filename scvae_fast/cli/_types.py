"""Options shared by commands, their types, and the type of the argument of `add`."""

import argparse
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scvae_fast._limits import too_large
from scvae_fast._shares import Share
from scvae_fast.errors import ArgumentError, UsageError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


_WIDTH = 78  # of help texts that are wrapped here

# Copied from `PictureStream`, which is slow to import.
LAYOUTS = ("auto", "photographs", "folder", "ffhq", "imagenet", "shards")
SPLITS = ("train", "val", "all")


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


def side(text: str) -> int:
    """Side in pixels of the squares that pictures are resized and cropped to."""
    pixels = count(text)
    try:
        problem = too_large(pixels, pixels)
    except UsageError as error:  # the variable that sets the limit is invalid
        problem = str(error)
    if problem:
        raise argparse.ArgumentTypeError(problem)
    return pixels


def side_or_none(text: str) -> int | None:
    """Side in pixels of the squares that pictures are resized and cropped to; "none" keeps them whole."""
    return None if text in ("none", "0") else side(text)


def square_side(text: str) -> int | Literal["model"] | None:
    """Like `side_or_none`, or "model" for the model's resolution."""
    return "model" if text == "model" else side_or_none(text)


def name_of_data(text: str) -> str:
    """The name of a folder, a file or embedded data."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def counts(text: str) -> list[int]:
    """Numbers of things, separated by commas."""
    return [count(part.strip()) for part in text.split(",")]


def natural(text: str) -> int:
    """An integer, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return int(text)


def part(text: str) -> Share:
    """The share of the work that a process does, see `Share.parse`."""
    try:
        return Share.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_keyed(
    commands: Commands, name: str, *, options: Mapping[str, str], help: str, description: str
) -> argparse.ArgumentParser:
    """Add a command with the keys of a YAML file as options. Its full parser takes seconds to import.

    Therefore `--help` covers only `options`, which are described but not parsed, and `--help_keys` has the full parser
    list every key. `options` maps names with metavars, such as "--out DIR", to descriptions.
    """
    described = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    group = described.add_argument_group("main options")
    for option, text in options.items():
        flag, _, metavar = option.partition(" ")
        if metavar:
            group.add_argument(flag, metavar=metavar, help=text)
        else:
            group.add_argument(flag, action="store_true", help=text)
    keys = (
        "Every key of the file can be overridden, as in --trainer.max_steps 100; unknown keys are errors. --help_keys "
        "lists them all."
    )
    return commands.add_parser(
        name,
        usage=f"scvae-fast {name} --config FILE [OPTION …] [--KEY VALUE …]",
        help=help,
        description=textwrap.fill(description, _WIDTH),
        epilog=f"{described.format_help().strip()}\n\n{textwrap.fill(keys, _WIDTH)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`, see `load_model`; the default is the model that comes with the package."""
    parser.add_argument(
        "--checkpoint",
        default="pictures64",
        metavar="DIR",
        help="folder of a training run or of save_pretrained, a last.ckpt, or hf:user/name on the Hugging Face Hub "
        "(default: %(default)s, the model that comes with the package)",
    )


def add_pictures(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that select pictures, see `PictureStream`; without `--resize`."""
    parser.add_argument(
        "--data",
        required=required,
        type=name_of_data,
        metavar="DATA",
        help='folder, picture, tar shards, or "photographs" (the embedded ones)',
    )
    parser.add_argument("--layout", choices=LAYOUTS, help="how DATA is arranged (default: detected)")
    parser.add_argument(
        "--split", choices=SPLITS, help="which part of FFHQ, ImageNet or photographs, or all (default: val)"
    )
    parser.add_argument("--limit", type=count, metavar="N", help="take the first N pictures (default: all)")


def add_codes(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Add `--codes`, which replaces `--data`, see `check_source`."""
    parser.add_argument(
        "--codes",
        type=Path,
        metavar="FILE",
        help=f"file or folder written by scvae-fast encode, instead of --data{note}",
    )


def check_source(options: argparse.Namespace, *, resize: str | None) -> None:
    """Check that `--data`, `--codes` and the options that select pictures are compatible.

    Args:
        options: the command line.
        resize: default of `--resize`.

    Raises:
        ArgumentError: both or neither of --data and --codes are given, or --codes with an option for pictures.
    """
    if (options.data is None) == (options.codes is None):
        raise ArgumentError("give either --data or --codes")
    for name, default in {"limit": None, "layout": None, "split": None, "resize": resize}.items():
        if options.codes is not None and getattr(options, name) != default:
            raise ArgumentError(f"--{name} can't be used with --codes, which are taken as a whole")


def add_resize(parser: argparse.ArgumentParser) -> None:
    """Add `--resize`, for commands that keep pictures whole by default."""
    parser.add_argument(
        "--resize",
        type=side_or_none,
        metavar="PIXELS",
        help='scale the shorter side to this many pixels and crop the centre (default: "none" keeps pictures whole)',
    )


def add_batching(parser: argparse.ArgumentParser) -> None:
    """Add `--batch-size` and `--device`."""
    parser.add_argument("--batch-size", type=count, default=16, metavar="N", help="default: %(default)s")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, see `find_device`."""
    parser.add_argument("--device", type=_device, help="cpu, cuda, cuda:1 … (default: cuda if available)")


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:1 …, got {text!r}")
    return text
