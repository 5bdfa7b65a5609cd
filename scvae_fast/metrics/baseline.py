"""The baseline that any code should beat: a picture of block means."""

import torch.nn.functional as F
from torch import Tensor


def block_means(pictures: Tensor, size: int) -> Tensor:
    """Pictures in which every block of size x size pixels is replaced by its mean; edge blocks may be smaller.

    Args:
        pictures: (..., C, H, W).
        size: side of a block, in pixels.

    Raises:
        ValueError: size is not positive, or pictures have fewer than three dimensions.

    Example:
        >>> import torch
        >>> from scvae_fast.metrics import block_means
        >>> block_means(torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]), 2)
        tensor([[[3., 3.],
                 [3., 3.]]])
    """
    if size < 1 or pictures.dim() < 3:
        raise ValueError(
            f"block_means: size must be positive and pictures (..., C, H, W), got {size}, {tuple(pictures.shape)}"
        )
    height, width = pictures.shape[-2:]
    means = F.avg_pool2d(pictures, size, ceil_mode=True, count_include_pad=False)
    blocks = means.repeat_interleave(size, -2).repeat_interleave(size, -1)
    return blocks[..., :height, :width]
