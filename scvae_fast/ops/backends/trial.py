"""Decides which kernels run on a GPU by default: those that passed a trial on this card, where they were faster.

The trial (`trying.py`) runs in a child process, so a crash, a hang or a broken CUDA context does no harm. Verdicts are
written one by one to a file in the cache folder, under everything that could change them: the card, the driver, the
versions of torch, triton and this package, and its build. A process keeps the verdicts it saw first, and the ranks of
torch.distributed agree on verdicts that hold for all of them.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from scvae_fast._extras import installed_version
from scvae_fast.ops import native
from scvae_fast.ops.backends.verdicts import LIMIT, Card, Store, Verdict, Verdicts, as_verdict, store, warn_once

NAMES = ("triton", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
PAIRS = tuple(f"{name}:{dtype}" for name in NAMES for dtype in DTYPES)

SWITCH = "SCVAE_FAST_TRIAL"
HANG = 10.0
"""Seconds after which a launch is considered hung."""
LEAST_GAIN = 1.1
_DAY = 24 * 3600

log = logging.getLogger("scvae_fast")


@cache
def _build() -> str:
    """A digest of the compiled module, the Triton kernels and the code that calls them."""
    digest = hashlib.sha256()
    files = [Path(native.module.__file__)] if native.module is not None else []
    files += sorted(Path(__file__).parent.rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def card_of(index: int) -> Card:
    """The GPU with that index."""
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
    # The name from the user's own setting comes first: a MIG instance has its own name.
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
    """Try pairs of backend and dtype on a card, in child processes, and store each verdict as soon as it arrives.

    A launch that does not end, and a process that is killed by its kernels, give verdicts. Running out of time or
    memory does not.

    Args:
        card: the card to use.
        into: stores the verdicts.
        pairs: pairs from `PAIRS`.
        limit: seconds for all of them.
        hang: seconds after which a launch is considered hung.
        subjects: a Python file that the child runs first; for tests.
        told: called with lines of progress.
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
    """The verdicts of one child process, as they arrive."""
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
            yield pair, as_verdict(event) if event["event"] == "verdict" else None
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
    """Lines of a process, waiting until `end` and at most `patience` seconds for each."""

    def __init__(self, child: subprocess.Popen[str], end: float) -> None:
        assert child.stdout is not None
        self._descriptor, self._end, self._rest = child.stdout.fileno(), end, b""
        self._lines: list[bytes] = []
        self.patience = float("inf")
        os.set_blocking(self._descriptor, False)

    def next(self) -> str | None:
        """The next line; "" at the end, None if it took too long."""
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
    """Why no trial may start automatically now; None if one may."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 forbids it"
    if os.getpid() != _IMPORTED_BY:
        return "this process was forked"
    if not sys.executable:
        return "there is no Python interpreter to start"
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return "a graph is being captured"
    return None


def _is_exclusive(card: Card) -> bool:
    """Whether only one process may use the card; False if nvidia-smi can't tell."""
    command = ["nvidia-smi", f"--id={card.visible}", "--query-gpu=compute_mode", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return False
    return "exclusive" in done.stdout.lower()


def ranks() -> int:
    """Number of processes that torch.distributed joins; 1 if it is not initialised."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def agreed(mine: Verdicts, seconds: float = LIMIT) -> Verdicts:
    """The combined verdicts of all ranks, the same on every rank: correct if correct on all, with the smallest gain.

    It uses the key-value store of the default process group, not a collective: if a rank never asks, the others wait
    for `seconds`, and then eager PyTorch runs on all of them.
    """
    group, rank = torch.distributed.distributed_c10d._get_default_store(), torch.distributed.get_rank()
    group.set(f"scvae_fast/verdicts/{rank}", json.dumps({pair: each._asdict() for pair, each in mine.items()}))
    keys = [f"scvae_fast/verdicts/{each}" for each in range(ranks())]
    end = time.monotonic() + seconds
    while not (complete := group.check(keys)) and time.monotonic() < end:
        time.sleep(0.1)
    found = [json.loads(group.get(key)) for key in keys] if complete else [{}]
    shared = _shared([{pair: as_verdict(each) for pair, each in of_rank.items()} for of_rank in found])
    decision = json.dumps({pair: each._asdict() for pair, each in shared.items()})
    # The first rank to finish decides: a rank that asks too late uses eager like the others.
    decided = json.loads(group.compare_set("scvae_fast/decision", "", decision))
    if not decided and mine:
        warn_once(f"the ranks share no verdict, or not all of them asked within {seconds:g} s; eager PyTorch runs")
    return {pair: as_verdict(each) for pair, each in decided.items()}


def _shared(found: Sequence[Verdicts]) -> Verdicts:
    """Verdicts that hold for all, for the pairs that all have."""
    shared = {}
    for pair in found[0]:
        of_all = [each[pair] for each in found if pair in each]
        if len(of_all) == len(found):
            wrong = [each for each in of_all if not each.right]
            tried = set.intersection(*(set(each.gains) for each in of_all))
            gains = {rows: min(each.gains[rows] for each in of_all) for rows in sorted(tried)}
            shared[pair] = wrong[0] if wrong else of_all[0]._replace(gains=gains)
    return shared


def fastest(verdicts: Verdicts, dtype: str, rows: int, able: Sequence[str] = NAMES) -> str | None:
    """The fastest backend for this number of rows among those correct in that dtype; None if eager is faster."""
    found = {each: verdicts.get(f"{each}:{dtype}") for each in able}
    gains = {each: verdict.gain(rows) for each, verdict in found.items() if verdict is not None and verdict.right}
    best = max(gains, key=lambda each: gains[each], default=None)
    return best if best is not None and gains[best] >= LEAST_GAIN else None


class Chooser:
    """The verdicts for this process's cards, each looked up or found out once."""

    def __init__(
        self, cards: Callable[[int], Card], stores: Callable[[], Store], tried: Callable[..., None] = run
    ) -> None:
        self._cards, self._stores, self._try = cards, stores, tried
        self._known: dict[int, Verdicts] = {}

    def fastest(self, index: int, dtype: torch.dtype, rows: int, able: Sequence[str]) -> str | None:
        """The fastest backend for this number of rows among those correct on the card in that dtype; None for eager."""
        return fastest(self.verdicts(index, able), str(dtype).removeprefix("torch."), rows, able)

    def verdicts(self, index: int, able: Sequence[str]) -> Verdicts:
        """The verdicts of a card; if some are missing, a trial starts, if allowed."""
        if index not in self._known:
            found = self._find(self._cards(index), able)
            if ranks() > 1:
                # A second card of this rank, possibly of another model, uses what all ranks agreed on if it can run it.
                found = _shared([agreed(found), found])
            self._known[index] = found
        return self._known[index]

    def _find(self, card: Card, able: Sequence[str]) -> Verdicts:
        kept = self._stores()
        if _missing(kept.verdicts(card.key), able):
            reason = hindrance() or ("the card is in exclusive mode" if _is_exclusive(card) else None)
            recent = [when for when in kept.fruitless(card.key) if time.time() - when < _DAY]
            if reason is None and len(recent) >= 2:
                reason = "two trials ended without a verdict; the next starts automatically after a day"
            if reason is None:
                reason = self._try_all(card, kept)
            if reason is not None and not kept.verdicts(card.key):
                warn_once(f"{card.name}: the GPU kernels were not tried ({reason}); eager PyTorch runs there")
                return {}
        found = kept.verdicts(card.key)
        if not any(verdict.right for verdict in found.values()):
            reasons = _reasons(found.items()) or "no verdict"
            warn_once(f"{card.name}: no GPU kernel passed its trial ({reasons}); eager PyTorch runs there")
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
    """The pairs that were correct, in one line."""
    right = [pair.replace(":", " ") for pair, verdict in verdicts.items() if verdict.right]
    return f"right: {', '.join(right)}" if right else "none was right"


def failure(name: str) -> str | None:
    """Why a backend failed its trial in every dtype on the current card; None if it didn't.

    Before this process uses CUDA, no card is known, and the result is None.
    """
    if name not in NAMES or not torch.cuda.is_initialized():
        return None
    card = card_of(torch.cuda.current_device())
    found = {pair: verdict for pair, verdict in store().verdicts(card.key).items() if pair.startswith(f"{name}:")}
    if not found or any(verdict.right for verdict in found.values()):
        return None
    return f"on {card.name} its trial failed ({_reasons(found.items())})"


def _reasons(found: Iterable[tuple[str, Verdict]]) -> str:
    return "; ".join(f"{pair.replace(':', ' ')}: {verdict.reason}" for pair, verdict in found if not verdict.right)


CHOOSER = Chooser(card_of, store)
