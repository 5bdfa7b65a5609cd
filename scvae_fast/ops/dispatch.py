"""Whether a call may skip torch's dispatcher, and whether it is being differentiated or transformed.

For a small call the dispatcher takes longer than the arithmetic. If the dispatcher would only select the kernel, an
operation calls the kernel directly. That saves about 20 µs per call, and 170 µs per call with its backward pass
(measured by `python -m benchmarks.transforms`). No public function of torch can tell whether a mode or a transform is
active, so `is_plain` reads private ones. If a version of torch lacks one of them, every call goes through the
dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad
from torch.overrides import has_torch_function


class _Private(NamedTuple):
    """Private functions of torch, and sets of dispatch keys as bits."""

    included: Callable[[], Any]  # keys that this thread adds to those of the tensors
    excluded: Callable[[], Any]  # keys that this thread masks
    of: Callable[[torch.Tensor], Any]  # keys of a tensor
    profiled: Callable[[], bool]
    autograd: int
    autocast: int
    ordinary: int  # keys of CPU, CUDA, autograd and autocast


def _private() -> _Private | None:
    """The private functions; None if this version of torch lacks one of them."""
    try:
        core, key = torch._C, torch._C.DispatchKey
        autograd = core.DispatchKeySet(key.AutogradFunctionality).raw_repr()
        autocast = ordinary = 0
        for each in (key.AutocastCPU, key.AutocastCUDA):
            autocast |= core.DispatchKeySet(each).raw_repr()
        for each in (key.CPU, key.CUDA, key.ADInplaceOrView, key.BackendSelect):
            ordinary |= core.DispatchKeySet(each).raw_repr()
        include, exclude = core._dispatch_tls_local_include_set, core._dispatch_tls_local_exclude_set
        profiled = torch.autograd._profiler_enabled
        _ = forward_ad._current_level  # in_forward_mode reads it
        return _Private(
            include, exclude, core._dispatch_keys, profiled, autograd, autocast, ordinary | autograd | autocast
        )
    except AttributeError:
        return None


_PRIVATE = _private()


def is_plain(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether these are ordinary CPU or CUDA tensors, and no transform, mode or compiler is active."""
    if _PRIVATE is None or torch.compiler.is_compiling() or has_torch_function(tensors) or in_forward_mode():
        return False
    keys = _PRIVATE.included().raw_repr()
    for tensor in tensors:
        keys |= _PRIVATE.of(tensor).raw_repr()
    return not keys & ~_PRIVATE.ordinary


def can_skip_dispatcher(tensors: Iterable[torch.Tensor], cast: bool = True) -> bool:
    """Whether autograd is the only feature of the dispatcher that matters to a call with these plain tensors.

    `cast` is whether autocast has a rule for the operation; otherwise autocast changes nothing.
    """
    if not is_plain(tensors) or _PRIVATE is None or _PRIVATE.profiled():
        return False
    excluded = _PRIVATE.excluded().raw_repr()
    autocast = cast and _PRIVATE.autocast & ~excluded
    # Inside the kernel of another operation, autograd is excluded although gradients are enabled.
    shut_out = excluded & _PRIVATE.autograd and torch.is_grad_enabled()
    return not (autocast or shut_out)


def in_forward_mode() -> bool:
    """Whether eager code is inside `torch.func.jvp`, or a function built on it, or a `dual_level`."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def has_tangent(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any of the tensors has a tangent at the current level of forward-mode differentiation."""
    # Compiled code enters levels without updating the Python module.
    level = 0 if in_transform() else None
    return any(forward_ad.unpack_dual(t, level=level).tangent is not None for t in tensors)


in_transform: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether a transform of torch.func is active. If this version of torch can't tell, True, which is always safe."""


def needs_gradient(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether autograd records a call with these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
