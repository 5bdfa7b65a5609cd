"""silu(group_norm(x)) as one operation: the C++ kernels of csrc/cpu where they take the call, else PyTorch's own two.

Fused because of bfloat16 training on CPUs, where PyTorch's backward pass of group normalisation is slow, and because
then neither the normalised x nor its sigmoid is kept: both are computed again from x, the means and the deviations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.fx.experimental.symbolic_shapes import statically_known_true

from scvae_fast.ops import _checks, _native
from scvae_fast.ops._dispatch import below_autograd, is_bare
from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native

_NAME = "group_norm_silu"
_ARGUMENTS = "Tensor x, Tensor weight, Tensor bias"
_LIBRARY = torch.library.Library("scvae_fast", "FRAGMENT")

_DTYPES = (torch.float32, torch.bfloat16)
_LAST_CHANNELS = 16  # fewer of them the kernels don't take in channels_last
_WORTHWHILE = 1 << 17  # elements; with fewer, calling them from Python costs more than they save

Results = tuple[torch.Tensor, torch.Tensor]  # y, and statistics (2, N, groups): means and inverse deviations


def group_norm_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float = 1e-6
) -> torch.Tensor:
    """SiLU of group normalisation, t · sigmoid(t) for t = weight · (x − mean) / √(variance + eps) + bias.

    Mean and variance are those of a sample's group of channels (Wu & He 2018, eq. 2). The C++ kernels take (N, C, H, W)
    in float32 and bfloat16 on a CPU, of 2¹⁷ elements or more (or of a size that torch.compile does not know), with 16
    channels or more where it is laid out as channels_last. They compute in float32 and round once; whatever the number
    of threads results are bitwise the same; their gradient can't be differentiated again. Every other call is
    `F.silu(F.group_norm(...))`.

    Args:
        x: (N, C, …), floating point.
        weight: (C,), in x's dtype, or float32 where x is a 16-bit type.
        bias: (C,), likewise.
        groups: number of groups; it divides C.
        eps: added to the variance, ≥ 0.

    Returns:
        x's shape and dtype; float32 where autocast runs group normalisation in float32, on GPUs.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, groups or eps don't fit.
    """
    _check(x, weight, bias, groups, eps)
    if not _taken(x):
        return _composed(x, weight, bias, groups, eps)
    weight, bias = weight.float(), bias.float()
    tensors = (x, weight, bias)
    if not is_bare(tensors, cast=False):
        return torch.ops.scvae_fast.group_norm_silu(x, weight, bias, groups, eps)[0]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Recorded.apply(x, weight, bias, groups, eps)
    with below_autograd():
        return _forward(x, weight, bias, groups, eps)[0]


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> None:
    """Raises TypeError or ValueError unless this is a valid call."""
    _checks.are_tensors(_NAME, x=x, weight=weight, bias=bias)
    _checks.agree(_NAME, ("x", "weight", "bias"), (x, weight, bias), may_be_float32=("weight", "bias"))
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"{_NAME}: x must be (N, C, …) with C >= 1, got {list(x.shape)}")
    channels = x.shape[1]
    _checks.has_shape(_NAME, "weight", weight, (channels,), "(C,)")
    _checks.has_shape(_NAME, "bias", bias, (channels,), "(C,)")
    _checks.count(_NAME, "groups", groups)
    if groups == 0 or channels % groups != 0:
        raise ValueError(f"{_NAME}: groups must divide the {channels} channels of x, got {groups}")
    if not eps >= 0:
        raise ValueError(f"{_NAME}: eps must be at least 0, got {eps}")


def _taken(x: torch.Tensor) -> bool:
    """Whether the kernels take a call; compiled code asks for its size only where that is known."""
    if _native.missing is not None or x.device.type != "cpu" or x.dim() != 4 or x.dtype not in _DTYPES:
        return False
    if statically_known_true(x.numel() < _WORTHWHILE):
        return False
    return x.shape[1] >= _LAST_CHANNELS or not _is_last(x)


def _is_last(x: torch.Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _format(x: torch.Tensor) -> torch.memory_format:
    """The layout in which the kernels read x (N, C, H, W), and write what has its shape: x's own where it is packed."""
    return torch.channels_last if _is_last(x) and x.shape[1] >= _LAST_CHANNELS else torch.contiguous_format


