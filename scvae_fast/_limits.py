"""Limits on sizes that files declare: pictures, code files and models can declare any size."""

import os

from scvae_fast.errors import UsageError

# Pillow raises an error above this number.
_MEGAPIXELS = 178.0
_ITERATIONS = 10_000

PIXELS_VARIABLE, ITERATIONS_VARIABLE = "SCVAE_FAST_MAX_MEGAPIXELS", "SCVAE_FAST_MAX_ITERATIONS"

# A picture file with more bytes than this per allowed pixel is refused.
_BYTES_A_PIXEL = 16


def most_pixels() -> int:
    """Limit on the pixels of a picture: 178 megapixels, or SCVAE_FAST_MAX_MEGAPIXELS.

    Raises:
        UsageError: the variable is not a positive number.
    """
    return int(_positive(PIXELS_VARIABLE, _MEGAPIXELS) * 10**6)


def most_bytes() -> int:
    """Limit on the bytes of a picture file inside an archive.

    Raises:
        UsageError: see `most_pixels`.
    """
    return _BYTES_A_PIXEL * most_pixels()


def most_iterations() -> int:
    """Limit on the iterations of a loaded model: 10,000, or SCVAE_FAST_MAX_ITERATIONS.

    Raises:
        UsageError: the variable is not a positive number.
    """
    return int(_positive(ITERATIONS_VARIABLE, _ITERATIONS))


def too_large(height: int, width: int, most: float | None = None) -> str | None:
    """A message that the picture has too many pixels, or None if it doesn't.

    Args:
        height: in pixels.
        width: in pixels.
        most: limit in pixels; without one, the limit is `most_pixels`, and the message says how to raise it.
    """
    limit = most_pixels() if most is None else most
    if height * width <= limit:
        return None
    remedy = f" ({PIXELS_VARIABLE} raises that)" if most is None else ""
    return f"{width} x {height} = {height * width:,} pixels are too many, at most {limit:,.0f} are allowed{remedy}"


def _positive(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{variable} must be a positive number, got {text!r}")
    return value
