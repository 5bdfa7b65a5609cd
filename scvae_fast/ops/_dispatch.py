"""Whether anything stands between a call and its kernel.

torch's dispatcher costs a small call more than its arithmetic does. Where it would do nothing but find the kernel, an
operation calls the kernel itself; in all other cases (torch.compile, modes, subclasses, functorch, autocast, tracing,
the profiler, …) it goes through the dispatcher.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.overrides import has_torch_function

# Private, but what torch._ops itself computes to find a kernel: the keys of the tensors and of the thread, as bits.
_Key = torch._C.DispatchKey


def _bits(*keys: torch._C.DispatchKey) -> int:
    bits = 0
    for key in keys:
        bits |= torch._C.DispatchKeySet(key).raw_repr()
    return bits


_AUTOGRAD = _bits(_Key.AutogradFunctionality)
_AUTOCAST = _bits(_Key.AutocastCPU, _Key.AutocastCUDA)
_ORDINARY = _bits(_Key.CPU, _Key.CUDA, _Key.ADInplaceOrView, _Key.BackendSelect) | _AUTOGRAD | _AUTOCAST

below_autograd = torch._C._AutoDispatchBelowAutograd
"""Context in which a kernel runs: what it does with tensors is not recorded, nor seen as making views."""


def is_bare(tensors: Iterable[torch.Tensor], cast: bool = True) -> bool:
    """Whether nothing but autograd can see a call with these tensors, all of them plain CPU or CUDA tensors.

    `cast` is whether autocast has a rule for the operation: without one it does nothing.
    """
    if torch.compiler.is_compiling() or torch.autograd._profiler_enabled() or has_torch_function(tensors):
        return False
    keys = torch._C._dispatch_tls_local_include_set().raw_repr()
    for tensor in tensors:
        keys |= torch._C._dispatch_keys(tensor).raw_repr()
    if keys & ~_ORDINARY:
        return False
    excluded = torch._C._dispatch_tls_local_exclude_set().raw_repr()
    autocast = cast and _AUTOCAST & ~excluded
    # Inside the kernel of another operation autograd is shut out although gradients are enabled.
    shut_out = excluded & _AUTOGRAD and torch.is_grad_enabled()
    return not (autocast or shut_out)
