"""How much resident memory calls add at their peak: Linux's own count, which can be set back.

getrusage's ru_maxrss can't be: it starts from what the parent process had, and remembers the arguments' making.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NoCountError(RuntimeError):
    """The system doesn't count the memory of a process as Linux does."""


def _bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise NoCountError(f"resident: no {field} in {_STATUS}")
    return int(found[1]) * 1024


def added_at_peak(call: Callable[[], object]) -> int:
    """Bytes by which the process's resident memory grows while `call` runs, at most.

    For this to be what the call needs, freed memory must go back to the system at once: run it in a process that was
    started with MALLOC_MMAP_THRESHOLD_ set to some KiB.

    Raises:
        NoCountError: the system is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise NoCountError(f"resident: needs Linux's {_STATUS}, this is {sys.platform}")
    _RESET.write_text("5", encoding="ascii")  # the peak is what is resident now
    before = _bytes("VmRSS")
    call()
    return _bytes("VmHWM") - before
