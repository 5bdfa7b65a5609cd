"""Smaller batches, for metrics that need many times the memory of their pictures."""

from collections.abc import Iterator

from torch import Tensor

_MOST_PIXELS = 2**18


def pieces(x_hat: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:  # both (B, C, H, W)
    """The same pictures in smaller batches, of at least one picture and otherwise at most 512 x 512 pixels in all."""
    count = max(1, _MOST_PIXELS // max(1, x[0, 0].numel()))
    yield from zip(x_hat.split(count), x.split(count), strict=True)
