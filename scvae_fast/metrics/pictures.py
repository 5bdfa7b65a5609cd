"""How close reconstructions are to their originals: PSNR and SSIM, through torchmetrics."""

import math

import torch
from torch import Tensor

from scvae_fast import _torchvision
from scvae_fast._extras import extra
from scvae_fast._shares import Processes
from scvae_fast.metrics._pieces import pieces
from scvae_fast.metrics._sums import added, computed, sync

_torchvision.make_importable()
with extra("scvae_fast.metrics", "torchmetrics"):
    from torchmetrics.functional.image import structural_similarity_index_measure
    from torchmetrics.image import PeakSignalNoiseRatio

# The window of SSIM is 11 x 11; torchmetrics rejects smaller pictures.
_LEAST_SIDE_FOR_SSIM = 11


class PictureQuality:
    """PSNR of the mean squared error over all pictures, and the means of the pictures' own PSNRs and SSIMs.

    For the first, squared errors are summed over all pixels of all pictures before the logarithm, so large pictures
    count more than small ones. Values are first clipped to −1 … 1, as on a screen or in a file, but not rounded. SSIM
    has a Gaussian window of 11 x 11 with σ = 1.5 and is averaged over all pixels; pictures are reflected at their
    edges, as in torchmetrics (others leave out five pixels along the edges).

    Args:
        rate_structure: whether to compute SSIM too; it needs about fifty times the memory of a picture.

    Example:
        >>> import torch
        >>> from scvae_fast.metrics import PictureQuality
        >>> quality = PictureQuality(rate_structure=False)
        >>> _ = quality.update(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.2))
        >>> round(quality.psnr(), 2)
        20.0
    """

    def __init__(self, *, rate_structure: bool = True) -> None:
        self._rate_structure = rate_structure
        # By default, torchmetrics sums errors in float32, and over all processes at every result.
        self._psnr = PeakSignalNoiseRatio(data_range=2.0, sync_on_compute=False).set_dtype(torch.float64)
        self._own = PeakSignalNoiseRatio(
            data_range=2.0, reduction="none", dim=(1, 2, 3), sync_on_compute=False
        ).set_dtype(torch.float64)
        self._sum_of_psnr = self._sum_of_ssim = 0.0
        self.n_pictures = self.n_structures = 0  # pictures, and those of them with an SSIM

    def update(self, x_hat: Tensor, x: Tensor) -> dict[str, float]:
        """Add a picture.

        Args:
            x_hat: (3, H, W), the reconstruction.
            x: (3, H, W), the original, in −1 … 1.

        Returns:
            `psnr` (dB) and `ssim` of this picture; the latter is NaN if it is not computed.

        Raises:
            ValueError: they are not (3, H, W), or differ in shape.
        """
        if x.dim() != 3 or x.shape != x_hat.shape:
            raise ValueError(
                f"PictureQuality: x and x_hat must both be (3, H, W), got {tuple(x.shape)}, {tuple(x_hat.shape)}"
            )
        return {name: float(values) for name, values in self.update_batch(x_hat[None], x[None]).items()}

    def update_batch(self, x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Add several pictures of one size.

        Args:
            x_hat: (B, 3, H, W), reconstructions.
            x: (B, 3, H, W), the originals, in −1 … 1.

        Returns:
            `psnr` (B,) and `ssim` (B,) of each; the latter is NaN if it is not computed.

        Raises:
            ValueError: they are not (B, 3, H, W), or differ in shape.
        """
        if x.dim() != 4 or x.shape != x_hat.shape:
            raise ValueError(
                f"PictureQuality: x and x_hat must both be (B, 3, H, W), got {tuple(x.shape)}, {tuple(x_hat.shape)}"
            )
        x_hat = x_hat.clamp(-1, 1)
        for metric in (self._psnr, self._own):
            metric.to(x.device).update(x_hat.double(), x.double())
        psnr = torch.as_tensor(self._own.compute()).reshape(-1)  # (B,), torchmetrics returns a scalar for one picture
        self._own.reset()
        self._sum_of_psnr += float(psnr.sum())
        self.n_pictures += len(x)
        ssim = torch.full_like(psnr, math.nan)
        if self._rate_structure and min(x.shape[2:]) >= _LEAST_SIDE_FOR_SSIM:
            ssim = torch.cat([_structure(*piece) for piece in pieces(x_hat, x)])
            self._sum_of_ssim += float(ssim.sum())
            self.n_structures += len(x)
        return {"psnr": psnr, "ssim": ssim}

    def sum_over(self, processes: Processes) -> None:
        """Combine with the results of the other processes; all call it once, at the end."""
        sync(self._psnr, processes)
        self._sum_of_psnr, self._sum_of_ssim = added(processes, self._sum_of_psnr, self._sum_of_ssim)
        counts = processes.sum(torch.tensor([self.n_pictures, self.n_structures]))
        self.n_pictures, self.n_structures = counts.tolist()

    def psnr(self) -> float:
        """PSNR of the mean squared error over all pictures, in dB; infinite if nothing differs."""
        return computed(self._psnr)

    def mean_psnr(self) -> float:
        """Mean of the pictures' own PSNRs in dB; NaN without pictures; infinite if one is reconstructed exactly."""
        return self._sum_of_psnr / self.n_pictures if self.n_pictures else math.nan

    def ssim(self) -> float:
        """Mean structural similarity, −1 … 1, of the pictures of at least 11 x 11 pixels; NaN if there are none."""
        return self._sum_of_ssim / self.n_structures if self.n_structures else math.nan


def _structure(x_hat: Tensor, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B,) float64
    ssim = structural_similarity_index_measure(x_hat, x, data_range=2.0, reduction="none")
    return torch.as_tensor(ssim).reshape(-1).double()
