"""A data-dependent start for `SCVAE`: the networks start as a linear transform coder fitted to pictures.

Residual branches start at zero, which leaves only the strided path. There, every down-sampling computes the principal
components of 2 x 2 neighbourhoods; each component of the last level is mapped to one atom of the dictionary, so that
codes are sparse from the first step; and every up-sampling is the ridge regression that best inverts its down-sampling.
After that, all weights are trained as usual. Compare Krähenbühl et al., "Data-dependent Initializations of
Convolutional Neural Networks" (ICLR 2016).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvae_fast.models import SCVAE
from scvae_fast.models.blocks import AttnBlock, Level, ResnetBlock
from scvae_fast.models.decoder import Decoder, DecoderLevel
from scvae_fast.models.encoder import Encoder, EncoderLevel

# Added to all eigenvalues in a regression, as a share of their mean; up-sampled neighbours are nearly equal.
_RIDGE = 1e-4
_MOST_ROWS = 50_000


@torch.no_grad()
def start_as_linear_coder(model: SCVAE, x: Tensor) -> None:
    """Initialise `model`, in place, from pictures.

    Channels that the components don't need keep their weights.

    Args:
        model: one with `norm_out=False`; a normalisation between the components and the code would not be linear.
        x: (B, C, H, W), pictures in −1 … 1 to fit to, typically a hundred crops.

    Raises:
        ValueError: the model normalises its outputs, or a level has fewer channels than the pictures.
    """

    def code(latents: Tensor) -> Tensor:  # (B, n, h, w) -> (B, n, h, w)
        _, rows_hat = model.bottleneck(latents.permute(0, 2, 3, 1))
        return rows_hat.permute(0, 3, 1, 2)

    start_linearly(model.encoder, model.decoder, x, dictionary=model.bottleneck.dictionary, bottleneck=code)


@torch.no_grad()
def start_linearly(
    encoder: Encoder, decoder: Decoder, x: Tensor, *, dictionary: Tensor, bottleneck: Callable[[Tensor], Tensor]
) -> None:
    """Initialise an encoder and a decoder, in place, with any bottleneck between them.

    Args:
        encoder: one with `norm_out=False`, like the decoder.
        decoder: the matching decoder.
        x: (B, C, H, W) pictures in −1 … 1 to fit to.
        dictionary: (n, K); every component is mapped to one of its columns in the latents.
        bottleneck: maps latents (B, n, h, w) to the decoder's input, to which the decoder is fitted.

    Raises:
        ValueError: the networks normalise their outputs, or a level has fewer channels than the pictures.
    """
    if encoder.norm_out is not None or decoder.norm_out is not None:
        raise ValueError("start_linearly: the networks must have norm_out=False")
    blocks = [module for module in encoder.down.modules() if isinstance(module, ResnetBlock)]
    if min(encoder.conv_in.out_channels, *(block.conv2.out_channels for block in blocks)) < encoder.in_channels:
        raise ValueError(f"start_linearly: the networks must have at least {encoder.in_channels} channels everywhere")
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, AttnBlock):
            nn.init.zeros_(module.proj_out.weight)
    stages, components = _fit_encoder(encoder, x, dictionary)
    _fit_decoder(decoder, bottleneck(encoder(x)), stages, components)


def _fit_encoder(encoder: Encoder, x: Tensor, dictionary: Tensor) -> tuple[list[Tensor], Tensor]:
    """Fit the encoder; return the components before each down-sampling, and those (B, F, h, w) in the latents."""
    count = x.shape[1]
    _pass_through(encoder.conv_in, count)
    h = encoder.conv_in(x)
    stages = []
    for level in cast("Iterable[EncoderLevel]", encoder.down):
        _pass_through(_first_shortcut(level), count)
        for block in level.block:
            h = block(h)
        if level.downsample is not None:
            conv = level.downsample.conv
            stages.append(h[:, :count])
            components = _principal_components(stages[-1], most=conv.out_channels)  # (F', F, 2, 2)
            _write(conv, F.pad(components, (0, 1, 0, 1)))
            count = len(components)
            h = level.downsample(h)
    h = encoder.mid(h)[:, : min(count, *dictionary.shape)]
    atoms = _incoherent_atoms(dictionary, h.shape[1])  # (n, F)
    nn.init.zeros_(encoder.conv_out.weight)
    _write(encoder.conv_out, F.pad(atoms[:, :, None, None], (1, 1, 1, 1)))
    return stages, h


def _fit_decoder(decoder: Decoder, latents: Tensor, stages: list[Tensor], components: Tensor) -> None:
    count = components.shape[1]
    _regress(decoder.conv_in, latents, components)
    h = decoder.mid(decoder.conv_in(latents))
    for level in reversed(cast("Sequence[DecoderLevel]", decoder.up)):
        _pass_through(_first_shortcut(level), count)
        for block in level.block:
            h = block(h)
        if level.upsample is not None:
            target = stages.pop()
            _regress(level.upsample.conv, F.interpolate(h, scale_factor=2, mode="nearest")[:, :count], target)
            h, count = level.upsample(h), target.shape[1]
    nn.init.zeros_(decoder.conv_out.weight)
    _pass_through(decoder.conv_out, count)


def _first_shortcut(level: Level) -> nn.Conv2d | None:
    """The shortcut with which the level changes its width; only the first block has one."""
    return cast(ResnetBlock, level.block[0]).nin_shortcut


def _pass_through(conv: nn.Conv2d | None, count: int) -> None:
    """Copy the first `count` input channels to the output channels; without a convolution they are equal already."""
    if conv is not None:
        around = conv.kernel_size[0] // 2
        _write(conv, F.pad(torch.eye(count)[:, :, None, None], (around,) * 4))


def _write(conv: nn.Conv2d, weight: Tensor) -> None:  # weight: (F', F, k, k)
    """Make the first F' output channels depend only on the first F input channels."""
    conv.weight[: len(weight)] = 0
    conv.weight[: len(weight), : weight.shape[1]] = weight.to(conv.weight)


