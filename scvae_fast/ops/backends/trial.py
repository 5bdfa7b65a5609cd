"""Which kernels run on a GPU by themselves: those that were right when this card tried them, where they were faster.

The trial (`trying.py`) runs in a child process: a crash, a hang or a broken CUDA context there harms nobody. Verdicts
go one by one into a file of the cache folder, under everything that could change them: the card, the driver, the
versions of torch, triton and this package, and its build. Within a process what was known first stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scvae_fast._extras import installed_version
from scvae_fast._files import cache_folder, write_json
from scvae_fast.ops import native

NAMES = ("triton", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
PAIRS = tuple(f"{name}:{dtype}" for name in NAMES for dtype in DTYPES)

SWITCH = "SCVAE_FAST_TRIAL"
LIMIT = 180.0
"""Seconds that a trial may take, and that other processes wait for it."""
HANG = 10.0
"""Seconds after which a launch counts as hung."""
LEAST_GAIN = 1.1
SCHEMA = 1
_DAY = 24 * 3600

log = logging.getLogger("scvae_fast")


class Verdict(NamedTuple):
    """What a trial found of a backend in a dtype."""

    right: bool
    reason: str  # why it is not right; "" where it is
    error: float | None  # the largest error over what is allowed
    gains: dict[int, float]  # rows: times as fast as eager, forward and backward

    def gain(self, rows: int) -> float:
        """At the largest number of rows that was tried and is not above `rows`, else at the smallest."""
        below = [tried for tried in self.gains if tried <= rows]
        return self.gains[max(below) if below else min(self.gains)] if self.gains else 0.0


Verdicts = dict[str, Verdict]


class Card(NamedTuple):
    """A GPU, and how a child process finds it."""

    name: str
    visible: str  # CUDA_VISIBLE_DEVICES for a process that shall see it alone
    key: str  # under which verdicts are kept
    device: str = "cuda:0"  # in the child


class Store:
    """Verdicts of all cards, in a file that many processes share."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._kept: dict[str, Any] = {}  # where the file can't be written

    def verdicts(self, key: str) -> Verdicts:
        """Those of a card."""
        return {pair: _verdict(found) for pair, found in self._card(key)["verdicts"].items()}

    def add(self, key: str, pair: str, verdict: Verdict) -> None:
        """Keeps a verdict, beside what other processes have found by now."""
        self._change(key, lambda card: card["verdicts"].update({pair: verdict._asdict()}))

    def fruitless(self, key: str) -> list[float]:
        """When trials ended without any new verdict."""
        return [float(when) for when in self._card(key)["fruitless"]]

    def add_fruitless(self, key: str, when: float) -> None:
        """Keeps that a trial ended so."""
        self._change(key, lambda card: card["fruitless"].append(when))

    def locked(self, key: str, seconds: float) -> AbstractContextManager[bool]:
        """Holds a card's lock, which dies with the process; False where another one held it for so long."""
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
                _warn_once(f"{self.file} can't be written ({error}): verdicts stay in this process")
                self._kept[key] = card

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            cards: dict[str, Any] = content["cards"] if content["schema"] == SCHEMA else {}
            for card in cards.values():
                _ = (
                    [_verdict(found) for found in card["verdicts"].values()],
                    [float(when) for when in card["fruitless"]],
                )
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _warn_once(f"{self.file} can't be read ({type(error).__name__}: {error}): kernels are tried again")
            return {}
        return cards


def _verdict(found: dict[str, Any]) -> Verdict:
    gains = {int(rows): float(gain) for rows, gain in found["gains"].items()}
    return Verdict(bool(found["right"]), str(found["reason"]), found["error"], gains)


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)


@contextlib.contextmanager
def _file_lock(path: Path, seconds: float) -> Iterator[bool]:
    """An advisory lock; where the folder can't be written, or the system has none, everyone gets it."""
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except (ImportError, OSError):
        yield True
        return
    with handle:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    yield False
                    return
                time.sleep(0.05)
        yield True


def store() -> Store:
    """The file of this user."""
    return Store(cache_folder() / "trials.json")


