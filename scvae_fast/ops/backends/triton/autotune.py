"""With SCVAE_FAST_AUTOTUNE=1: times tiles and launch modes on a problem's first call, and stores the fastest on disk.

Otherwise, during the capture of a CUDA graph, and for interpreted kernels, the table of tiles.py decides. The choice
determines the order of sums, so results are reproducible with the same file of choices.
"""

from __future__ import annotations

import json
import os
import statistics
import warnings
from collections.abc import Callable, Hashable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import triton

from scvae_fast._files import cache_folder, write_json
from scvae_fast.ops.backends.triton import interpreted, launch, tiles
from scvae_fast.ops.backends.triton.launch import Choice
from scvae_fast.ops.backends.triton.tiles import Card

SCHEMA = 1
SAMPLES = 5
MARGIN = 0.02
"""Smallest relative gain over the table's choice that counts; less is noise."""

Run = Callable[[Choice], object]


def enabled() -> bool:
    """Whether SCVAE_FAST_AUTOTUNE is set to 1."""
    value = os.environ.get("SCVAE_FAST_AUTOTUNE") or "0"
    if value not in ("0", "1"):
        raise ValueError(f"SCVAE_FAST_AUTOTUNE must be 0 or 1, got {value!r}")
    return value == "1"


def path() -> Path:
    """The path of the file of choices."""
    return cache_folder() / "triton.json"


def seconds(run: Callable[[], object]) -> float:
    """Seconds of a call on the current stream: the median of several, after its kernels are compiled."""
    run()
    samples = []
    for _ in range(SAMPLES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(samples)


class Tuner:
    """Choices from a file, and new ones.

    Args:
        file: the file of choices.
        clock: measures the seconds of a call.
    """

    def __init__(self, file: Path, clock: Callable[[Callable[[], object]], float]) -> None:
        self.file, self.clock = file, clock
        self._warned: set[str] = set()
        self._entries = self._read()

    def known(self, key: str, candidates: list[Choice]) -> Choice | None:
        """The stored choice for a problem; None if there is none, or if it is no longer a candidate."""
        entry = self._entries.get(key)
        return next((choice for choice in candidates if _entry(choice) == entry), None)

    def tune(self, key: str, default: Choice, candidates: list[Choice], run: Run) -> Choice:
        """Time the candidates and store the fastest: the default unless another is faster by more than noise."""
        took = {choice: self.clock(partial(run, choice)) for choice in candidates}
        best = min(candidates, key=lambda choice: took[choice])
        if took[default] <= (1 + MARGIN) * took[best]:
            best = default
        # Keep what other processes have stored meanwhile.
        self._entries = {**self._entries, **self._read(), key: _entry(best)}
        self._write()
        return best

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            self._warn(f"{self.file} can't be read ({error}): its choices of tiles are made again")
            return {}
        choices = content.get("choices") if isinstance(content, dict) and content.get("schema") == SCHEMA else None
        if not isinstance(choices, dict):
            self._warn(f"{self.file} holds no choices of tiles of schema {SCHEMA}: they are made again")
            return {}
        return choices

    def _write(self) -> None:
        try:
            write_json(self.file, {"schema": SCHEMA, "choices": self._entries})
        except OSError as error:
            self._warn(f"{self.file} can't be written ({error}): choices of tiles are kept for this process alone")

    def _warn(self, message: str) -> None:
        """Warn once, however often the file is read."""
        if message not in self._warned:
            warnings.warn(f"SCVAE_FAST_AUTOTUNE: {message}", stacklevel=2)
        self._warned.add(message)


def _entry(choice: Choice) -> dict[str, Any]:
    """A choice in the format of the file."""
    return {**choice.tile._asdict(), "by_iteration": choice.by_iteration}


@cache
def _tuner(file: Path) -> Tuner:
    return Tuner(file, seconds)


def key(card: Card, direction: str, dtype: torch.dtype, M: int, K: int, n: int) -> str:
    """A key shared by similar problems: M rounded up to a power of two, K and n to multiples of 128."""
    sizes = f"M {1 << max(0, M - 1).bit_length()}, K {launch.up(K, 128)}, n {launch.up(n, 128)}"
    return f"{card.name}, triton {triton.__version__}, {dtype} {launch.precision(dtype)}, {sizes}, {direction}"


def choice(
    card: Card,
    direction: str,
    dtype: torch.dtype,
    M: int,
    K: int,
    n: int,
    problem: Hashable,  # see `launch.fitting`
    run: Run,
    *,
    factored: bool = False,  # whether the iteration has the factored form
    launches: bool = False,  # whether every iteration must be a separate launch
) -> Choice:
    """The choice for M rows, K atoms and n features (0 without an encoder): the table's, or the fastest if requested.

    Either fits the card after compilation. `run` computes the problem with a given choice; it may be called repeatedly.
    """
    default = launch.choice(card, dtype, M, K, n if factored else 0, launches)
    if M == 0:
        return default
    fitting = partial(launch.fitting, card, dtype, problem=problem, go=run)
    if not enabled() or interpreted() or launch.forced_choice is not None:
        return fitting(default)
    ways = (True,) if launches else (False, True)
    candidates = [Choice(tile, way) for tile in tiles.fitting(card, dtype) for way in ways]
    tuner, name = _tuner(path()), key(card, direction, dtype, M, K, n)
    found = tuner.known(name, candidates)
    if found is not None or torch.cuda.is_current_stream_capturing():
        return fitting(found or default)
    candidates = [choice for choice in candidates if fitting(choice) == choice]
    return tuner.tune(name, fitting(default), candidates, run)
