"""Validation shared by the operations: one clear error before any work is done.

Every message names the operation, the argument, what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch

_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, *_HALF)
_LARGEST = 2**31 - 1  # GPU kernels use 32-bit indices


def is_half(dtype: torch.dtype) -> bool:
    """Whether a dtype has 16 bits and is therefore computed in float32."""
    return dtype in _HALF


def is_taken(op: str, name: str, dtype: object) -> None:
    """Raise TypeError unless the operations support the dtype."""
    if dtype not in _DTYPES:
        raise TypeError(f"{op}: {name} must be float32, float64, bfloat16 or float16, got {dtype}")


def are_tensors(op: str, **arguments: object) -> None:
    """Raise TypeError for an argument that is not a tensor."""
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")


def python_number(value: Any) -> Any:
    """NumPy scalars, and other types registered as numbers, as Python's int or float; anything else unchanged."""
    if isinstance(value, (int, float, torch.SymInt)):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def number(op: str, name: str, value: Any) -> Any:
    """The value as Python's number; raises TypeError for anything else."""
    found = python_number(value)
    if isinstance(found, bool) or not isinstance(found, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    return found


def count(op: str, name: str, value: Any, least: int = 0) -> Any:
    """The value as an int; raises unless it is a whole number from `least` to 2³¹ − 1."""
    number = python_number(value)
    if isinstance(number, bool) or not isinstance(number, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if number < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {number}")
    if number > _LARGEST:
        raise ValueError(f"{op}: {name} must be at most {_LARGEST}, got {number}")
    return number


def scalar_tensor(op: str, name: str, value: object, like: torch.Tensor) -> torch.Tensor:
    """A tensor unchanged; a Python number as a 0-dimensional tensor that matches `like`."""
    if isinstance(value, torch.Tensor):
        return value
    number = python_number(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{op}: {name} must be a number or a torch.Tensor, got {type(value).__name__}")
    dtype = torch.float32 if is_half(like.dtype) else like.dtype
    return torch.full((), number, dtype=dtype, device=like.device)


def has_shape(op: str, name: str, tensor: torch.Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Raise ValueError unless the tensor has that shape; `meaning` gives it in symbols."""
    if tensor.shape != shape:
        raise ValueError(f"{op}: {name} must be {meaning} = {list(shape)}, got {list(tensor.shape)}")


def has_rows(op: str, name: str, tensor: torch.Tensor, meaning: str) -> int:
    """Length of the rows, the last dimension; raises ValueError if it is 0 or missing."""
    if tensor.dim() == 0 or tensor.shape[-1] == 0:
        raise ValueError(f"{op}: {name} must be {meaning} with a last dimension >= 1, got {list(tensor.shape)}")
    return tensor.shape[-1]


def is_matrix(op: str, name: str, tensor: torch.Tensor, columns: int, meaning: str) -> int:
    """Number of rows of a matrix; raises ValueError unless it has this number of columns and at least one row."""
    if tensor.dim() != 2 or tensor.shape[1] != columns or tensor.shape[0] == 0:
        raise ValueError(f"{op}: {name} must be {meaning} with {columns} columns, got {list(tensor.shape)}")
    return tensor.shape[0]


def is_shared_or_each(
    op: str,
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, int],
    meaning: str,
    each: tuple[str, int],
    more: str = "",
) -> None:
    """Raise ValueError unless a tensor is a matrix of that shape, or a stack of the number of matrices in `each`."""
    symbol, count = each
    if tensor.shape not in (shape, (count, *shape)):
        raise ValueError(
            f"{op}: {name} must be {meaning} = {list(shape)} or ({symbol}, {meaning[1:]} = {[count, *shape]}{more}, "
            f"got {list(tensor.shape)}"
        )


def is_scalar_or_per_atom(op: str, name: str, tensor: torch.Tensor, atoms: int) -> None:
    """Raise ValueError unless there is one element, or a vector with one for each atom."""
    if tensor.numel() != 1 and tensor.shape != (atoms,):
        raise ValueError(f"{op}: {name} must be one value or (K,) = [{atoms}], got {list(tensor.shape)}")


def is_scalar(op: str, name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless there is exactly one element."""
    if tensor.numel() != 1:
        raise ValueError(f"{op}: {name} must be one value, got shape {list(tensor.shape)}")


def agree(
    op: str,
    names: Sequence[str],
    tensors: Iterable[torch.Tensor | None],
    may_be_float32: tuple[str, ...] = (),
    may_be_bfloat16: tuple[str, ...] = (),
) -> None:
    """Raise unless all tensors are dense floating-point tensors with the first one's dtype, on its device.

    If that dtype has 16 bits, the arguments named in `may_be_float32` may be float32; if it is float32, those in
    `may_be_bfloat16` may be bfloat16.
    """
    first: torch.Tensor | None = None
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            continue
        if first is None:
            first, dtype, device = tensor, tensor.dtype, tensor.device
            is_taken(op, name, dtype)
        if tensor.layout is not torch.strided:
            raise TypeError(f"{op}: {name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.device != device:
            raise ValueError(f"{op}: {name} must be on the device of {names[0]}, {device}, got {tensor.device}")
        if tensor.dtype is not dtype:
            widened = name in may_be_float32 and is_half(dtype) and tensor.dtype == torch.float32
            narrowed = name in may_be_bfloat16 and dtype == torch.float32 and tensor.dtype == torch.bfloat16
            if not (widened or narrowed):
                raise TypeError(f"{op}: {name} must have the dtype of {names[0]}, {dtype}, got {tensor.dtype}")


def is_constant_if_narrowed(op: str, name: str, tensor: torch.Tensor, first: str, like: torch.Tensor) -> None:
    """Raise ValueError if a tensor that is narrower than `like`, the argument `first`, would need a gradient."""
    if tensor.dtype == torch.bfloat16 != like.dtype and tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} in bfloat16 with {first} in {like.dtype} gets no gradient: detach it")
