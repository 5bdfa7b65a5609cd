"""silu(group_norm(x)) as one operation: the C++ kernels of csrc/cpu where they take the call, else PyTorch's own two.

Fused because of bfloat16 training on CPUs, where PyTorch's backward pass of group normalisation is slow, and because
then neither the normalised x nor its sigmoid is kept: both are computed again from x, the means and the deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx.experimental.symbolic_shapes import statically_known_true

from scvae_fast.ops import _checks, _native
from scvae_fast.ops._dispatch import in_forward_mode, in_transform, is_bare, needs_gradient
from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, threads
from scvae_fast.ops._registered import Registered, apply_bare, autocast_is_on

_NAME = "group_norm_silu"
_ARGUMENTS = "Tensor x, Tensor weight, Tensor bias"
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
    of threads results are bitwise the same. Every other call is `F.silu(F.group_norm(...))`, and so are calls in
    forward mode, under transforms of torch.func and under torch.jit.trace. Derivatives of gradients are PyTorch's too.

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
    groups, eps = _checks.count(_NAME, "groups", groups), _checks.python_number(eps)
    _check(x, weight, bias, groups, eps)
    transformed = not torch.compiler.is_compiling() and (in_transform() or in_forward_mode())
    if transformed or torch.jit.is_tracing() or not _taken(x):
        return _composed(x, weight, bias, groups, eps)
    weight, bias = weight.float(), bias.float()
    tensors = (x, weight, bias)
    if not is_bare(tensors, cast=False):
        return _OPERATION(x, weight, bias, groups, eps)[0]
    if needs_gradient(tensors):
        return apply_bare(GroupNormSiLU, x, weight, bias, groups, eps, True)[0]
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
    if groups < 1 or channels % groups != 0:
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
    if in_forward_mode():
        t = group_norm_formula(x, weight, bias, groups, eps)
        return (t * t.sigmoid()).to(x.dtype)
    if x.device.type != "cpu" and not autocast_is_on(x.device.type):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def group_norm_formula(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> torch.Tensor:
    """`F.group_norm` from elementary operations, for forward mode; 16-bit x are normalised, and returned, in float32.

    PyTorch's own raises in forward mode if a tangent is not contiguous, and its backward pass has no forward mode.
    """
    wide = x.float() if _checks.is_half(x.dtype) else x
    grouped = wide.unflatten(1, (groups, -1)).flatten(2)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    normalised = ((grouped - mean) * (variance + eps).rsqrt()).reshape(x.shape)
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    return weight.reshape(per_channel) * normalised + bias.reshape(per_channel)


def _arguments(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> tuple[Any, ...]:
    """The problem as the kernels take it; the tensors are packed."""
    samples, channels, height, width = x.shape
    sizes = (samples, channels, height * width, groups, eps, not x.is_contiguous())
    return (x.dtype is torch.bfloat16, *sizes, x.data_ptr(), weight.data_ptr(), bias.data_ptr())


def _forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    x, weight, bias = x.contiguous(memory_format=_format(x)), weight.contiguous(), bias.contiguous()
    y, statistics = _fake(x, weight, bias, groups, eps)
    arguments = _arguments(x, weight, bias, groups, eps)
    native.group_norm_silu_forward(*arguments, y.data_ptr(), statistics.data_ptr(), threads())
    return y, statistics


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    """Results that nobody has computed yet."""
    return torch.empty_like(x, memory_format=_format(x)), weight.new_empty(2, x.shape[0], groups)


def _check_kernels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> None:
    """For those who call the operations themselves."""
    _check(x, weight, bias, groups, eps)
    if x.dim() != 4 or x.dtype not in _DTYPES or weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise TypeError(f"{_NAME}: the kernels take x (N, C, H, W) in float32 or bfloat16, the others in float32")


def _checked_forward(*arguments: Any) -> Results:
    _check_kernels(*arguments)
    return _forward(*arguments)


def _plain_results(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> Results:
    """In differentiable PyTorch."""
    variance, mean = torch.var_mean(x.detach().float().unflatten(1, (groups, -1)).flatten(2), -1, correction=0)
    return _composed(x, weight, bias, groups, eps), torch.stack([mean, (variance + eps).rsqrt()])


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: torch.Tensor,
    groups: int,
    eps: float,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias for grad = ∂L/∂y; None where one is not needed."""
    _check_backward(grad, x, weight, bias, statistics, groups, eps, needed)
    layout = _format(x)
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    weight, bias, statistics = weight.contiguous(), bias.contiguous(), statistics.contiguous()
    gradients = [torch.empty_like(t) if n else None for t, n in zip((x, weight, bias), needed, strict=True)]
    native.group_norm_silu_backward(
        *_arguments(x, weight, bias, groups, eps),
        grad.data_ptr(),
        statistics.data_ptr(),
        *map(address, gradients),
        threads(),
    )
    return tuple(gradients)


