"""Peak signal-to-noise ratio of pictures in −1 … 1, whose data range is 2."""

import torch
from torch import Tensor


def psnr_of(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of any shape; infinite where the error is 0."""
    return 10 * torch.log10(4 / mse)


def psnr(x_hat: Tensor, x: Tensor) -> float:  # (3, H, W) each
    """PSNR in dB of a picture, computed in float64; x_hat is clipped to −1 … 1."""
    made, wanted = x_hat.detach().cpu().double().clamp(-1, 1), x.detach().cpu().double()
    return float(psnr_of((made - wanted).square().mean()))
