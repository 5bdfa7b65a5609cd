"""Functions of torch.library that work correctly with autograd, forward mode, vmap, autocast and torch.compile.

`torch.library.register_autograd` is not enough: under a transform of torch.func it raises, and forward mode silently
loses the tangent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from scvae_fast.ops.dispatch import has_tangent, in_transform, needs_gradient

_NAMESPACE = "scvae_fast"
_LIBRARY = torch.library.Library(_NAMESPACE, "DEF")


class Registered:
    """The function `scvae_fast::name`; calling an instance calls it through torch's dispatcher.

    Args:
        name: of the function.
        schema: its arguments, all of them positional, and its results.
        kernel: computes the results.
        fake: makes results of the right shape without computing them.
        recorded: computes the same through a `torch.autograd.Function`; used when a gradient is needed.
        plain: computes the same in differentiable PyTorch; used when a Function can't be recorded: in forward mode, and
            when compiled code differentiates with torch.func.
        vmap: the rule of `torch.library.register_vmap`.
        device: the dispatch key that the kernel is registered for.
        autocast: whether autocast runs the function in float32; otherwise autocast changes nothing.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        recorded: Callable[..., Any],
        plain: Callable[..., Any],
        vmap: Callable[..., Any] | None = None,
        device: str = "CompositeExplicitAutograd",
        autocast: bool = True,
    ) -> None:
        self._recorded, self._plain = recorded, plain
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, kernel, device)
        _LIBRARY.impl(name, self._autograd, "Autograd", with_keyset=True)
        qualified = f"{_NAMESPACE}::{name}"
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        if vmap is not None:
            torch.library.register_vmap(qualified, vmap, lib=_LIBRARY)
        self._packet = getattr(torch.ops.scvae_fast, name)
        self._overload = self._packet.default
        # Under torch.compile, torch 2.10 confuses the rules of two devices that come from register_autocast.
        for device_type in ("cpu", "cuda") if autocast else ():
            _LIBRARY.impl(name, self._autocast_rule(device_type), f"Autocast{device_type.upper()}")

    def __call__(self, *arguments: Any) -> Any:
        """Call it through the dispatcher."""
        return self._packet(*arguments)

    def _autograd(self, keyset: Any, *arguments: Any) -> Any:
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        needed = needs_gradient(tensors)
        if has_tangent(tensors) or (needed and in_transform()):
            return self._plain(*arguments)
        if needed:
            return self._recorded(*arguments)
        return self._overload.redispatch(keyset.remove(keyset.highestPriorityTypeId()), *arguments)

    def _autocast_rule(self, device_type: str) -> Callable[..., Any]:
        return lambda *arguments: in_float32(device_type, self, *arguments)


def in_float32(device_type: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Apply autocast's rule: call with 16-bit tensors converted to float32, and with autocast switched off."""

    def cast(value: Any) -> Any:
        eligible = isinstance(value, torch.Tensor) and value.device.type == device_type and value.is_floating_point()
        return value.float() if eligible and value.dtype != torch.float64 else value

    with torch.autocast(device_type, enabled=False):
        return call(*map(cast, arguments))


def autocast_is_on(device_type: str) -> bool:
    """Whether autocast is active for that type of device."""
    # torch.compile of torch 2.10 can't trace is_autocast_available. On the meta device there is no autocast.
    known = device_type in ("cpu", "cuda") or (device_type != "meta" and torch.amp.is_autocast_available(device_type))
    return known and torch.is_autocast_enabled(device_type)


def apply_directly(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply` for a bare call, without the preparations for torch.func, which cost more than a small call."""
    apply: Callable[..., Any] = getattr(super(torch.autograd.Function, function), "apply")  # noqa: B009
    return apply(*arguments)
