"""The machine's multiply-add peak in float32, measured by a small C++ program that is compiled when needed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILERS = ("c++", "g++", "clang++")


class UnknownPeakError(RuntimeError):
    """The peak can't be measured here; the message says why."""


def compiler() -> str:
    """The C++ compiler in the environment variable CXX, or else the system's.

    Raises:
        UnknownPeakError: there is none.
    """
    asked = os.environ.get("CXX")
    for name in [asked] if asked else COMPILERS:
        if found := shutil.which(name):
            return found
    wanted = f"CXX={asked}" if asked else ", ".join(COMPILERS)
    raise UnknownPeakError(f"peak: no C++ compiler found, looked for {wanted}; the environment variable CXX names one")


def _output(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise UnknownPeakError(f"peak: {Path(command[0]).name} ended with exit status {done.returncode}: {said}")
    return done.stdout


def multiply_adds_per_second(threads: int, *, milliseconds: float = 20, runs: int = 20) -> float:
    """Fused multiply-adds per second in float32 with this number of threads; the best of several short runs.

    Raises:
        ValueError: an argument is not positive.
        UnknownPeakError: there is no compiler, or the program could not be built or run.
    """
    if min(threads, milliseconds, runs) <= 0:
        raise ValueError(f"peak: threads, milliseconds and runs must be positive, got {threads, milliseconds, runs}")
    # Compilers for Arm use another option to select the processor.
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    with tempfile.TemporaryDirectory(prefix="peak-") as folder:
        program = Path(folder, "peak")
        _output([compiler(), "-std=c++17", "-O3", native, "-ffp-contract=fast", "-pthread", SOURCE, "-o", program])
        return float(_output([program, str(threads), str(milliseconds), str(runs)]))
