"""Memory: what autograd keeps for a backward pass, the peak of a call, and how much is available.

Linux counts a process's resident memory, and this count can be reset. ru_maxrss of getrusage can't: it starts from the
parent process's value, and includes the creation of the arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import environment, problems, rivals
from benchmarks.cases import BOTH, Case, MemoryCase

# Tensors of 64 KiB and more are then mapped and returned individually.
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NoCountError(RuntimeError):
    """The system doesn't count the memory of a process like Linux does."""


class Kept(NamedTuple):
    """Bytes of the distinct storages that are kept: created by the call, or given to it."""

    made: int
    given: int


def kept_for_backward(call: Callable[[], object], given: Mapping[str, torch.Tensor]) -> Kept:
    """Bytes kept by the graph that `call` builds from the tensors in `given`.

    A storage counts once and in full, however many tensors of the graph are views of it.
    """
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # Kept alive until all are counted, so that no address is reused.
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    known = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
    sizes = {address: storage.nbytes() for address, storage in saved.items()}
    del result
    return Kept(
        made=sum(size for address, size in sizes.items() if address not in known),
        given=sum(size for address, size in sizes.items() if address in known),
    )


def resident_at_peak(call: Callable[[], object]) -> int:
    """The largest growth of the process's resident memory while `call` runs, in bytes.

    This is what the call needs only if freed memory returns to the system at once: run it in a process that was started
    with MALLOC_MMAP_THRESHOLD_ set to some KiB.

    Raises:
        NoCountError: the system is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise NoCountError(f"memory: needs Linux's {_STATUS}, this is {sys.platform}")
    _RESET.write_text("5", encoding="ascii")  # resets the peak to the current size
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise NoCountError(f"memory: no {field} in {_STATUS}")
    return int(found[1]) * 1024


def allocated_at_peak(call: Callable[[], object]) -> int:
    """The largest growth of the memory that torch has allocated on the GPU while `call` runs, in bytes."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def there_is(device: str) -> int:
    """Bytes that may be used: four fifths of the machine's memory, or nine tenths of the free memory on a GPU."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] * 9 // 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 4 // 5


def measure(case: MemoryCase) -> dict[str, Any]:
    """For every contestant, bytes kept for the backward pass, and added at the peak, each in a separate process."""
    if not sys.platform.startswith("linux"):
        return {"left out": {"everyone": f"resident memory is counted only on Linux, this is {sys.platform}"}}
    names = list(_entrants(case._replace(rows=64)))
    words = ["--op", case.op, "--rows", str(case.rows), "--n-iter", str(case.n_iter)]
    words += ["--threads", str(torch.get_num_threads())]
    found = {}
    for name in names:
        printed = environment.start("benchmarks.memory", [*words, "--contestant", name], EXACT, capture=True).stdout
        found[name] = json.loads(printed)
    return {"memory": found, "chosen": rivals.choice(_called(case), torch.device("cpu"))}


def _called(case: MemoryCase) -> Case:
    return Case(case.op, BOTH, rows=case.rows, n_iter=case.n_iter, start="paper")


def _entrants(case: MemoryCase) -> dict[str, rivals.Entrant]:
    called = _called(case)
    return rivals.entrants(called, problems.problem(called))


def main(words: list[str] | None = None) -> None:
    """Measure one contestant in this process, which should be fresh, and print the results as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=main.__doc__)
    parser.add_argument("--op", required=True)
    parser.add_argument("--contestant", required=True)
    for name in ("--rows", "--n-iter", "--threads"):
        parser.add_argument(name, type=int, required=True)
    chosen = parser.parse_args(words)
    torch.set_num_threads(chosen.threads)
    case = MemoryCase(chosen.op, chosen.rows, chosen.n_iter)
    _entrants(case._replace(rows=64))[chosen.contestant].step(BOTH)()  # libraries allocate their memory first
    entrant = _entrants(case)[chosen.contestant]
    kept = kept_for_backward(entrant.results, entrant.leaves)
    weights = [torch.ones_like(result) for result in entrant.results()]
    peak = resident_at_peak(lambda: entrant.gradients(weights))
    print(json.dumps({**kept._asdict(), "peak": peak}))


if __name__ == "__main__":
    main()
