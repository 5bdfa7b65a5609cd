"""`scvae-fast edit`, with a command for each way to edit."""

import argparse
from pathlib import Path

from scvae_fast.cli._types import Commands, add_checkpoint, count


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "edit",
        help="interpolate, denoise and fill in pictures by way of their codes, or change single atoms",
        description="Change pictures of any size by way of their codes. Results are PNG files, metrics.json and a "
        "table (metrics.md).",
    )
    ways = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="way")
    _add_interpolate(ways)
    _add_atoms(ways)
    _add_denoise(ways)
    _add_inpaint(ways)


def _add_interpolate(ways: Commands) -> None:
    parser = ways.add_parser(
        "interpolate",
        help="what lies between two pictures",
        description="Interpolate between the codes of two pictures of one size, beside their latents and their pixels.",
    )
    _add_common(parser, "interpolate")
    parser.add_argument("pictures", nargs=2, type=Path, metavar="PICTURE")
    parser.add_argument("--steps", type=count, default=7, metavar="N", help="with both ends (default: %(default)s)")
    parser.set_defaults(run=_interpolate)


def _add_atoms(ways: Commands) -> None:
    parser = ways.add_parser(
        "atoms",
        help="rank a picture's atoms, and switch some off",
        description="Rank the atoms of a picture's codes by their energy, draw what they paint, and decode the codes "
        "with some atoms removed, scaled, or alone.",
    )
    _add_common(parser, "atoms")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument("--remove", nargs="+", type=int, default=[], metavar="ATOM", help="atoms to switch off")
    parser.add_argument(
        "--factor", nargs="+", type=_factor, default=[], metavar="ATOM=FACTOR", help="atoms to multiply, as in 17=2.5"
    )
    parser.add_argument("--keep", nargs="+", type=int, default=[], metavar="ATOM", help="keep these alone")
    parser.add_argument("--keep-top", type=count, metavar="N", help="keep the N atoms with the most energy alone")
    parser.add_argument("--top", type=count, default=16, metavar="N", help="atoms to list (default: %(default)s)")
    parser.set_defaults(run=_atoms)


def _add_denoise(ways: Commands) -> None:
    parser = ways.add_parser(
        "denoise",
        help="take noise away by coding again",
        description="Add noise to a picture and code it again, with one or several thresholds; total variation (with "
        "the weight that is best against the clean picture) and non-local means (which is told sigma) for comparison.",
    )
    _add_common(parser, "denoise")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument(
        "--sigma",
        nargs="+",
        type=float,
        default=[10.0, 25.0, 50.0],
        metavar="S",
        help="deviation of the noise in 8-bit levels (default: 10 25 50)",
    )
    parser.add_argument(
        "--scale",
        nargs="+",
        type=float,
        default=[0.5, 1.0, 2.0, 4.0],
        metavar="F",
        help="times the model's threshold; more takes away more (default: 0.5 1 2 4)",
    )
    parser.add_argument(
        "--shifts",
        type=count,
        metavar="N",
        help="average over N x N shifts of the cells (default: 2)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)")
    parser.add_argument("--noisy", action="store_true", help="the picture is noisy already: add nothing")
    parser.add_argument("--reference", type=Path, metavar="PICTURE", help="the clean picture of one that is noisy")
    parser.set_defaults(run=_denoise)


def _add_inpaint(ways: Commands) -> None:
    parser = ways.add_parser(
        "inpaint",
        help="fill in missing pixels by coding again and again",
        description="Fill in missing pixels: code, decode, put the known pixels back, and again. Biharmonic "
        "in-painting for comparison.",
    )
    _add_common(parser, "inpaint")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    parser.add_argument("--mask", type=Path, metavar="PICTURE", help="light where pixels are missing (default: drawn)")
    parser.add_argument(
        "--share", type=float, default=0.25, metavar="P", help="of blocks that are missing (default: %(default)s)"
    )
    parser.add_argument("--block", type=count, default=8, metavar="PIXELS", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of that draw (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="times the threshold (default: 1)")
    parser.set_defaults(run=_inpaint)


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    add_checkpoint(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument("--out", type=Path, default=Path("out/edit", name), metavar="DIR", help="default: %(default)s")


def _factor(text: str) -> tuple[int, float]:
    atom, separator, factor = text.partition("=")
    try:
        if not separator:
            raise ValueError
        return int(atom), float(factor)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be ATOM=FACTOR, got {text!r}") from error


def _interpolate(options: argparse.Namespace) -> int:
    from scvae_fast.editing.interpolate_command import interpolate_files

    first, second = options.pictures
    interpolate_files(options.checkpoint, first, second, options.out, steps=options.steps, device=options.device)
    return 0


def _atoms(options: argparse.Namespace) -> int:
    from scvae_fast.editing.atoms_command import edit_atoms

    edit_atoms(
        options.checkpoint,
        options.picture,
        options.out,
        factors=dict.fromkeys(options.remove, 0.0) | dict(options.factor),
        keep=options.keep,
        keep_top=options.keep_top,
        top=options.top,
        device=options.device,
    )
    return 0


def _denoise(options: argparse.Namespace) -> int:
    from scvae_fast.editing.denoise_command import denoise_file

    denoise_file(
        options.checkpoint,
        options.picture,
        options.out,
        sigmas=options.sigma,
        scales=options.scale,
        shifts=options.shifts,
        seed=options.seed,
        noisy=options.noisy,
        reference=options.reference,
        device=options.device,
    )
    return 0


def _inpaint(options: argparse.Namespace) -> int:
    from scvae_fast.editing.inpaint_command import inpaint_file

    inpaint_file(
        options.checkpoint,
        options.picture,
        options.out,
        mask=options.mask,
        share=options.share,
        block=options.block,
        seed=options.seed,
        iterations=options.iterations,
        scale=options.scale,
        device=options.device,
    )
    return 0