def _check_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: torch.Tensor,
    groups: int,
    eps: float,
    needed: Sequence[bool],
) -> None:
    """Raises TypeError or ValueError for what the kernels would read or write beyond its end."""
    op = f"{_NAME}_backward"
    _check_kernels(x, weight, bias, groups, eps)
    _checks.has_shape(op, "grad", grad, x.shape, "of the shape of x,")
    _checks.agree(op, ("x", "grad"), (x, grad))
    _checks.has_shape(op, "statistics", statistics, (2, x.shape[0], groups), "(2, N, groups)")
    _checks.agree(op, ("weight", "statistics"), (weight, statistics))
    if len(needed) != 3:
        raise ValueError(f"{op}: needed must have 3 entries, one for each tensor, got {len(needed)}")


def _plain_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: torch.Tensor,
    groups: int,
    eps: float,
    needed: Sequence[bool],
) -> Gradients:
    """The same as functions of grad, x, weight and bias, in differentiable PyTorch."""

    def formula(*tensors: torch.Tensor) -> torch.Tensor:
        x, weight, bias = tensors
        return _composed(x, weight, bias, groups, eps)

    pull_back = torch.func.vjp(formula, x, weight, bias)[1]
    return tuple(g if n else None for g, n in zip(pull_back(grad), needed, strict=True))


def _filled(gradients: Gradients, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """With something in the place of gradients that nobody needs: an operation can't return None."""
    return tuple(x.new_empty(0) if g is None else g for g in gradients)


def _fake_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    layouts = (_format(x), torch.contiguous_format, torch.contiguous_format)
    wanted = zip((x, weight, bias), layouts, rest[-1], strict=True)
    return _filled(tuple(torch.empty_like(t, memory_format=layout) if n else None for t, layout, n in wanted), x)


class GroupNormSiLU(torch.autograd.Function):
    """The forward pass as autograd records it; printed results show its name. The last argument is `is_bare`."""

    @staticmethod
    def forward(*arguments: Any) -> Results:
        *given, bare = arguments
        return _forward(*given) if bare else _OPERATION(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
        x, weight, bias, ctx.groups, ctx.eps, _ = inputs
        ctx.save_for_backward(x, weight, bias, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> Gradients:
        needed = list(ctx.needs_input_grad[:3])
        tensors = (grad, *ctx.saved_tensors)
        arguments = (*tensors, ctx.groups, ctx.eps, needed)
        if torch.is_grad_enabled() or in_forward_mode():
            return *_plain_gradients(*arguments), None, None, None
        if is_bare(tensors, cast=False):
            return *_backward(*arguments), None, None, None
        gradients = _BACKWARD(*arguments)
        return *(g if n else None for g, n in zip(gradients, needed, strict=True)), None, None, None


def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Results, tuple[int, int]]:
    return torch.vmap(_plain_results, in_dims)(*arguments), (0, 0)


_OPERATION = Registered(
    _NAME,
    f"({_ARGUMENTS}, SymInt groups, float eps) -> (Tensor, Tensor)",
    kernel=_checked_forward,
    fake=_fake,
    recorded=lambda *given: GroupNormSiLU.apply(*given, False),
    plain=_plain_results,
    vmap=_vmap,
    device="CPU",
    autocast=False,
)
_BACKWARD = Registered(
    f"{_NAME}_backward",
    f"(Tensor grad, {_ARGUMENTS}, Tensor statistics, SymInt groups, float eps, bool[] needed)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=lambda *given: _filled(_backward(*given), given[1]),
    fake=_fake_backward,
    recorded=lambda *given: _filled(_plain_gradients(*given), given[1]),
    plain=lambda *given: _filled(_plain_gradients(*given), given[1]),
    device="CPU",
    autocast=False,
)
