"""The command line of `scvae-fast`: one module for each command, with a function `add(commands)`."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from scvae_fast.cli import (
    app,
    bench,
    cluster,
    compare,
    convert,
    decode,
    demo,
    doctor,
    edit,
    encode,
    evaluate,
    probe,
    reconstruct,
    retrieve,
    segment,
    train,
)
from scvae_fast.errors import ArgumentError, UsageError

# Exit statuses other than 0.
FAILED = 1  # the request can't be fulfilled
WRONG = 2  # the command line is invalid; argparse's own status
STOPPED = 130  # by Ctrl-C; the status that shells report

_COMMANDS = (
    demo,
    train,
    evaluate,
    compare,
    encode,
    decode,
    reconstruct,
    edit,
    retrieve,
    probe,
    cluster,
    segment,
    convert,
    app,
    bench,
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that are not UTF-8, and limited terminals
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # A command that parses further options itself sets a default for `rest`.
    if "rest" in options:
        options.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    name = " ".join(filter(None, ("scvae-fast", options.command, getattr(options, "way", None))))
    try:
        with _short_warnings(name):
            status = int(options.run(options))
        sys.stdout.flush()  # raises errors of printing here, where they are handled
        return status
    except (UsageError, ImportError) as error:  # an ImportError names an extra that is not installed
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG if isinstance(error, ArgumentError) else FAILED
    except BrokenPipeError:  # the reader of the output has closed it
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # for example, the disk is full or broken
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return STOPPED


@contextlib.contextmanager
def _short_warnings(name: str) -> Iterator[None]:
    """Print this package's warnings like its errors, without file names and lines of code."""
    package, usual = Path(__file__).parents[1], warnings.formatwarning

    def in_one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is UserWarning and Path(filename).is_relative_to(package):
            return f"{name}: warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = in_one_line
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scvae-fast", description="Fast learned sparse coding, and the sparse-coding VAE built on it."
    )
    parser.add_argument("--version", action="version", version=f"scvae-fast {version('scvae-fast')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for command in _COMMANDS:
        command.add(commands)
    return parser