@cache
def _build() -> str:
    """A digest of the compiled module and of the Triton kernels."""
    digest = hashlib.sha256()
    files = [Path(native.module.__file__)] if native.module is not None else []
    files += sorted(Path(__file__).parent.joinpath("triton").glob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def card_of(index: int) -> Card:
    """The GPU of that index."""
    properties = torch.cuda.get_device_properties(index)
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown")()
    words = [
        properties.name,
        f"{properties.major}.{properties.minor}",
        f"driver {driver}",
        f"torch {torch.__version__}",
        f"triton {installed_version('triton')}",
        f"scvae-fast {installed_version('scvae-fast')}",
        f"build {_build()}",
    ]
    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    # What the user's own setting names it goes first: an instance of MIG has a name of its own.
    visible = named[index] if index < len(named) else f"GPU-{properties.uuid}"
    return Card(properties.name, visible, ", ".join(words))


def run(
    card: Card,
    into: Store,
    pairs: Sequence[str],
    *,
    limit: float = LIMIT,
    hang: float = HANG,
    subjects: Path | None = None,
    told: Callable[[str], object] = lambda message: None,
) -> None:
    """Tries pairs of backend and dtype on a card, in child processes, and keeps each verdict as soon as it is there.

    A launch that does not end, and a process that dies of its kernels, are verdicts. Running out of time or of memory
    is none.

    Args:
        card: where.
        into: what keeps the verdicts.
        pairs: of `PAIRS`.
        limit: seconds for all of them.
        hang: seconds after which a launch counts as hung.
        subjects: a Python file that the child runs first, for tests.
        told: gets a line of progress.
    """
    left, end, added = list(pairs), time.monotonic() + limit, 0
    while left and time.monotonic() < end:
        before = len(left)
        for pair, verdict in _child(card, left, end, hang, subjects, told):
            left.remove(pair)
            if verdict is not None:
                into.add(card.key, pair, verdict)
                added += 1
        if len(left) == before:
            break
    if not added:
        into.add_fruitless(card.key, time.time())


def _child(
    card: Card, pairs: Sequence[str], end: float, hang: float, subjects: Path | None, told: Callable[[str], object]
) -> Iterator[tuple[str, Verdict | None]]:
    """Verdicts of one child process, as they come."""
    command = [sys.executable, "-m", "scvae_fast.ops.backends.trying"]
    command += ["--subjects", str(subjects)] if subjects is not None else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), SWITCH: "0"}
    if card.device.startswith("cuda"):
        environment["CUDA_VISIBLE_DEVICES"] = card.visible
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            [*command, card.device, *pairs], stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
        try:
            yield from _events(child, end, hang, told, lambda: _last_line(errors))
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _last_line(errors: Any) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _events(
    child: subprocess.Popen[str],
    end: float,
    hang: float,
    told: Callable[[str], object],
    last_line: Callable[[], str],
) -> Iterator[tuple[str, Verdict | None]]:
    pair, lines = "", _Lines(child, end)
    while (line := lines.next()) is not None:
        if not line:
            break
        event = json.loads(line)
        lines.patience = hang if event["event"] == "launch" else float("inf")
        if event["event"] == "start":
            pair = event["pair"]
            told(f"trying {pair.replace(':', ', ')}")
        elif event["event"] in ("verdict", "no verdict"):
            yield pair, _verdict(event) if event["event"] == "verdict" else None
            pair = ""
    else:  # it took too long
        if lines.patience == hang and time.monotonic() < end:
            yield pair, Verdict(False, f"a launch did not end within {hang:g} s", None, {})
        return
    status = child.wait()
    if pair and status not in (0, -signal.SIGKILL):  # a process that is out of memory is killed
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        yield pair, Verdict(False, f"the process died with {how}: {last_line()}", None, {})


class _Lines:
    """Lines of a process, waited for until `end`, and no longer than `patience` seconds each."""

    def __init__(self, child: subprocess.Popen[str], end: float) -> None:
        assert child.stdout is not None
        self._descriptor, self._end, self._rest = child.stdout.fileno(), end, b""
        self._lines: list[bytes] = []
        self.patience = float("inf")
        os.set_blocking(self._descriptor, False)

    def next(self) -> str | None:
        """The next line; "" at the end, None where it took too long."""
        while not self._lines:
            with selectors.DefaultSelector() as selector:
                selector.register(self._descriptor, selectors.EVENT_READ)
                if not selector.select(max(0.0, min(self.patience, self._end - time.monotonic()))):
                    return None
            read = os.read(self._descriptor, 1 << 16)
            if not read:
                return ""
            *self._lines, self._rest = (self._rest + read).split(b"\n")
        return self._lines.pop(0).decode("utf-8", errors="replace")


