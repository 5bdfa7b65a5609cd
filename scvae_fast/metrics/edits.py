"""PSNR of edited pictures."""

from torch import Tensor

from scvae_fast import _torchvision

_torchvision.make_importable()
try:
    from torchmetrics.functional.image import peak_signal_noise_ratio
except ImportError as error:
    raise ImportError('scvae_fast.tasks.editing needs torchmetrics: pip install "scvae_fast[train]"') from error


def psnr(x_hat: Tensor, x: Tensor, where: Tensor | None = None) -> float:  # (3, H, W) each; where: (H, W) bool
    """Peak signal-to-noise ratio in dB, of the pixels of a mask or of all; x_hat is clipped to −1 … 1."""
    made, wanted = x_hat.detach().cpu().double().clamp(-1, 1), x.detach().cpu().double()
    if where is not None:
        made, wanted = made[:, where.cpu()], wanted[:, where.cpu()]
    return float(peak_signal_noise_ratio(made, wanted, data_range=2.0))
