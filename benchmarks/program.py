"""What the benchmark programs share: common options, the environment of a figure, a start with a tuned allocator."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import scvae_fast
from scvae_fast.ops import _native

# By default glibc gives large blocks back to the system when they are freed, and every page of the next one faults.
# 32 MiB is the largest threshold that every version of glibc takes.
TUNED = {"MALLOC_TOP_PAD_": str(4 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to this file")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options --rounds, --threads, --json and --tuned-allocator; `check` looks at what was chosen."""
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each case (default 7)")
    parser.add_argument("--threads", type=int, help="threads to use (default: torch's own choice)")
    add_json_option(parser)
    parser.add_argument(
        "--tuned-allocator",
        action="store_true",
        help=f"start again with {' '.join(TUNED)} set: eager PyTorch then loses less time to page faults",
    )


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Ends the program where the options of `add_options` make no sense."""
    if chosen.rounds < 1 or (chosen.threads is not None and chosen.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    if chosen.tuned_allocator and platform.libc_ver()[0] != "glibc":
        parser.error("--tuned-allocator: only glibc's allocator can be tuned, and this Python runs on another")


def require(parser: argparse.ArgumentParser, backend: str) -> None:
    """Ends the program where a backend can't be used, with the reason."""
    reason = scvae_fast.backends()[backend]
    if reason is not None:
        parser.error(f"the backend {backend!r} can't be used here: {reason}")


def tuned() -> bool:
    """Whether this process was started with the tuned allocator."""
    return all(os.environ.get(name) == value for name, value in TUNED.items())


def start(
    module: str, words: Sequence[str], extra: Mapping[str, str], *, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a program of this folder in a process of its own, with extra environment variables.

    glibc reads its settings when a process starts: that is why they need one. With `capture` what it prints is the
    result's stdout, and an exit status other than 0 raises CalledProcessError.
    """
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "PYTHONPATH": path, **extra},
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=capture,
    )


def environment() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "scvae_fast": scvae_fast.__version__,
        "native module": None if _native.native is None else _native.native.build_info(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": {name: value for name in TUNED if (value := os.environ.get(name))} or "default",
    }


def heading(operation: str, threads: Sequence[int] | None = None) -> str:
    """The operation and what its speed depends on most, in a line; `threads` are torch's where none are given."""
    numbers = [torch.get_num_threads()] if threads is None else threads
    counted = " and ".join(map(str, numbers)) + (" thread" if list(numbers) == [1] else " threads")
    allocator = "tuned allocator" if tuned() else "default allocator"
    built = {} if _native.native is None else _native.native.build_info()
    kernels = f", {built['instruction set']} kernels" if "instruction set" in built else ""
    return f"{operation}, float32, {counted}{kernels}, torch {torch.__version__}, {allocator}"
