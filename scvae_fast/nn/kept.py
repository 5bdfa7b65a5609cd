"""Weights that a layer forms from other tensors, cached while those tensors keep their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from scvae_fast.ops.dispatch import in_forward_mode, in_transform, is_plain, needs_gradient

Tensors = tuple[torch.Tensor, ...]


def is_differentiated(tensors: Tensors) -> bool:
    """Whether a derivative with respect to any of them may be requested, as under every transform of torch.func."""
    transformed = not torch.compiler.is_compiling() and (in_transform() or in_forward_mode())
    return transformed or needs_gradient(tensors)


class _Formed(NamedTuple):
    sources: Tensors  # copies
    key: object
    weights: Tensors


class KeptWeights:
    """The weights that were formed last, with copies of their sources.

    Only the contents tell whether a tensor has changed: fused optimisers and writes to `.data` don't change its
    version, and a new tensor can reuse an old one's address. Copies and pickles of a layer start with an empty cache.
    """

    def __init__(self) -> None:
        self._last: _Formed | None = None

    def of(self, sources: Tensors, form: Callable[..., Tensors], key: object = None, on_cuda: bool = False) -> Tensors:
        """form(*sources), from the cache if every source has the same bits as before.

        Only ordinary CPU tensors are cached, and only if no derivative can be requested and no compiler, transform or
        mode is active.

        Args:
            sources: tensors from which the weights are formed.
            form: forms them; depends only on its arguments and `key`.
            key: distinguishes different functions `form`.
            on_cuda: whether weights on a GPU are cached too. Each call then waits for the GPU, to compare. While a
                CUDA graph is captured, nothing is cached.
        """
        if is_differentiated(sources) or not is_plain(sources) or any(t.is_inference() for t in sources):
            return form(*sources)
        device = sources[0].device.type
        if device != "cpu" and not (on_cuda and device == "cuda" and not torch.cuda.is_current_stream_capturing()):
            return form(*sources)
        last = self._last
        if last is None or last.key != key or not all(map(_same_bits, last.sources, sources)):
            # Tensors made in inference_mode could not be used outside it. The weights are formed from the copies, so
            # they match them even if another thread changes a source meanwhile.
            with torch.inference_mode(False), torch.no_grad():
                copies = tuple(t.detach().clone() for t in sources)
                last = self._last = _Formed(copies, key, tuple(t.contiguous() for t in form(*copies)))
        return last.weights

    def __reduce__(self) -> tuple[type[KeptWeights], tuple[()]]:
        return KeptWeights, ()


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both have the same bits. Unlike ==, this distinguishes 0 from −0, and a NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    packed = [t.detach().contiguous().view(-1) for t in (a, b)]
    # Comparing as 64-bit integers is fastest, if size and alignment allow it.
    aligned = all(t.nbytes % 8 == 0 and t.storage_offset() * t.itemsize % 8 == 0 for t in packed)
    integer = torch.int64 if aligned else {2: torch.int16, 4: torch.int32}[a.itemsize]
    return torch.equal(*(t.view(integer) for t in packed))
