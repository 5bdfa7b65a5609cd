"""Runs 16-bit problems on a backend without 16-bit types: in float32, rounded once."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from scvae_fast.ops.checks import is_half
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem

_R = TypeVar("_R", Problem, Decoding, Incoming)


def _wide(value: Any) -> Any:
    """A 16-bit tensor in float32, anything else unchanged."""
    return value.float() if isinstance(value, torch.Tensor) and is_half(value.dtype) else value


def _widened(record: _R) -> _R:
    return type(record)(*map(_wide, record))


def _has_half(p: Problem | Decoding) -> bool:
    """Whether any tensor needs widening. If x is float32, only S may be narrower."""
    return is_half(p[0].dtype) or (isinstance(p, Problem) and p.S is not None and is_half(p.S.dtype))


def _narrowed(gradients: Gradients, p: Problem | Decoding) -> Gradients:
    return {name: gradient.to(getattr(p, name).dtype) for name, gradient in gradients.items()}


class InFloat32:
    """A backend that passes 16-bit tensors to another one in float32, and returns results in their proper dtypes."""

    def __init__(self, backend: Any) -> None:
        """`backend` supports float32 and float64."""
        self._backend = backend

    def code(self, p: Problem, iterates: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Codes, and reconstruction, in the dtype of x."""
        room = () if iterates is None else (iterates,)
        if not _has_half(p):
            found: tuple[torch.Tensor, ...] = self._backend.code(p, *room)
            return found
        return tuple(result.to(p.x.dtype) for result in self._backend.code(_widened(p), *room))

    def code_backward(self, p: Problem, given: Incoming, needed: Needed) -> Gradients:
        """The gradients, each in the dtype of its tensor."""
        if not _has_half(p):
            found: Gradients = self._backend.code_backward(p, given, needed)
            return found
        return _narrowed(self._backend.code_backward(_widened(p), _widened(given), needed), p)

    def decode(self, p: Decoding) -> torch.Tensor:
        """Reconstruction in the dtype of z."""
        reconstruction: torch.Tensor = self._backend.decode(_widened(p))
        return reconstruction.to(p.z.dtype)

    def decode_backward(self, p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
        """The gradients, each in the dtype of its tensor."""
        return _narrowed(self._backend.decode_backward(_widened(p), _wide(grad), needed), p)
