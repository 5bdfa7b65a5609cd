"""Reading and writing picture files: PNG, JPEG and whatever else Pillow reads."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scvae_fast._files import write_atomically

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError('scvae_fast.data needs Pillow: pip install "scvae_fast[train]"') from error


class PictureError(ValueError):
    """A file can't be read as a picture; the message names the file and says why."""


def load_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as it is meant to be seen.

    The orientation that a camera noted is applied. Grey becomes three equal channels, transparent pixels are laid
    over white, 16-bit greys keep their precision, and other colour spaces (CMYK, palettes …) become RGB.

    Args:
        path: a picture file.

    Returns:
        (3, H, W), float32 in −1 … 1.

    Raises:
        PictureError: there is no such file, or it is no picture, damaged, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        with Image.open(path) as image:
            return _to_tensor(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: not a picture of a known format") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path}: too large to be opened safely: {error}") from error
    # Pillow's decoders report damage as any of these, SyntaxError among them (a broken PNG).
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise PictureError(f"{path}: can't be read: {error}") from error


def save_picture(path: str | os.PathLike[str], picture: Tensor) -> None:
    """Write a picture, in the format that the suffix of `path` names, whole or not at all.

    Args:
        path: the file; missing folders are made.
        picture: (3, H, W) in −1 … 1; values beyond are clipped.

    Raises:
        ValueError: picture is not (3, H, W), or the suffix is not a format that can be written.
        OSError: the file can't be written.
    """
    if picture.dim() != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise ValueError(f"save_picture: picture must be (3, H, W), got {tuple(picture.shape)}")
    image = Image.fromarray(to_bytes(picture))
    write_atomically(path, image.save)


def to_bytes(picture: Tensor) -> np.ndarray:
    """The 8-bit form (H, W, 3) of a picture (3, H, W) in −1 … 1."""
    levels = ((picture.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _to_tensor(image: Image.Image) -> Tensor:  # -> (3, H, W)
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_tensor(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    values = torch.from_numpy(np.array(image.convert("RGB")))  # (H, W, 3)
    return values.permute(2, 0, 1).contiguous().float() / 127.5 - 1


def _grey_to_tensor(values: np.ndarray) -> Tensor:
    """16-bit greys, which Pillow also opens as 32-bit integers; and floating-point ones, taken as 0 … 1."""
    white = 1.0 if values.dtype.kind == "f" else 65535.0
    grey = torch.from_numpy(values.astype(np.float32) / white).clamp(0, 1)
    return (grey * 2 - 1).expand(3, *grey.shape).contiguous()
