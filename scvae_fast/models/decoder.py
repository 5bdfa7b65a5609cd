"""VQGAN's decoder: a grid of latent vectors to pictures."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from scvae_fast.models.blocks import Level, Middle, Upsample, group_norm, norm_swish


class DecoderLevel(Level):
    """One resolution of the decoder; it ends with an up-sampling unless it is the highest."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        *,
        upsample: bool,
        attention: bool,
        dropout: float,
        norm_groups: int,
    ) -> None:
        super().__init__(widths, attention=attention, dropout=dropout, norm_groups=norm_groups)
        self.upsample = Upsample(widths[-1][1]) if upsample else None

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C', 2h, 2w); at the highest (B, C', h, w)
        x = super().forward(x)
        return x if self.upsample is None else self.upsample(x)


class Decoder(nn.Module):
    """G: latents (B, n_features, h, w) to pictures (B, out_channels, stride·h, stride·w).

    The mirror image of `Encoder` (see there for the arguments), with one more residual block per level.
    As in VQGAN, `up[0]` is the level of full resolution, so the levels run from last to first.

    Example:
        >>> import torch
        >>> from scvae_fast.models import Decoder
        >>> decoder = Decoder(16, 3, ch=32, ch_mult=(1, 2), num_res_blocks=1)
        >>> decoder(torch.zeros(1, 16, 4, 4)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        n_features: int,
        out_channels: int,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_levels: Collection[int] = (),
        mid_attention: bool = True,
        dropout: float = 0.0,
        norm_groups: int = 32,
        norm_out: bool = True,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        channels = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(n_features, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], attention=mid_attention, dropout=dropout, norm_groups=norm_groups)
        self.up = nn.ModuleList(
            DecoderLevel(
                [(before, after)] + [(after, after)] * num_res_blocks,
                upsample=level > 0,
                attention=level in attn_levels,
                dropout=dropout,
                norm_groups=norm_groups,
            )
            for level, (before, after) in enumerate(zip([*channels[1:], channels[-1]], channels, strict=True))
        )
        self.norm_out = group_norm(channels[0], norm_groups) if norm_out else None
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:  # (B, n_features, h, w) -> (B, out_channels, H, W)
        """Decode latents.

        Raises:
            ValueError: latents are not (B, n_features, h, w).
        """
        if latents.dim() != 4 or latents.shape[1] != self.n_features:
            raise ValueError(f"Decoder: latents must be (B, {self.n_features}, h, w), got {tuple(latents.shape)}")
        h = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(h if self.norm_out is None else norm_swish(self.norm_out, h))