_IMPORTED_BY = os.getpid()


def hindrance() -> str | None:
    """Why no trial may start by itself now; None where one may."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 forbids it"
    if os.getpid() != _IMPORTED_BY:
        return "this process was forked"
    if not sys.executable:
        return "there is no Python interpreter to start"
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return "a graph is being captured"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "torch.distributed is initialised: run `scvae-fast doctor --trial` before"
    return None


def _is_exclusive(card: Card) -> bool:
    """Whether only one process may use the card; False where nvidia-smi can't tell."""
    command = ["nvidia-smi", f"--id={card.visible}", "--query-gpu=compute_mode", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return False
    return "exclusive" in done.stdout.lower()


class Chooser:
    """The verdicts of this process's cards, looked up or found out once."""

    def __init__(
        self, cards: Callable[[int], Card], stores: Callable[[], Store], tried: Callable[..., None] = run
    ) -> None:
        self._cards, self._stores, self._try = cards, stores, tried
        self._known: dict[int, Verdicts] = {}

    def fastest(self, index: int, dtype: torch.dtype, rows: int, able: Sequence[str]) -> str | None:
        """The backend that was right on the card in that dtype and is fastest for so many rows; None for eager."""
        verdicts, name = self.verdicts(index, able), str(dtype).removeprefix("torch.")
        found = {each: verdicts.get(f"{each}:{name}") for each in able}
        gains = {each: verdict.gain(rows) for each, verdict in found.items() if verdict is not None and verdict.right}
        best = max(gains, key=lambda each: gains[each], default=None)
        return best if best is not None and gains[best] >= LEAST_GAIN else None

    def verdicts(self, index: int, able: Sequence[str]) -> Verdicts:
        """Those of a card; for those who lack one a trial starts, where it may."""
        if index not in self._known:
            self._known[index] = self._find(self._cards(index), able)
        return self._known[index]

    def _find(self, card: Card, able: Sequence[str]) -> Verdicts:
        kept = self._stores()
        if _missing(kept.verdicts(card.key), able):
            reason = hindrance() or ("the card is in exclusive mode" if _is_exclusive(card) else None)
            recent = [when for when in kept.fruitless(card.key) if time.time() - when < _DAY]
            if reason is None and len(recent) >= 2:
                reason = "two trials ended without a verdict; the next starts by itself in a day"
            if reason is None:
                reason = self._try_all(card, kept)
            if reason is not None and not kept.verdicts(card.key):
                _warn_once(f"{card.name}: the GPU kernels were not tried ({reason}); eager PyTorch runs there")
                return {}
        found = kept.verdicts(card.key)
        if not any(verdict.right for verdict in found.values()):
            reasons = "; ".join(f"{pair}: {verdict.reason}" for pair, verdict in found.items()) or "no verdict"
            _warn_once(f"{card.name}: no GPU kernel passed its trial ({reasons}); eager PyTorch runs there")
        return found

    def _try_all(self, card: Card, kept: Store) -> str | None:
        with kept.locked(card.key, LIMIT) as got:
            if not got:
                return f"another process has been trying them for {LIMIT:g} s"
            missing = _missing(kept.verdicts(card.key), NAMES)
            if missing:
                log.warning("trying the GPU kernels on %s once, about a minute", card.name)
                self._try(card, kept, missing)
                log.warning("tried the GPU kernels on %s: %s", card.name, summary(kept.verdicts(card.key)))
        return None


def _missing(verdicts: Verdicts, names: Sequence[str]) -> list[str]:
    return [pair for pair in PAIRS if pair.partition(":")[0] in names and pair not in verdicts]


def summary(verdicts: Verdicts) -> str:
    """One line."""
    right = [pair.replace(":", " ") for pair, verdict in verdicts.items() if verdict.right]
    return f"right: {', '.join(right)}" if right else "none was right"


CHOOSER = Chooser(card_of, store)
