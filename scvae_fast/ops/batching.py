"""vmap of a call: a batch of rows becomes more rows; for a batch of shared tensors, the call is repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Dims = Sequence[int | None]  # the batch dimension of each tensor; None: no batch


def batched(
    call: Callable[..., Any], size: int, dims: Dims, of_rows: Sequence[bool], arguments: Sequence[Any], *, fold: bool
) -> Any:
    """The results of `call` for a batch of arguments; the batch is the first dimension of each result.

    Args:
        call: returns a tensor or a tuple of tensors.
        size: of the batch.
        dims: batch dimensions of the first arguments, which are tensors or None.
        of_rows: for each of them, whether it has a row for each row of the results.
        arguments: the tensors, and the remaining arguments.
        fold: whether a batch of rows may become one call with more rows; not possible if results are sums over rows.
    """
    dims = dims[: len(of_rows)]
    if fold and not any(dim is not None and not rows for dim, rows in zip(dims, of_rows, strict=True)):
        return call(*_with_batch(size, dims, of_rows, arguments))
    return _one_by_one(call, size, dims, arguments)


def _with_batch(size: int, dims: Dims, of_rows: Sequence[bool], arguments: Sequence[Any]) -> list[Any]:
    """The arguments, with the batch as the first dimension of those that have rows."""
    tensors = list(arguments[: len(dims)])
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        if of_rows[i] and tensor is not None:
            tensors[i] = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return [*tensors, *arguments[len(dims) :]]


def _one_by_one(call: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]) -> Any:
    """The results of `call` for each entry of the batch, stacked."""
    rest = arguments[len(dims) :]
    tensors = [t if dim is None else t.movedim(dim, 0) for t, dim in zip(arguments, dims, strict=False)]
    if size == 0:  # any entry gives the shapes; zeros are not a valid dictionary
        tensors = [t if dim is None else t.new_ones(1, *t.shape[1:]) for t, dim in zip(tensors, dims, strict=True)]
    results = [
        call(*(t if dim is None else t[i] for t, dim in zip(tensors, dims, strict=True)), *rest)
        for i in range(max(size, 1))
    ]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results)[:size]
    return tuple(torch.stack(each)[:size] for each in zip(*results, strict=True))
