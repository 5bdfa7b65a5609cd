"""The backends, and the choice between them: by device, dtype, options and rows, never by trying one in a call.

A backend consists of the functions in `Computes` and a line in the table `BACKENDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from scvae_fast._devices import cuda_index
from scvae_fast.ops.backends import cpu, cuda, reference, trial, triton
from scvae_fast.ops.backends.fused import Fused
from scvae_fast.ops.backends.half import InFloat32
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem


class Computes(Protocol):
    """The functions of a backend, for problems in matrices. Results are packed and share no memory with arguments."""

    def code(self, p: Problem) -> tuple[torch.Tensor, ...]:
        """Codes z_T (M, K), and the reconstruction x̂ (M, n) if there is a dictionary."""

    def code_backward(self, p: Problem, given: Incoming, needed: Needed) -> Gradients:
        """Gradients of the tensors of p, each in its dtype."""

    def decode(self, p: Decoding) -> torch.Tensor:
        """x̂ (M, n)."""

    def decode_backward(self, p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
        """Gradients of z and D for grad = ∂L/∂x̂ (M, n), each in its dtype."""


class Keeps(Computes, Protocol):
    """A backend that can keep iterates for the backward pass."""

    def code(self, p: Problem, iterates: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """As `Computes.code`; z_1 … z_{T−1} are written to `iterates`, (M, T − 1, K), if it is given."""


class Backend(NamedTuple):
    """A backend's functions, and the calls that it supports."""

    computes: Computes
    unusable: Callable[[], str | None]
    """Why it can't run on this machine or in this build; None if it can."""
    declines: Callable[[torch.device, torch.dtype], str | None]
    """Why it declines a call on that device in that dtype; None if it doesn't."""
    lacks: frozenset[str] = frozenset()
    """Options that it does not support."""
    too_large: Callable[[torch.device, torch.dtype, int, int], str | None] = lambda *_: None
    """Why K atoms or n features are too many for it on that device in that dtype; None if they aren't."""
    keeps: Keeps | None = None
    """The functions for calls that keep their iterates for the backward pass; None if it always recomputes them."""


PIN = "SCVAE_FAST_BACKEND"
"""The environment variable that names the backend for CUDA tensors when a call names none."""
_PINNED = ("eager", "triton", "cuda")


def _never(*_: object) -> None:
    return None


_CPU = InFloat32(cpu)

# In order of preference on a CPU: the first backend that takes the call runs it, and eager takes every call. On a
# GPU, `trial.py` knows which kernels are correct and faster.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend(_CPU, cpu.unusable, cpu.declines, keeps=_CPU),
    "eager": Backend(InFloat32(reference), unusable=_never, declines=_never),
    "triton": Backend(Fused(triton.on_device_of), triton.unusable, triton.declines, too_large=triton.too_large),
    "cuda": Backend(Fused(cuda.on_device_of), cuda.unusable, cuda.declines, lacks=cuda.LACKS, too_large=cuda.too_large),
}

REFERENCE = BACKENDS["eager"]


Sizes = tuple[int, int] | None
"""K atoms and n features of a call; None leaves them out of a decision."""


def declines(
    backend: str, device: torch.device, dtype: torch.dtype, options: Sequence[str] = (), sizes: Sizes = None
) -> str | None:
    """Why a backend can't run a call on that device in that dtype, with those `Problem.options`; None if it can."""
    asked = BACKENDS[backend]
    reason = asked.unusable() or asked.declines(device, dtype)
    if reason is None and options:
        lacking = [option for option in options if option in asked.lacks]
        reason = f"it has no {' and no '.join(lacking)}" if lacking else None
    if reason is None and sizes is not None:
        reason = asked.too_large(device, dtype, *sizes)
    return reason


def check_name(op: str, backend: str | None) -> None:
    """Raise ValueError unless `backend` is None or the name of a backend."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"{op}: backend must be one of {', '.join(BACKENDS)}, or None, got {backend!r}")


def choose(
    op: str,
    backend: str | None,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    options: Sequence[str] = (),
    sizes: Sizes = None,
) -> str:
    """Name of the backend that runs a call of `op` with this number of rows, these `Problem.options` and these sizes.

    Raises:
        ValueError: no backend has that name, or the one named by SCVAE_FAST_BACKEND does not run on a GPU.
        RuntimeError: the requested backend can't be used here, or declines the call; the message says why.
    """
    check_name(op, backend)
    if backend is None and device.type == "cuda":
        return _choose_on_gpu(op, device, dtype, rows, options, sizes)
    if backend is None:
        if op == "decode" and rows < cpu.LEAST_ROWS_TO_DECODE and device.type == "cpu":
            return "eager"
        for name in BACKENDS:
            if declines(name, device, dtype, options, sizes) is None:
                return name
        raise AssertionError("eager takes every call")
    reason = declines(backend, device, dtype, options, sizes)
    if reason is not None:
        raise RuntimeError(f"{op}: backend {backend!r} can't be used: {reason}")
    return backend


def _choose_on_gpu(
    op: str, device: torch.device, dtype: torch.dtype, rows: int, options: Sequence[str], sizes: Sizes
) -> str:
    """The backend named by SCVAE_FAST_BACKEND, else the fastest that passed its trial on this card, else eager."""
    if pinned := os.environ.get(PIN):
        if pinned not in _PINNED:
            raise ValueError(f"{op}: {PIN} must be one of {', '.join(_PINNED)}, got {pinned!r}")
        if reason := declines(pinned, device, dtype, options, sizes):
            raise RuntimeError(f"{op}: {PIN}={pinned} can't be used: {reason}")
        return pinned
    able = [name for name in trial.NAMES if declines(name, device, dtype, options, sizes) is None]
    if not able:
        return "eager"
    return trial.CHOOSER.fastest(cuda_index(device), dtype, rows, able) or "eager"


def prepare(device: torch.device) -> None:
    """Find out now, not during the first call, which kernels run on a GPU; on other devices it does nothing.

    If torch.distributed is initialised, every rank must call it, and all use the kernels that are correct on all cards.
    """
    if device.type == "cuda" and not os.environ.get(PIN):
        able = [name for name in trial.NAMES if declines(name, device, torch.float32) is None]
        if able:
            trial.CHOOSER.verdicts(cuda_index(device), able)


def why_not(name: str) -> str | None:
    """Why a backend isn't used here: it can't be, or its trial on the current GPU failed; None if it may be used."""
    return BACKENDS[name].unusable() or trial.failure(name)