def _principal_components(h: Tensor, *, most: int) -> Tensor:  # (B, F, H, W) -> (F', F, 2, 2)
    """Principal components of 2 x 2 neighbourhoods, in descending order of variance; orthonormal."""
    rows = _rows(F.unfold(h, 2, stride=2))  # (rows, 4F)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    chosen = vectors.flip(1)[:, :most]
    return chosen.T.reshape(-1, h.shape[1], 2, 2)


def _incoherent_atoms(D: Tensor, count: int) -> Tensor:  # (n, K) -> (n, count)
    """Atoms chosen one by one, each for its largest residual after the previous ones, as in pivoted QR."""
    left = D.double().clone()
    chosen = []
    for _ in range(count):
        chosen.append(int(left.square().sum(0).argmax()))
        direction = F.normalize(left[:, chosen[-1]], dim=0)
        left -= direction[:, None] * (direction @ left)
    return D[:, chosen]


def _regress(conv: nn.Conv2d, h: Tensor, target: Tensor) -> None:
    """Make a 3 x 3 convolution predict target (B, F', H, W) from h (B, F, H, W), its first F input channels."""
    # Some positions are enough; an odd step through grids of even width samples odd and even columns alike.
    step = h[:, 0].numel() // _MOST_ROWS | 1
    rows = _rows(F.unfold(h, 3, padding=1)[..., ::step])  # (rows, 9F)
    goals = _rows(target.flatten(2)[..., ::step])  # (rows, F')
    gram = rows.T @ rows
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, rows.T @ goals).T  # (F', 9F)
    _write(conv, weight.reshape(-1, h.shape[1], 3, 3))


def _rows(columns: Tensor) -> Tensor:  # (B, F, L) -> (B·L, F) float64
    return columns.transpose(1, 2).flatten(0, 1).double()
