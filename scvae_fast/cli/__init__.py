"""The command `scvae-fast`: a module here for each of its commands, with `add(commands)`."""

import argparse
import sys
from collections.abc import Sequence

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
from scvae_fast.errors import UsageError

# Exit statuses beside 0 and 2, which is argparse's for wrong usage.
FAILED = 1
STOPPED = 130  # by Ctrl-C, as a shell counts it

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
    """Run a command; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # A command with options of its own to parse says so by a default for `rest`.
    if "rest" in options:
        options.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.run(options))
    except UsageError as error:
        print(f"scvae-fast {options.command}: {error}", file=sys.stderr)
        return FAILED
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
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for command in _COMMANDS:
        command.add(commands)
    return parser
