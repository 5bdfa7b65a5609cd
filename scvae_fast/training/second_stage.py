"""The optional second stage: a perceptual term and a patch discriminator, in addition to the squared error.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021), sections 3.1 and A; the
discriminator is that of Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

# Of the adaptive weight, as in the released code: added to the denominator, and the upper limit.
_LEAST_NORM, _MOST_WEIGHT = 1e-4, 1e4


@dataclass(frozen=True, kw_only=True)
class SecondStageSettings:
    """Weights and sizes of the second stage; defaults are the released code's.

    Args:
        perceptual_weight: of LPIPS (VGG); with 0 it is left out, and its weights are not needed.
        perceptual_weights: folder with the weights of VGG-16; None searches torch.hub's folder of downloads.
        discriminator_weight: of the adversarial term, after scaling it so that its gradient at the decoder's last layer
            is as large as that of the squared error and the perceptual term together.
        start_step: optimiser steps before the discriminator is used.
        layers: down-samplings of the discriminator; its patches cover about 2^(layers + 3) pixels.
        width: its channels after the first layer.

    Raises:
        ValueError: a field is out of its range.
    """

    perceptual_weight: float = 1.0
    perceptual_weights: str | None = None
    discriminator_weight: float = 0.75
    start_step: int = 0
    layers: int = 2
    width: int = 64

    def __post_init__(self) -> None:
        for name, least in (
            ("perceptual_weight", 0),
            ("discriminator_weight", 0),
            ("start_step", 0),
            ("layers", 1),
            ("width", 1),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"SecondStageSettings: {name} must be {least} or more, got {getattr(self, name)!r}")


class PatchDiscriminator(nn.Sequential):
    """Logits (B, 1, h, w), one for each of many overlapping patches: high for patches of real pictures.

    Args:
        in_channels: of the pictures.
        layers: down-samplings by two; the patches cover about 2^(layers + 3) pixels.
        width: channels after the first layer; doubled by each further layer, up to eight times.
    """

    def __init__(self, in_channels: int = 3, layers: int = 2, width: int = 64) -> None:
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            stack += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(widths[level]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*stack, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_initialise)


class SecondStageLoss(NamedTuple):
    """The terms to add to the loss, and figures to log, all scalars."""

    total: Tensor
    figures: dict[str, Tensor]


class SecondStage(nn.Module):
    """Adds w_p LPIPS(x, x̂) − w_d a mean(C(x̂)) to the model's loss, and trains the discriminator C with a hinge loss.

    One sum yields both gradients: C's weights are constant in the adversarial term, and x̂ is constant in C's own loss.
    This equals the step of the released code, which updates the model and then C, from the same x̂.

    a = ‖∇(squared error + w_p LPIPS)‖ / ‖∇ mean(C(x̂))‖, gradients at the last layer of the decoder.

    Args:
        settings: see `SecondStageSettings`.
        in_channels: of the pictures.
        perceptual: LPIPS, maps (x, x̂), pictures in −1 … 1, to (B, 1, 1, 1); None if its weight is 0.
    """

    def __init__(
        self, settings: SecondStageSettings, in_channels: int, perceptual: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = PatchDiscriminator(in_channels, settings.layers, settings.width)
        # In a tuple it is not a submodule: checkpoints and optimisers should not contain weights that never change.
        self._perceptual = (perceptual,)

    def prepare(self, device: torch.device) -> None:
        """Move the perceptual network, which is not a submodule, to a device."""
        if isinstance(self._perceptual[0], nn.Module):
            self._perceptual = (self._perceptual[0].eval().requires_grad_(False).to(device),)

    def forward(self, x: Tensor, x_hat: Tensor, image_loss: Tensor, last_layer: Tensor, step: int) -> SecondStageLoss:
        """The terms for a batch.

        Args:
            x: (B, C, H, W), the pictures.
            x_hat: (B, C, H, W), their reconstructions.
            image_loss: (), the squared error in the loss.
            last_layer: weight of the decoder's last layer.
            step: optimiser steps taken so far.
        """
        figures: dict[str, Tensor] = {}
        total = x_hat.new_zeros(())
        if self._perceptual[0] is not None:
            lpips = self._perceptual[0](x, x_hat).mean()
            figures["loss/perceptual"] = lpips.detach()
            total = self.settings.perceptual_weight * lpips
        if not self.started(step):
            # Every parameter must take part, or processes would wait for its gradient.
            idle = torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()
            return SecondStageLoss(total + 0.0 * idle, figures)
        adversarial = -self._logits_of_constant_discriminator(x_hat).mean()
        weight = _adaptive_weight(image_loss + total, adversarial, last_layer)
        real, fake = self.discriminator(x), self.discriminator(x_hat.detach())
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        figures |= {
            "loss/adversarial": adversarial.detach(),
            "loss/discriminator": hinge.detach(),
            "adversarial_weight": weight,
            "logits/real": real.detach().mean(),
            "logits/fake": fake.detach().mean(),
        }
        share = self.settings.discriminator_weight
        return SecondStageLoss(total + share * weight * adversarial + share * hinge, figures)

    def started(self, step: int) -> bool:
        """Whether the discriminator is used."""
        return step >= self.settings.start_step

    def _logits_of_constant_discriminator(self, x_hat: Tensor) -> Tensor:
        constants = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        logits: Tensor = functional_call(self.discriminator, constants, (x_hat,))
        return logits


def _adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:  # -> ()
    norms = [
        torch.autograd.grad(term, last_layer, retain_graph=True)[0].float().norm()
        for term in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + _LEAST_NORM)).clamp(0, _MOST_WEIGHT).detach()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
