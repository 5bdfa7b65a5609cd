"""Mo-VQGAN's decoder, in which the quantised latents modulate every normalisation.

Source: Zheng et al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation" (NeurIPS 2022).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scvae_fast.models.decoder import Decoder


class Condition:
    """Holds the latents that modulate the normalisations of a decoder; set only while it decodes."""

    def __init__(self) -> None:
        self.latents: Tensor | None = None  # (B, n, h, w)


class ModulatedNorm(nn.Module):
    """norm(f) · scale(z) + shift(z): two 1 x 1 convolutions of the quantised latents z, upsampled to the size of f.

    Initially it equals the plain normalisation: scale(z) = 1, shift(z) = 0.

    Args:
        norm: of the feature map f.
        n_features: n, of z.
        condition: holds z.
    """

    def __init__(self, norm: nn.GroupNorm, n_features: int, condition: Condition) -> None:
        super().__init__()
        self.norm = norm
        self.scale = nn.Conv2d(n_features, norm.num_channels, 1)
        self.shift = nn.Conv2d(n_features, norm.num_channels, 1)
        for conv in (self.scale, self.shift):
            nn.init.zeros_(conv.weight)
        nn.init.ones_(self.scale.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.shift.bias)  # type: ignore[arg-type]
        self._condition = condition

    def forward(self, f: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Normalise and modulate.

        Raises:
            RuntimeError: there are no latents to modulate by.
        """
        z = self._condition.latents
        if z is None:
            raise RuntimeError("ModulatedNorm: called outside its decoder, without latents to modulate by")
        # 1 x 1 convolutions before the upsampling give the same result at a fraction of the cost.
        scale, shift = (F.interpolate(conv(z), size=f.shape[2:], mode="nearest") for conv in (self.scale, self.shift))
        return self.norm(f) * scale + shift


class ModulatedDecoder(Decoder):
    """The decoder with each normalisation replaced by a `ModulatedNorm`; arguments as `Decoder`'s."""

    def __init__(self, n_features: int, out_channels: int, **levels: Any) -> None:
        super().__init__(n_features, out_channels, **levels)
        self.condition = Condition()

    def modulate(self) -> None:
        """Insert the modulated normalisations; the other weights are kept."""
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.GroupNorm) and not isinstance(parent, ModulatedNorm):
                    setattr(parent, name, ModulatedNorm(child, self.n_features, self.condition))

    def forward(self, latents: Tensor) -> Tensor:  # (B, n_features, h, w) -> (B, out_channels, H, W)
        """As `Decoder`, modulated by the same latents."""
        self.condition.latents = latents
        try:
            return super().forward(latents)
        finally:
            self.condition.latents = None
