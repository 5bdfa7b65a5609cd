"""Weights that a layer forms from other tensors, kept between calls for as long as those tensors stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from scvae_fast.ops.dispatch import in_forward_mode, in_transform, is_plain, needs_gradient

Tensors = tuple[torch.Tensor, ...]


def is_differentiated(tensors: Tensors) -> bool:
    """Whether a derivative with respect to any of them may be asked for, as under every transform of torch.func."""
    transformed = not torch.compiler.is_compiling() and (in_transform() or in_forward_mode())
    return transformed or needs_gradient(tensors)


class _Formed(NamedTuple):
    sources: Tensors  # copies
    key: object
    weights: Tensors


class KeptWeights:
    """What was last formed, with copies of what it was formed from.

    Nothing but the contents tells whether a tensor changed: fused optimisers and writes to `.data` leave its version as
    it was, and a new tensor can have the address of an old one. Copies and pickles of a layer keep nothing.
    """

    def __init__(self) -> None:
        self._last: _Formed | None = None

    def of(self, sources: Tensors, form: Callable[..., Tensors], key: object = None, on_cuda: bool = False) -> Tensors:
        """form(*sources), from an earlier call if every source still has the bits that it had then.

        Only ordinary tensors of the CPU are kept, where no derivative is asked for, and where no compiler, transform
        or mode is active.

        Args:
            sources: what the weights are formed from.
            form: how; a function of nothing else but `key`.
            key: how form differs from earlier calls.
            on_cuda: whether weights on a GPU are kept too. Each call then waits for the GPU, to compare. While a
                CUDA graph is captured, nothing is kept.
        """
        if is_differentiated(sources) or not is_plain(sources) or any(t.is_inference() for t in sources):
            return form(*sources)
        device = sources[0].device.type
        if device != "cpu" and not (on_cuda and device == "cuda" and not torch.cuda.is_current_stream_capturing()):
            return form(*sources)
        last = self._last
        if last is None or last.key != key or not all(map(_same_bits, last.sources, sources)):
            # Tensors made in inference_mode could not be used outside of it. The weights are formed from the copies,
            # so they fit even if another thread changes a source meanwhile.
            with torch.inference_mode(False), torch.no_grad():
                copies = tuple(t.detach().clone() for t in sources)
                last = self._last = _Formed(copies, key, tuple(t.contiguous() for t in form(*copies)))
        return last.weights

    def __reduce__(self) -> tuple[type[KeptWeights], tuple[()]]:
        return KeptWeights, ()


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both have the same bits. Unlike ==, this tells 0 from −0 and finds a NaN equal to itself."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    packed = [t.detach().contiguous().view(-1) for t in (a, b)]
    # 64-bit integers are compared fastest, where size and place allow them.
    aligned = all(t.nbytes % 8 == 0 and t.storage_offset() * t.itemsize % 8 == 0 for t in packed)
    integer = torch.int64 if aligned else {2: torch.int16, 4: torch.int32}[a.itemsize]
    return torch.equal(*(t.view(integer) for t in packed))
