"""How much a file may ask for before it is believed: pictures, files of codes and models can declare any size."""

import os

from scvae_fast.errors import UsageError

# As many as Pillow opens without an error.
_MEGAPIXELS = 178.0
_ITERATIONS = 10_000

PIXELS_VARIABLE, ITERATIONS_VARIABLE = "SCVAE_FAST_MAX_MEGAPIXELS", "SCVAE_FAST_MAX_ITERATIONS"

# A picture file of more bytes than this for each pixel that is allowed holds no picture.
_BYTES_A_PIXEL = 16


def most_pixels() -> int:
    """Of a picture: 178 megapixels, or SCVAE_FAST_MAX_MEGAPIXELS.

    Raises:
        UsageError: the variable is no positive number.
    """
    return int(_positive(PIXELS_VARIABLE, _MEGAPIXELS) * 10**6)


def most_bytes() -> int:
    """Of a picture file inside of an archive.

    Raises:
        UsageError: see `most_pixels`.
    """
    return _BYTES_A_PIXEL * most_pixels()


def most_iterations() -> int:
    """Of a model that is loaded: 10,000, or SCVAE_FAST_MAX_ITERATIONS.

    Raises:
        UsageError: the variable is no positive number.
    """
    return int(_positive(ITERATIONS_VARIABLE, _ITERATIONS))


def too_large(height: int, width: int, most: float | None = None) -> str | None:
    """What is wrong with a picture of so many pixels, in words; None if nothing is.

    Args:
        height: in pixels.
        width: in pixels.
        most: pixels; by default `most_pixels`, and the words say how to raise it.
    """
    limit = most_pixels() if most is None else most
    if height * width <= limit:
        return None
    remedy = f" ({PIXELS_VARIABLE} raises that)" if most is None else ""
    return f"{width} x {height} = {height * width:,} pixels are too many, at most {limit:,.0f} are taken{remedy}"


def _positive(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{variable} must be a positive number, got {text!r}")
    return value
