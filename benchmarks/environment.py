"""The environment that figures depend on: machine, versions, commit, allocator; and the start of separate processes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import scvae_fast
from scvae_fast.ops import native

ROOT = Path(__file__).resolve().parent.parent
# By default glibc returns freed large blocks to the system, and every page of the next block faults. 32 MiB is the
# largest threshold that every version of glibc accepts.
TUNED = {"MALLOC_TOP_PAD_": str(4 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# A run is continued, and figures are quoted, only if these are the same.
DECISIVE = ("device", "commit", "scvae_fast", "torch", "threads", "allocator", "native module")


def tuned() -> bool:
    """Whether this process was started with the tuned allocator settings."""
    return all(os.environ.get(name) == value for name, value in TUNED.items())


def start(
    module: str, words: Sequence[str], extra: Mapping[str, str], *, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program of this folder in a separate process, with additional environment variables.

    A separate process is needed because glibc reads its settings at the start. With `capture`, the output is the
    result's stdout, and an exit status other than 0 raises CalledProcessError.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "PYTHONPATH": path, **extra},
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=capture,
    )


def environment(device: str) -> dict[str, Any]:
    """Everything that a figure measured now on "cpu" or "cuda" depends on."""
    found = {
        "device": device_name(device),
        "commit": commit(),
        "scvae_fast": scvae_fast.__version__,
        "native module": None if native.module is None else native.module.build_info(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory in GiB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "allocator": {name: value for name in TUNED if (value := os.environ.get(name))} or "default",
    }
    if device == "cuda":
        import triton

        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        found |= {"driver": driver[0], "triton": triton.__version__, "cuda": torch.version.cuda}
        found["autotune"] = os.environ.get("SCVAE_FAST_AUTOTUNE", "0")
    return found


def device_name(device: str) -> str:
    """The name of the processor with the number of its cores, or the name of the GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    from scvae_fast.commands.doctor import processor  # the other commit of --against may lack it

    return f"{processor()}, {os.cpu_count()} cores"


def folder_name(device: str) -> str:
    """The device's name as a folder name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def commit() -> str | None:
    """The commit of this source tree, with a "+" if measured files differ from it; None outside git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "scvae_fast", "benchmarks/*.py")
    return head + ("+" if changed else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def heading(found: Mapping[str, Any]) -> str:
    """The machine in one line."""
    if "driver" in found:
        return f"{found['device']}, torch {found['torch']}, CUDA {found['cuda']}, Triton {found['triton']}"
    threads = f"{found['threads']} thread" + "s" * (found["threads"] > 1)
    allocator = "default allocator" if found["allocator"] == "default" else "tuned allocator"
    kernels = (found["native module"] or {}).get("instruction set", "no")
    return f"{found['device']}, {threads}, {kernels} kernels, torch {found['torch']}, {allocator}"
