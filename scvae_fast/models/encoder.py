"""VQGAN's encoder: pictures to a grid of latent vectors."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from scvae_fast.models.blocks import Downsample, Level, Middle, group_norm, norm_swish


class EncoderLevel(Level):
    """One resolution of the encoder; it ends with a down-sampling unless it is the lowest."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        *,
        downsample: bool,
        attention: bool,
        dropout: float,
        norm_groups: int,
    ) -> None:
        super().__init__(widths, attention=attention, dropout=dropout, norm_groups=norm_groups)
        self.downsample = Downsample(widths[-1][1]) if downsample else None

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H/2, W/2); at the lowest (B, C', H, W)
        x = super().forward(x)
        return x if self.downsample is None else self.downsample(x)


class Encoder(nn.Module):
    """E: pictures (B, in_channels, H, W) to latents (B, n_features, H/stride, W/stride).

    Each entry of `ch_mult` stands for a level of `ch * ch_mult[level]` channels and `num_res_blocks`
    residual blocks. There is a down-sampling between levels, so `stride = 2 ** (len(ch_mult) - 1)`.

    Args:
        in_channels: channels of a picture.
        n_features: n, the length of a latent vector.
        ch: base width.
        ch_mult: width of each level, in units of `ch`.
        num_res_blocks: residual blocks per level.
        attn_levels: the levels (0 is full resolution) with attention after each residual block.
        mid_attention: whether the bottleneck has attention; VQGAN's does.
        dropout: rate in residual blocks during training.
        norm_groups: groups of the group normalisation; see `blocks.group_norm`.
        norm_out: whether normalisation and swish precede the last convolution, as in VQGAN. Without them the
            brightness and contrast of a picture reach the latents, along the residual blocks' shortcuts.

    Example:
        >>> import torch
        >>> from scvae_fast.models import Encoder
        >>> encoder = Encoder(3, 16, ch=32, ch_mult=(1, 2), num_res_blocks=1)
        >>> encoder(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        n_features: int,
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
        self.in_channels = in_channels
        self.stride = 2 ** (len(ch_mult) - 1)
        channels = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList(
            EncoderLevel(
                [(before, after)] + [(after, after)] * (num_res_blocks - 1),
                downsample=level < len(channels) - 1,
                attention=level in attn_levels,
                dropout=dropout,
                norm_groups=norm_groups,
            )
            for level, (before, after) in enumerate(zip([ch, *channels], channels, strict=False))
        )
        self.mid = Middle(channels[-1], attention=mid_attention, dropout=dropout, norm_groups=norm_groups)
        self.norm_out = group_norm(channels[-1], norm_groups) if norm_out else None
        self.conv_out = nn.Conv2d(channels[-1], n_features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, in_channels, H, W) -> (B, n_features, H/stride, W/stride)
        """Encode pictures.

        Raises:
            ValueError: x is not floating point, not (B, in_channels, H, W), or stride doesn't divide H or W.
        """
        self._check(x)
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(h if self.norm_out is None else norm_swish(self.norm_out, h))

    def _check(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(f"Encoder: x must be floating point (pictures in -1 … 1), got {x.dtype}")
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"Encoder: x must be (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[2:]
        if height < 1 or width < 1 or height % self.stride or width % self.stride:
            raise ValueError(
                f"Encoder: height and width of x must be positive multiples of {self.stride}, got {height} x {width}"
            )
