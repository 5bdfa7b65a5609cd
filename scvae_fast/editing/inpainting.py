"""Missing pixels, filled in by coding and decoding again and again."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scvae_fast.editing.denoising import recode
from scvae_fast.models import SCVAE


def random_mask(size: tuple[int, int], share: float, *, block: int = 1, seed: int) -> Tensor:  # -> (H, W) bool
    """True for about `share` of the blocks of block x block pixels of a picture, but for one of them at least.

    Raises:
        ValueError: share is not between 0 and 1, or block is not positive.
    """
    if not 0 < share < 1 or block < 1:
        raise ValueError(f"random_mask: share must be between 0 and 1 and block 1 or more, got {share} and {block}")
    grid = tuple(-(-side // block) for side in size)
    count = grid[0] * grid[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    blocks = torch.zeros(count, dtype=torch.bool)
    blocks[order[: min(max(round(share * count), 1), count - 1)]] = True
    mask = blocks.view(grid).repeat_interleave(block, 0).repeat_interleave(block, 1)
    return mask[: size[0], : size[1]]


def fill_smoothly(picture: Tensor, missing: Tensor) -> Tensor:  # (3, H, W), (H, W) bool -> (3, H, W)
    """The picture with missing pixels filled with the mean of the known ones around them, as near as there are any.

    Raises:
        ValueError: missing is no mask of the picture's size, or no pixel is known.
    """
    _check(picture, missing)
    values = torch.where(missing, 0, picture)[None]  # (1, 3, H, W)
    known = (~missing).to(picture)[None, None]  # (1, 1, H, W)
    filled, to_fill, reach = values[0], missing.clone(), 1
    while to_fill.any():
        weight, total = (F.avg_pool2d(each, 2 * reach + 1, stride=1, padding=reach)[0] for each in (known, values))
        reached = to_fill & (weight[0] > 0)
        filled = torch.where(reached, total / weight.clamp_min(1e-12), filled)
        to_fill &= ~reached
        reach *= 2
    return filled


def inpaint(
    model: SCVAE,
    picture: Tensor,
    missing: Tensor,
    *,
    iterations: int = 1,
    scale: float = 1.0,
    on_step: Callable[[Tensor], object] | None = None,
) -> Tensor:  # -> (3, H, W)
    """Fill in missing pixels: code, decode, put the known pixels back, and so on.

    It begins with `fill_smoothly`. Known pixels are kept exactly. Nothing says that it converges to a better picture:
    a model whose cells each code what they see rebuilds a hole as well as anything else.

    Args:
        model: in evaluation mode.
        picture: (3, H, W) in −1 … 1, of any size; what its missing pixels hold doesn't matter.
        missing: (H, W) bool.
        iterations: how often; with `pictures64` more than one made pictures worse, see docs/codes.md.
        scale: of the threshold, see `recode`.
        on_step: called with the picture after each iteration.

    Returns:
        On the picture's device.

    Raises:
        ValueError: missing is no mask of the picture's size, no pixel is known, iterations is negative, or scale is
            negative or not finite.
    """
    _check(picture, missing)
    if iterations < 0:
        raise ValueError(f"inpaint: iterations must be 0 or more, got {iterations}")
    filled = fill_smoothly(picture, missing)
    for _ in range(iterations):
        filled = torch.where(missing, recode(model, filled, scale=scale).to(picture), picture)
        if on_step is not None:
            on_step(filled)
    return filled


def _check(picture: Tensor, missing: Tensor) -> None:
    if picture.dim() != 3 or missing.dtype != torch.bool or missing.shape != picture.shape[1:]:
        raise ValueError(
            f"inpaint: missing must be a mask of the picture's size, {tuple(picture.shape[1:])}, "
            f"got {tuple(missing.shape)} of {missing.dtype}"
        )
    if bool(missing.all()):
        raise ValueError("inpaint: missing must leave a pixel that is known")
