"""How close reconstructions are to their originals: PSNR and SSIM, through torchmetrics."""

import torch
from torch import Tensor

from scvae_fast import _torchvision

_torchvision.make_importable()
try:
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
except ImportError as error:
    raise ImportError('scvae_fast.metrics needs torchmetrics: pip install "scvae_fast[train]"') from error

# The window of SSIM is 11 x 11; torchmetrics takes no smaller pictures.
_LEAST_SIDE_FOR_SSIM = 11


class PictureQuality:
    """PSNR of the squared error pooled over all pictures, and the mean of their SSIMs.

    Pooled: squared errors are added up over all pixels of all pictures before the logarithm, so a large picture counts
    for more than a small one. Values are clipped to −1 … 1 first, as a screen or a file would.

    Args:
        rate_structure: whether to compute SSIM as well; it takes some fifty times the memory of a picture.
    """

    def __init__(self, *, rate_structure: bool = True) -> None:
        self._rate_structure = rate_structure
        self._psnr = PeakSignalNoiseRatio(data_range=2.0)
        self._ssim = StructuralSimilarityIndexMeasure(data_range=2.0)
        self._rated = 0

    def update(self, x_hat: Tensor, x: Tensor) -> dict[str, float]:
        """Count a picture in.

        Args:
            x_hat: (3, H, W), the reconstruction.
            x: (3, H, W), the original, in −1 … 1.

        Returns:
            `psnr` (dB) and `ssim` of this picture alone, the latter NaN where it is not computed.

        Raises:
            ValueError: they are not (3, H, W), or differ in shape.
        """
        if x.dim() != 3 or x.shape != x_hat.shape:
            raise ValueError(
                f"PictureQuality: x and x_hat must both be (3, H, W), got {tuple(x.shape)}, {tuple(x_hat.shape)}"
            )
        x_hat = x_hat.clamp(-1, 1)
        psnr = float(self._psnr(x_hat.double(), x.double()))
        ssim = float("nan")
        if self._rate_structure and min(x.shape[1:]) >= _LEAST_SIDE_FOR_SSIM:
            ssim = float(self._ssim(x_hat[None], x[None]))
            self._rated += 1
        return {"psnr": psnr, "ssim": ssim}

    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB; infinite where nothing differs."""
        return float(self._psnr.compute())

    def ssim(self) -> float:
        """Mean structural similarity, −1 … 1, of the pictures of at least 11 x 11 pixels; NaN if there is none."""
        return float(torch.as_tensor(self._ssim.compute())) if self._rated else float("nan")
