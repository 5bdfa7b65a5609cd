"""LPIPS: distances between two pictures in the features of a network trained on ImageNet."""

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scvae_fast import _torchvision
from scvae_fast._shares import Processes
from scvae_fast.metrics import weights
from scvae_fast.metrics._pieces import pieces
from scvae_fast.metrics._sums import added

Net = Literal["alex", "vgg"]

BACKBONES = {"alex": weights.ALEXNET, "vgg": weights.VGG16}
# Smaller pictures vanish in the networks' strides and poolings.
LEAST_SIDE = {"alex": 31, "vgg": 16}


class PerceptualDistance:
    """Mean LPIPS of pictures of one or several sizes, with the linear heads of version 0.1 that lpips ships.

    Source: R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
    Pictures too small for the network, see `LEAST_SIDE`, are left out.

    Args:
        net: "alex" or "vgg".
        backbone: file with torchvision's weights of AlexNet or VGG-16.
        device: where the network runs.

    Raises:
        UnavailableError: lpips or torchvision is not installed, or the file does not hold such weights.
    """

    def __init__(self, net: Net, backbone: Path, device: str | torch.device = "cpu") -> None:
        self.least_side = LEAST_SIDE[net]
        self.rated = 0  # pictures so far
        self._sum = 0.0
        self._network = _network(net, backbone).to(device)

    @torch.no_grad()
    def update(self, x_hat: Tensor, x: Tensor) -> Tensor | None:
        """Add pictures.

        Args:
            x_hat: (B, 3, H, W), reconstructions; clipped to −1 … 1.
            x: (B, 3, H, W), originals in −1 … 1.

        Returns:
            (B,) float64, the distances; None if H or W is too small.
        """
        if min(x.shape[2:]) < self.least_side:
            return None
        distances = [self._network(a.clamp(-1, 1), b).reshape(-1).double() for a, b in pieces(x_hat, x)]
        total = torch.cat(distances)
        self._sum += float(total.sum())
        self.rated += len(total)
        return total

    def sum_over(self, processes: Processes) -> None:
        """Combine with the results of the other processes; all call it once, at the end."""
        (self._sum,) = added(processes, self._sum)
        self.rated = int(processes.sum(torch.tensor(self.rated)))

    @property
    def mean(self) -> float:
        """Mean over the pictures so far; NaN if there are none."""
        return self._sum / self.rated if self.rated else math.nan


def load_lpips(net: Net, folder: Path | None = None) -> torch.nn.Module:
    """The LPIPS network, a module that takes two batches (B, 3, H, W) in −1 … 1 and returns (B, 1, 1, 1).

    Args:
        net: "alex" or "vgg".
        folder: with the weights of the backbone; None searches torch.hub's folder of downloads.

    Raises:
        UnavailableError: lpips is not installed, or the weights are missing; the message lists the folders that were
            searched.
    """
    network: torch.nn.Module = _network(net, weights.locate(BACKBONES[net], folder).path)
    return network


def heads(net: Net) -> weights.WeightsFile:
    """The linear heads in the installed lpips.

    Raises:
        UnavailableError: lpips is not installed.
    """
    package = Path(_lpips().__file__).parent
    return weights.inspect(package / "weights" / "v0.1" / f"{net}.pth", "")  # any digest: the file is part of lpips


def _network(net: Net, backbone: Path) -> Any:
    """The same as `lpips.LPIPS(net=net)`, with weights from a file instead of a download."""
    lpips = _lpips()
    with warnings.catch_warnings():
        # lpips requests torchvision's models in a way that is deprecated there.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).requires_grad_(False)
    # lpips numbers the layers like torchvision's `features`: "slice2.3.bias" is "features.3.bias".
    wanted = {name: f"features.{name.split('.', 1)[1]}" for name in network.net.state_dict()}
    state = weights.load(backbone)
    if missing := sorted(set(wanted.values()) - state.keys()):
        raise weights.UnavailableError(
            f"{backbone} lacks {missing[0]} and {len(missing) - 1} more: it holds no weights for LPIPS ({net})"
        )
    try:
        network.net.load_state_dict({name: state[key] for name, key in wanted.items()})
    except RuntimeError as error:
        raise weights.UnavailableError(
            f"{backbone} holds no weights for LPIPS ({net}): {weights.brief(error)}"
        ) from error
    return network.eval()


def _lpips() -> Any:
    _torchvision.make_importable()
    try:
        import lpips
    except ImportError as error:
        raise weights.UnavailableError('needs lpips and torchvision: pip install "scvae_fast[lpips]"') from error
    return lpips
