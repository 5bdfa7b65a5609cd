"""16-bit problems by kernels that take none: computed in float32, and rounded once."""

from __future__ import annotations

from typing import Any

import torch

from scvae_fast.ops._checks import is_half
from scvae_fast.ops._library import Gradients, Sibling


def _wide(value: Any) -> Any:
    """A 16-bit tensor in float32, anything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and is_half(value.dtype) else value


class Widened:
    """A sibling that hands another one its 16-bit tensors in float32, and gives results in the dtypes that belong."""

    def __init__(self, sibling: Sibling) -> None:
        """`sibling` takes float32 and float64."""
        self._sibling = sibling

    def forward(self, problem: Any) -> Any:
        """The sibling's results, in the dtype of the problem's first tensor."""
        wide = type(problem)(*map(_wide, problem))
        results = self._sibling.forward(wide)
        dtype = problem[0].dtype
        if isinstance(results, torch.Tensor):
            return results.to(dtype)
        return tuple(result.to(dtype) for result in results)

    def backward(self, *arguments: Any) -> Gradients:
        """The sibling's gradients, each in the dtype of its tensor; arguments as a sibling takes them."""
        *leading, problem, needed = arguments
        wide = type(problem)(*map(_wide, problem))
        gradients = self._sibling.backward(*map(_wide, leading), wide, needed)
        return tuple(None if g is None else g.to(t.dtype) for g, t in zip(gradients, problem, strict=False))
