"""Verdicts of trials of GPU kernels, by card, in a file that many processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scvae_fast._files import cache_folder, try_lock, unlock, write_json

LIMIT = 180.0
"""Time limit of a trial in seconds, also for other processes that wait for it."""
SCHEMA = 1


class Verdict(NamedTuple):
    """The result of a trial of a backend in a dtype."""

    right: bool
    reason: str  # why it is not correct; "" if it is
    error: float | None  # largest ratio of an error to its limit
    gains: dict[int, float]  # by rows: speed relative to eager, forward and backward

    def gain(self, rows: int) -> float:
        """The gain at the largest tried number of rows up to `rows`, else at the smallest."""
        below = [tried for tried in self.gains if tried <= rows]
        return self.gains[max(below) if below else min(self.gains)] if self.gains else 0.0


Verdicts = dict[str, Verdict]


class Card(NamedTuple):
    """A GPU, and how a child process finds it."""

    name: str
    visible: str  # CUDA_VISIBLE_DEVICES for a process that should see only this card
    key: str  # key of its verdicts
    device: str = "cuda:0"  # in the child process


class Store:
    """Verdicts of all cards, in a file that many processes share."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._kept: dict[str, Any] = {}  # used if the file can't be written

    def verdicts(self, key: str) -> Verdicts:
        """The verdicts of a card."""
        return {pair: as_verdict(found) for pair, found in self._card(key)["verdicts"].items()}

    def add(self, key: str, pair: str, verdict: Verdict) -> None:
        """Store a verdict, and keep those that other processes have stored meanwhile."""
        self._change(key, lambda card: card["verdicts"].update({pair: verdict._asdict()}))

    def fruitless(self, key: str) -> list[float]:
        """The times of trials that ended without any new verdict."""
        return [float(when) for when in self._card(key)["fruitless"]]

    def add_fruitless(self, key: str, when: float) -> None:
        """Store the time of such a trial."""
        self._change(key, lambda card: card["fruitless"].append(when))

    def locked(self, key: str, seconds: float) -> AbstractContextManager[bool]:
        """Hold a card's lock, which ends with the process; False if another process held it all that time."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return _file_lock(self.file.with_name(f"trial-{digest}.lock"), seconds)

    def _card(self, key: str) -> dict[str, Any]:
        found = {**self._read(), **self._kept}.get(key)
        return found if found is not None else {"verdicts": {}, "fruitless": []}

    def _change(self, key: str, change: Callable[[dict[str, Any]], object]) -> None:
        with _file_lock(self.file.with_suffix(".lock"), LIMIT):
            cards, card = self._read(), self._card(key)
            change(card)
            try:
                write_json(self.file, {"schema": SCHEMA, "cards": {**cards, key: card}})
            except OSError as error:
                warn_once(f"{self.file} can't be written ({error}): verdicts stay in this process")
                self._kept[key] = card

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            cards: dict[str, Any] = content["cards"] if content["schema"] == SCHEMA else {}
            for card in cards.values():
                _ = (
                    [as_verdict(found) for found in card["verdicts"].values()],
                    [float(when) for when in card["fruitless"]],
                )
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warn_once(f"{self.file} can't be read ({type(error).__name__}: {error}): kernels are tried again")
            return {}
        return cards


def as_verdict(found: dict[str, Any]) -> Verdict:
    """A verdict from its JSON form."""
    gains = {int(rows): float(gain) for rows, gain in found["gains"].items()}
    return Verdict(bool(found["right"]), str(found["reason"]), found["error"], gains)


@cache
def warn_once(message: str) -> None:
    """Give a warning once per process."""
    warnings.warn(message, stacklevel=3)


@contextlib.contextmanager
def _file_lock(path: Path, seconds: float) -> Iterator[bool]:
    """Whether the lock was free within this time; if the folder can't be written, every process gets it."""
    end = time.monotonic() + seconds
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                yield False
                return
            time.sleep(0.05)
        except OSError:
            yield True
            return
    try:
        yield True
    finally:
        unlock(lock)


def store() -> Store:
    """The verdicts of this user."""
    return Store(cache_folder() / "trials.json")