def _composed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> torch.Tensor:
    """By PyTorch. Only on CPUs, and under autocast, it takes a weight that is wider than x."""
    device = x.device.type
    if device != "cpu" and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def _arguments(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> tuple[Any, ...]:
    """The problem as the kernels take it; the tensors are packed."""
    samples, channels, height, width = x.shape
    sizes = (samples, channels, height * width, groups, eps, not x.is_contiguous())
    return (x.dtype is torch.bfloat16, *sizes, x.data_ptr(), weight.data_ptr(), bias.data_ptr())


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    x, weight, bias = x.contiguous(memory_format=_format(x)), weight.contiguous(), bias.contiguous()
    y, statistics = _fake(x, weight, bias, groups, eps)
    arguments = _arguments(x, weight, bias, groups, eps)
    native.group_norm_silu_forward(*arguments, y.data_ptr(), statistics.data_ptr(), torch.get_num_threads())
    return y, statistics


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    """Results that nobody has computed yet."""
    return torch.empty_like(x, memory_format=_format(x)), weight.new_empty(2, x.shape[0], groups)


def _checked_forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    """For those who call the operation itself."""
    _check(x, weight, bias, groups, eps)
    if x.dim() != 4 or x.dtype not in _DTYPES or weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise TypeError(f"{_NAME}: the kernels take x (N, C, H, W) in float32 or bfloat16, the others in float32")
    return _forward(x, weight, bias, groups, eps)


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: torch.Tensor,
    groups: int,
    eps: float,
    needed: list[bool],
) -> Gradients:
    """Gradients of x, weight and bias for grad = ∂L/∂y; None where one is not needed."""
    layout = _format(x)
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    weight, bias = weight.contiguous(), bias.contiguous()
    gradients = [torch.empty_like(t) if n else None for t, n in zip((x, weight, bias), needed, strict=True)]
    native.group_norm_silu_backward(
        *_arguments(x, weight, bias, groups, eps),
        grad.data_ptr(),
        statistics.data_ptr(),
        *map(address, gradients),
        torch.get_num_threads(),
    )
    return tuple(gradients)


def _full_backward(grad: torch.Tensor, x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """The same as an operation, which can't return None."""
    return tuple(x.new_empty(0) if g is None else g for g in _backward(grad, x, *rest))


def _fake_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    layouts = (_format(x), torch.contiguous_format, torch.contiguous_format)
    return tuple(
        torch.empty_like(t, memory_format=layout) if n else x.new_empty(0)
        for t, layout, n in zip((x, weight, bias), layouts, rest[-1], strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    x, weight, bias, ctx.groups, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: torch.Tensor, *_: Any) -> Gradients:
    needed = list(ctx.needs_input_grad[:3])
    saved = ctx.saved_tensors
    arguments = (grad, *saved, ctx.groups, ctx.eps, needed)
    if torch.is_grad_enabled() or not is_bare((grad, *saved), cast=False):
        gradients = torch.ops.scvae_fast.group_norm_silu_backward(*arguments)
        return *(g if n else None for g, n in zip(gradients, needed, strict=True)), None, None
    with below_autograd():
        return *_backward(*arguments), None, None


def _differentiate_twice(ctx: Any, *grads: torch.Tensor) -> None:
    raise RuntimeError(
        f"{_NAME}: its gradient can't be differentiated again (create_graph=True); "
        "write F.silu(F.group_norm(...)) where second derivatives are needed"
    )


class _Recorded(torch.autograd.Function):
    """The forward pass as autograd records it where the dispatcher is skipped."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Any:
        with below_autograd():
            y, statistics = _forward(x, weight, bias, groups, eps)
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(x, weight, bias, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gradients(ctx, *grads)


def _define(name: str, schema: str, implementation: Any, fake: Any, derivative: Any, **context: Any) -> None:
    qualified = f"scvae_fast::{name}"
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, implementation, "CPU")
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    torch.library.register_autograd(qualified, derivative, **context, lib=_LIBRARY)


_define(
    _NAME,
    f"({_ARGUMENTS}, SymInt groups, float eps) -> (Tensor, Tensor)",
    _checked_forward,
    _fake,
    _gradients,
    setup_context=_setup_context,
)
_define(
    f"{_NAME}_backward",
    f"(Tensor grad, {_ARGUMENTS}, Tensor statistics, SymInt groups, float eps, bool[] needed)"
    " -> (Tensor, Tensor, Tensor)",
    _full_backward,
    _fake_backward,
    _differentiate_twice,
)
