"""Compares two commits: runs the operations of both in turn, in separate processes, on the same arguments.

The other commit is checked out and installed into a separate folder; both run this commit's benchmark code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import scvae_fast
from benchmarks import cases, environment, problems, rivals, timing
from benchmarks.cases import Case
from scvae_fast._files import write_json

ROUNDS = 15
FILE = "against.json"
CLEARLY = 0.03  # smallest relative change that counts; less is noise regardless of the samples
_SECONDS = 0.05  # seconds per sample


class AgainstError(RuntimeError):
    """The commits can't be compared; the message says why."""


def compare(chosen: argparse.Namespace, folder: Path) -> int:
    """Time the chosen cases of operations on both commits; print and write the ratios.

    Returns:
        1 if this commit is clearly slower in any case, else 0.

    Raises:
        AgainstError: the other commit is unknown, does not build or does not run.
    """
    asked = [case for case in cases.by_name(chosen.groups).values() if isinstance(case, Case) and not case.compiled]
    if not asked:
        raise AgainstError("--against compares operations and layers, but no chosen case is one of these")
    found: dict[str, Any] = {"against": resolved(chosen.against), "environment": environment.environment(chosen.device)}
    found["cases"] = []
    print(f"this tree ({found['environment']['commit']}) against {chosen.against} ({found['against']}), backend of the")
    print(f"automatic choice, {ROUNDS} paired rounds: times as fast, p20 to p80")
    with tempfile.TemporaryDirectory(prefix="against-") as aside:
        other = installed(found["against"], Path(aside), chosen.device)
        with worker([other], chosen) as theirs, worker([], chosen) as ours:
            for case in asked:
                found["cases"].append(_measured(case, theirs, ours))
                print(line(found["cases"][-1]), flush=True)
                write_json(folder / FILE, found)
    slower = [result["name"] for result in found["cases"] if result["verdict"] == "slower"]
    changed = sum(result["verdict"] != "noise" for result in found["cases"])
    print(f"{changed} of {len(asked)} changed beyond the noise, {len(slower)} of them slower; {folder / FILE}")
    return 1 if slower else 0


def _measured(case: Case, theirs: Worker, ours: Worker) -> dict[str, Any]:
    """Paired samples of a case; the two sides take turns in starting a round."""
    calls = max(worker_.ask("prepare", case._asdict()) for worker_ in (theirs, ours))
    samples = []
    for i in range(ROUNDS):
        pair = {}
        for worker_ in (theirs, ours) if i % 2 else (ours, theirs):
            pair["ours" if worker_ is ours else "theirs"] = worker_.ask("sample", calls)
        samples.append(pair)
    ratios = [pair["theirs"] / pair["ours"] for pair in samples]
    low, middle, high = timing.spread(ratios)
    return {
        "name": case.name,
        "samples": samples,
        "ratio": {"p20": low, "p50": middle, "p80": high},
        "verdict": verdict(low, middle, high),
    }


def verdict(low: float, middle: float, high: float) -> str:
    """The verdict from the p20, p50 and p80 of the ratios theirs / ours: "faster", "slower" or "noise"."""
    if middle > 1 + CLEARLY and low > 1:
        return "faster"
    if middle < 1 / (1 + CLEARLY) and high < 1:
        return "slower"
    return "noise"


def line(result: dict[str, Any]) -> str:
    """A case as a line of the table."""
    r = result["ratio"]
    flag = "" if result["verdict"] == "noise" else f"  {result['verdict'].upper()}"
    return f"{result['name']:<76}{r['p50']:>7.2f}  ({r['p20']:.2f} – {r['p80']:.2f}){flag}"


def resolved(ref: str) -> str:
    """The commit that a name refers to.

    Raises:
        AgainstError: it refers to none, or this is not a git checkout.
    """
    done = _run(["git", "rev-parse", "--verify", "--quiet", "--short=12", f"{ref}^{{commit}}"], check=False)
    if done.returncode != 0:
        raise AgainstError(f"--against: no commit {ref!r} in {environment.ROOT}; is it a git checkout?")
    return done.stdout.strip()


def installed(commit: str, aside: Path, device: str) -> Path:
    """The folder with the other commit's package, built there.

    Raises:
        AgainstError: the build fails.
    """
    source, target = aside / "source", aside / "installed"
    _run(["git", "worktree", "add", "--quiet", "--detach", str(source), commit])
    try:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
        _run(pip, SCVAE_FAST_CUDA="0" if device == "cpu" else os.environ.get("SCVAE_FAST_CUDA", "auto"))
    finally:
        _run(["git", "worktree", "remove", "--force", str(source)])
    return target


def _run(command: list[str], check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=environment.ROOT, env={**os.environ, **extra}, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise AgainstError(f"--against: {' '.join(command[:4])} failed:\n{done.stderr.strip()[-2000:]}")
    return done


class Worker:
    """A process that times cases on request."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """The process reads lines of JSON and answers each with one."""
        self._process = process

    def ask(self, what: str, value: object) -> Any:
        """The answer to a question.

        Raises:
            AgainstError: the process has ended; its errors are on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([what, value]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise AgainstError(f"--against: the process that measures ended with status {self._process.wait()}")
        return json.loads(answer)


@contextmanager
def worker(paths: list[Path], chosen: argparse.Namespace) -> Iterator[Worker]:
    """A process that imports scvae_fast from the first of the paths, or from this tree."""
    found_first = paths[0] if paths else environment.ROOT  # python -m searches the current folder first
    path = os.pathsep.join([*map(str, paths), str(environment.ROOT)])
    command = [sys.executable, "-m", "benchmarks.against", chosen.device, str(torch.get_num_threads())]
    process = subprocess.Popen(
        command,
        cwd=found_first,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = Worker(process)
        where = Path(found.ask("where", None))
        if not where.is_relative_to(found_first):
            raise AgainstError(f"--against: the process measures {where}, not {found_first}")
        yield found
    finally:
        process.kill()
        process.communicate()


def serve(device: str) -> None:
    """Answer the questions on stdin until it ends."""
    step = None
    for question in sys.stdin:
        what, value = json.loads(question)
        answer: object = str(Path(scvae_fast.__file__).resolve())
        if what == "prepare":
            case = Case(**value)
            p = problems.problem(case, device)
            name = rivals.choice(case, p.x.device)
            step = rivals.entrants(case, p)[name].step(case.direction)
            answer = timing.calls_that_take(_SECONDS, {"step": step}, device)
        elif what == "sample" and step is not None:
            answer = timing.elapsed(step, value, device) / value
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    serve(sys.argv[1])
