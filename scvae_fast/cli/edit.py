"""`scvae-fast edit`, with a subcommand for each way to edit."""

import argparse
import math
from pathlib import Path

from scvae_fast.cli._types import Commands, add_checkpoint, add_device, count, natural
from scvae_fast.errors import ArgumentError


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "edit",
        help="edit pictures through their codes: interpolate, or change single atoms",
        description="Edit pictures of any size through their codes. Writes PNG files, metrics.json and a "
        "table (metrics.md).",
    )
    ways = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="way")
    _add_interpolate(ways)
    _add_atoms(ways)


def _add_interpolate(ways: Commands) -> None:
    parser = ways.add_parser(
        "interpolate",
        help="interpolate between two pictures",
        description="Interpolate between the codes of two pictures of the same size, and for comparison between their "
        "latents and pixels.",
    )
    _add_common(parser, "interpolate")
    parser.add_argument("pictures", nargs=2, type=Path, metavar="PICTURE")
    parser.add_argument(
        "--steps",
        type=_steps,
        default=7,
        metavar="N",
        help="pictures in the sequence, both ends included (default: %(default)s)",
    )
    parser.set_defaults(run=_interpolate)


def _add_atoms(ways: Commands) -> None:
    parser = ways.add_parser(
        "atoms",
        help="rank the atoms of a picture, and switch some off",
        description="Rank the atoms of a picture's codes by their energy, draw what each adds, and decode the codes "
        "with some atoms removed, scaled, or on their own.",
    )
    _add_common(parser, "atoms")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument("--remove", nargs="+", type=natural, default=[], metavar="ATOM", help="atoms to switch off")
    parser.add_argument(
        "--factor", nargs="+", type=_factor, default=[], metavar="ATOM=FACTOR", help="atoms to multiply, as in 17=2.5"
    )
    parser.add_argument("--keep", nargs="+", type=natural, default=[], metavar="ATOM", help="keep only these")
    parser.add_argument("--keep-top", type=count, metavar="N", help="keep only the N atoms with the most energy")
    parser.add_argument("--top", type=count, default=16, metavar="N", help="atoms to list (default: %(default)s)")
    parser.set_defaults(run=_atoms)


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    add_checkpoint(parser)
    add_device(parser)
    parser.add_argument("--out", type=Path, default=Path("out/edit", name), metavar="DIR", help="default: %(default)s")


def _steps(text: str) -> int:
    if count(text) < 2:
        raise argparse.ArgumentTypeError(f"must be 2 or more, got {text!r}")
    return int(text)


def _factor(text: str) -> tuple[int, float]:
    atom, separator, factor = text.partition("=")
    try:
        if not separator:
            raise ValueError
        if not math.isfinite(float(factor)):
            raise ValueError
        return natural(atom), float(factor)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"must be ATOM=FACTOR, got {text!r}") from error


def _factors(options: argparse.Namespace) -> dict[int, float]:
    """The factors of --remove and --factor.

    Raises:
        ArgumentError: an atom has two factors.
    """
    factors = dict(options.factor)
    for atom, factor in options.factor:
        if factor != factors[atom]:
            raise ArgumentError(f"--factor must give each atom one factor, got two for atom {atom}")
    for atom in options.remove:
        if atom in factors:
            raise ArgumentError(f"--remove and --factor must name different atoms, got {atom} in both")
    return dict.fromkeys(options.remove, 0.0) | factors


def _interpolate(options: argparse.Namespace) -> int:
    from scvae_fast.commands.edit_interpolate import interpolate_files

    first, second = options.pictures
    interpolate_files(options.checkpoint, first, second, options.out, steps=options.steps, device=options.device)
    return 0


def _atoms(options: argparse.Namespace) -> int:
    factors = _factors(options)
    from scvae_fast.commands.edit_atoms import edit_atoms

    edit_atoms(
        options.checkpoint,
        options.picture,
        options.out,
        factors=factors,
        keep=options.keep,
        keep_top=options.keep_top,
        top=options.top,
        device=options.device,
    )
    return 0
