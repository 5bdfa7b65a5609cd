"""`scvae-fast compare`: its command line, which takes a YAML file and options that override its keys."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace

from scvae_fast._files import locked, make_folder, writing_to
from scvae_fast._shares import Share, under_torchrun
from scvae_fast.commands._inputs import check_outside
from scvae_fast.commands.train import spelled_out
from scvae_fast.comparison.folder import ComparisonFolder
from scvae_fast.comparison.page import with_table
from scvae_fast.comparison.run import Comparison, Phase
from scvae_fast.comparison.settings import METHODS, ComparisonSettings
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.training.data import PictureData

_DESCRIPTION = "All keys of a configuration; see scvae-fast compare --help for what the command does."

# Seconds to wait for another job that claims the folder, or times the steps of all methods.
_PATIENCE = 600.0

# Options that may change between calls for the same folder; the folder stores all others.
_HOW = ("config", "out", "resume", "again", "docs", "methods", "weights", "download", "checkpoint_minutes", "part")


class _Parser(ArgumentParser):
    """jsonargparse's parser, with one-line errors instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help_keys lists all keys)\n")


def run(arguments: Sequence[str]) -> int:
    """Run the comparison that a configuration describes, and keep everything in the folder `out`.

    Args:
        arguments: the command line after `scvae-fast compare`.

    Returns:
        0, or 128 + the number of the signal that stopped a training.

    Raises:
        UsageError: the configuration, the data or the folder can't be used, or a loss is not finite.
    """
    parser = _parser()
    options = parser.parse_args(spelled_out(list(arguments)))
    if unknown := [name for name in options.methods if name not in METHODS]:
        raise ArgumentError(f"--methods must be among {', '.join(METHODS)}, got {', '.join(unknown)}")
    share = _share(options)
    settings, data = _instantiated(parser, options)
    stride = settings.network.stride
    if data.resolution % stride:
        raise ArgumentError(f"resolution {data.resolution} of the data must be a multiple of the stride, {stride}")
    if settings.network.in_channels != 3:
        raise ArgumentError(
            f"network.in_channels must be 3, got {settings.network.in_channels}: all data have 3 channels"
        )
    for searched in data.searched_folders():
        check_outside(Path(options.out), searched)
    data.setup("fit")  # reports problems with the data before anything is written
    if data.first_validated(1) is None:
        raise ArgumentError("the data must have validation pictures, on which all methods are rated")
    folder, page = ComparisonFolder(Path(options.out)), Path(options.docs) if options.docs else None
    if options.again is not None and not folder.settings.exists():
        raise UsageError(f"{folder.path} holds no comparison, so --again has nothing to repeat")
    if page is not None:
        with_table(page, {"rows": []})
    comparison = Comparison(
        settings=settings,
        data=lambda: _instantiated(parser, options)[1],
        folder=folder,
        methods=[name for name in METHODS if name in options.methods],
        weights=Path(options.weights) if options.weights else None,
        download=options.download,
    )
    with writing_to(folder.path):
        make_folder(folder.path)
    if share is not None:
        with writing_to(folder.path), locked(folder.path, _PATIENCE):
            folder.claim(_claimed(parser, options), resume=True)
        return _compare_part(comparison, share, page)
    with locked(folder.path):
        with writing_to(folder.path):
            folder.claim(_claimed(parser, options), resume=options.resume or options.again is not None)
        return _compare(comparison, again=options.again, page=page)


def _share(options: Namespace) -> Share | None:
    if under_torchrun():
        raise ArgumentError(
            "compare does not run under torchrun: start the processes without it, each with its own --part I/N"
        )
    if options.part is None:
        return None
    if options.again is not None:
        raise ArgumentError("--again and --part can't be used together")
    try:
        return Share.parse(options.part)
    except ArgumentError as error:
        raise ArgumentError(f"--part {error}") from error


def _compare_part(comparison: Comparison, share: Share, page: Path | None) -> int:
    """Like `_compare`, for one part of the methods; the last process to finish times the steps and writes the table."""
    own = comparison.part(share)
    if (signal := own.train()) is not None:
        print("Stopped. The training state is kept: run the same command again to continue.")
        return 128 + signal
    own.rate(anew=False)
    with locked(comparison.folder.path, _PATIENCE):
        if missing := comparison.missing():
            print(f"part {share} is done; not trained and evaluated yet: {', '.join(missing)}")
            return 0
        comparison.time(anew=False)
        comparison.write(page)
    return 0


def _compare(comparison: Comparison, *, again: Phase | None = None, page: Path | None = None) -> int:
    """Run the phases that are not done yet, or repeat one phase; then write the table.

    Returns:
        0, or 128 + the number of the signal that stopped a training; its state is kept.

    Raises:
        UsageError: a phase can't be done; the message says why.
    """
    if again is not None:
        comparison.again(again)
    else:
        if (signal := comparison.train()) is not None:
            print("Stopped. The training state is kept: --resume continues from there.")
            return 128 + signal
        comparison.rate(anew=False)
        comparison.time(anew=False)
    comparison.write(page)
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="scvae-fast compare", description=_DESCRIPTION)
    parser.add_argument("--config", action="config", help="YAML file, or compare-pictures64 or compare-ffhq256")
    parser.add_argument("--out", type=str, default="out/compare", help="folder of the comparison")
    parser.add_argument("--resume", action="store_true", help="continue the comparison in --out, if there is one")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"any of {', '.join(METHODS)}")
    parser.add_argument(
        "--again", type=Phase | None, default=None, help="repeat one phase for the trained methods, without training"
    )
    parser.add_argument(
        "--docs", type=str | None, default=None, help="page to write the table into, between its markers"
    )
    parser.add_argument(
        "--part",
        type=str | None,
        default=None,
        help='train and evaluate the I-th of N parts of the methods, I/N; or "array" in a Slurm job array',
    )
    parser.add_argument("--weights", type=str | None, default=None, help="folder with weights of LPIPS and FID")
    parser.add_argument("--download", action="store_true", help="fetch weights that are missing")
    parser.add_class_arguments(ComparisonSettings, None)
    parser.add_subclass_arguments(PictureData, "data", required=True)
    return parser


def _instantiated(parser: _Parser, options: Namespace) -> tuple[ComparisonSettings, PictureData]:
    try:
        made = parser.instantiate(options)
        return ComparisonSettings(**{each.name: made[each.name] for each in fields(ComparisonSettings)}), made.data
    except (ValueError, TypeError, OSError) as error:  # the classes reject an argument
        raise ArgumentError(str(error)) from error


def _claimed(parser: _Parser, options: Namespace) -> dict[str, Any]:
    settings = yaml.safe_load(parser.dump(options))
    return {name: value for name, value in settings.items() if name not in _HOW}
