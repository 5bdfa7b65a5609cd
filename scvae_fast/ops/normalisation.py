"""silu(group_norm(x)) as one operation: by the C++ kernels of csrc/cpu if they support the call, otherwise by PyTorch.

It is fused because of bfloat16 training on CPUs, where PyTorch's backward pass of group normalisation is slow, and
because neither the normalised x nor its sigmoid is kept: both are recomputed from x, the means and the deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx.experimental.symbolic_shapes import statically_known_true

from scvae_fast.ops import checks, native
from scvae_fast.ops.dispatch import in_forward_mode, in_transform, needs_gradient
from scvae_fast.ops.library import autocast_is_on
from scvae_fast.ops.native import address, threads
from scvae_fast.ops.registration import Keeps, Operation, OptionalTensors, Outcome, Results

_NAME = "group_norm_silu"
_DTYPES = (torch.float32, torch.bfloat16)
_LAST_CHANNELS = 16  # minimum for the kernels in channels_last
_WORTHWHILE = 1 << 17  # elements; below this, calling the kernels from Python costs more than they save


def group_norm_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float = 1e-6
) -> torch.Tensor:
    """SiLU of group normalisation, t · sigmoid(t) for t = weight · (x − mean) / √(variance + eps) + bias.

    Mean and variance are those of a sample's group of channels (Wu & He 2018, eq. 2). The C++ kernels run on a CPU for
    (N, C, H, W) in float32 and bfloat16 with at least 2¹⁷ elements (or a size unknown to torch.compile), and in
    channels_last with at least 16 channels. They compute in float32 and round once; results are bitwise the same for
    any number of threads. Every other call is `F.silu(F.group_norm(...))`, and so are calls in forward mode, under
    transforms of torch.func and under torch.jit.trace. Derivatives of gradients also come from PyTorch.

    Args:
        x: (N, C, …), floating point.
        weight: (C,), in x's dtype, or float32 if x is a 16-bit type.
        bias: (C,), likewise.
        groups: number of groups; it divides C.
        eps: added to the variance, ≥ 0.

    Returns:
        x's shape and dtype; float32 if autocast runs group normalisation in float32, as on GPUs.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, groups or eps don't fit.

    Example:
        >>> import torch
        >>> from scvae_fast.functional import group_norm_silu
        >>> x = torch.randn(2, 8, 16, 16)
        >>> group_norm_silu(x, torch.ones(8), torch.zeros(8), groups=4).shape
        torch.Size([2, 8, 16, 16])
    """
    groups, eps = checks.count(_NAME, "groups", groups), checks.number(_NAME, "eps", eps)
    _check(x, weight, bias, groups, eps)
    transformed = not torch.compiler.is_compiling() and (in_transform() or in_forward_mode())
    if transformed or torch.jit.is_tracing() or not _taken(x):
        return _composed(x, weight, bias, groups, eps)
    y: torch.Tensor = _OPERATION(x, weight.float(), bias.float(), groups, eps)[0]
    return y


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> None:
    """Raise TypeError or ValueError unless this is a valid call."""
    checks.are_tensors(_NAME, x=x, weight=weight, bias=bias)
    checks.agree(_NAME, ("x", "weight", "bias"), (x, weight, bias), may_be_float32=("weight", "bias"))
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"{_NAME}: x must be (N, C, …) with C >= 1, got {list(x.shape)}")
    channels = x.shape[1]
    checks.has_shape(_NAME, "weight", weight, (channels,), "(C,)")
    checks.has_shape(_NAME, "bias", bias, (channels,), "(C,)")
    if groups < 1 or channels % groups != 0:
        raise ValueError(f"{_NAME}: groups must divide the {channels} channels of x, got {groups}")
    if not eps >= 0:
        raise ValueError(f"{_NAME}: eps must be at least 0, got {eps}")


def _taken(x: torch.Tensor) -> bool:
    """Whether the kernels support a call; compiled code checks its size only if that is known."""
    if native.missing is not None or x.device.type != "cpu" or x.dim() != 4 or x.dtype not in _DTYPES:
        return False
    if statically_known_true(x.numel() < _WORTHWHILE):
        return False
    return x.shape[1] >= _LAST_CHANNELS or not _is_last(x)


def _is_last(x: torch.Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _format(x: torch.Tensor) -> torch.memory_format:
    """The layout in which the kernels read x (N, C, H, W) and write tensors of its shape: that of x if it is packed."""
    return torch.channels_last if _is_last(x) and x.shape[1] >= _LAST_CHANNELS else torch.contiguous_format


def _composed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> torch.Tensor:
    """By PyTorch, which accepts a weight wider than x only on CPUs and under autocast."""
    if in_forward_mode():
        t = group_norm_formula(x, weight, bias, groups, eps)
        return (t * t.sigmoid()).to(x.dtype)
    if x.device.type != "cpu" and not autocast_is_on(x.device.type):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.silu(F.group_norm(safely_packed(x, weight, bias), groups, weight, bias, eps))


def safely_packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """For `F.group_norm`: its backward pass on CPUs crashes if x is channels-last and gets no gradient (torch 2.13)."""
    safe = x.device.type != "cpu" or x.requires_grad or not needs_gradient((weight, bias))
    return x if safe else x.contiguous()


def group_norm_formula(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> torch.Tensor:
    """`F.group_norm` from elementary operations, for forward mode; 16-bit x are normalised and returned in float32.

    PyTorch's own raises in forward mode if a tangent is not contiguous, and its backward pass has no forward mode.
    """
    wide = x.float() if checks.is_half(x.dtype) else x
    grouped = wide.unflatten(1, (groups, -1)).flatten(2)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    normalised = ((grouped - mean) * (variance + eps).rsqrt()).reshape(x.shape)
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    return weight.reshape(per_channel) * normalised + bias.reshape(per_channel)


def _arguments(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> tuple[Any, ...]:
    """The problem as kernel arguments; the tensors are packed."""
    samples, channels, height, width = x.shape
    sizes = (samples, channels, height * width, groups, eps, not x.is_contiguous())
    return (x.dtype is torch.bfloat16, *sizes, x.data_ptr(), weight.data_ptr(), bias.data_ptr())


def _formula_gradients(
    grad: torch.Tensor, tensors: Sequence[torch.Tensor], groups: int, eps: float
) -> tuple[torch.Tensor, ...]:
    """Gradients of x, weight and bias, as differentiable functions of these and of grad."""

    def formula(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return _composed(x, weight, bias, groups, eps)

    gradients: tuple[torch.Tensor, ...] = torch.func.vjp(formula, *tensors)[1](grad)
    return gradients


class _Kernels:
    """The C++ kernels, as a `Computation`. The second result has mean and 1/√(variance + eps) of each group."""

    def _check(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float) -> None:
        _check(x, weight, bias, groups, eps)
        if x.dim() != 4 or x.dtype not in _DTYPES or weight.dtype != torch.float32 or bias.dtype != torch.float32:
            raise TypeError(f"{_NAME}: the kernels take x (N, C, H, W) in float32 or bfloat16, the others in float32")

    def forward(self, *arguments: Any) -> Results:
        """Results y (N, C, H, W) and statistics (2, N, groups)."""
        y, statistics = self.fake(*arguments)
        x, weight, bias, groups, eps = arguments
        x, weight, bias = x.contiguous(memory_format=_format(x)), weight.contiguous(), bias.contiguous()
        arguments = _arguments(x, weight, bias, groups, eps)
        native.module.group_norm_silu_forward(*arguments, y.data_ptr(), statistics.data_ptr(), threads())
        return y, statistics

    def fake(self, *arguments: Any) -> Results:
        """Empty results of the right shape."""
        self._check(*arguments)
        x, weight, _, groups, _ = arguments
        return torch.empty_like(x, memory_format=_format(x)), weight.new_empty(2, x.shape[0], groups)

    def plain(self, *arguments: Any) -> Results:
        """In differentiable PyTorch."""
        x, weight, bias, groups, eps = arguments
        variance, mean = torch.var_mean(x.detach().float().unflatten(1, (groups, -1)).flatten(2), -1, correction=0)
        return _composed(x, weight, bias, groups, eps), torch.stack([mean, (variance + eps).rsqrt()])

    def backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Gradients of x, weight and bias."""
        grad, statistics = self._checked(outcome, arguments, needed)
        x, weight, bias, groups, eps = arguments
        layout = _format(x)
        grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
        weight, bias, statistics = weight.contiguous(), bias.contiguous(), statistics.contiguous()
        gradients = self.fake_backward((x, weight, bias), needed)
        native.module.group_norm_silu_backward(
            *_arguments(x, weight, bias, groups, eps),
            grad.data_ptr(),
            statistics.data_ptr(),
            *map(address, gradients),
            threads(),
        )
        return gradients

    def _checked(
        self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """∂L/∂y and statistics; raises TypeError or ValueError if kernels would read or write out of bounds."""
        op, (x, weight, _, groups, _) = f"{_NAME}_backward", arguments
        self._check(*arguments)
        (grad,), (statistics,) = outcome
        if grad is None:
            raise ValueError(f"{op}: the gradient of the result must be given, got none")
        checks.has_shape(op, "grad_0", grad, x.shape, "of the shape of x,")
        checks.agree(op, ("x", "grad_0"), (x, grad))
        checks.has_shape(op, "statistics", statistics, (2, x.shape[0], groups), "(2, N, groups)")
        checks.agree(op, ("weight", "statistics"), (weight, statistics))
        if len(needed) != 3:
            raise ValueError(f"{op}: needed must have 3 entries, one for each tensor, got {len(needed)}")
        return grad, statistics

    def plain_backward(self, outcome: Outcome, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """In differentiable PyTorch."""
        (grad,), (*tensors, groups, eps) = outcome.grads, arguments
        assert grad is not None
        return tuple(
            g if n else None for g, n in zip(_formula_gradients(grad, tensors, groups, eps), needed, strict=True)
        )

    def fake_backward(self, arguments: Sequence[Any], needed: Sequence[bool]) -> OptionalTensors:
        """Empty gradients of the right shape."""
        layouts = (_format(arguments[0]), torch.contiguous_format, torch.contiguous_format)
        wanted = zip(arguments[:3], layouts, needed, strict=True)
        return tuple(torch.empty_like(t, memory_format=layout) if n else None for t, layout, n in wanted)


_KERNELS = _Kernels()


def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Results, tuple[int, int]]:
    return torch.vmap(_KERNELS.plain, in_dims)(*arguments), (0, 0)


_OPERATION = Operation(
    _NAME,
    "Tensor x, Tensor weight, Tensor bias, SymInt groups, float eps",
    _KERNELS,
    results=2,
    differentiable=1,
    keeps=(Keeps(1, "statistics"),),
    vmap=_vmap,
    device="CPU",
    autocast=False,
)
