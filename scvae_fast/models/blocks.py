"""The building blocks that VQGAN's encoder and decoder share.

Source: Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021).
Parameter names follow that paper's public model, so that checkpoints of SC-VAE's authors fit name for name.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvae_fast.ops.dispatch import in_forward_mode, in_transform, needs_gradient
from scvae_fast.ops.normalisation import group_norm_formula, group_norm_silu, safely_packed


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalisation over the greatest common divisor of `groups` and `channels` groups.

    With VQGAN's 32, any width that is a multiple of 32 gets 32 groups; other widths get fewer.
    """
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=1e-6)


def normalise(norm: nn.Module, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """norm(x); where forward mode is needed, by a formula that supports it."""
    if not isinstance(norm, nn.GroupNorm):
        return norm(x)
    if torch.compiler.is_compiling() or not in_forward_mode():
        return norm(safely_packed(x, norm.weight, norm.bias))
    return group_norm_formula(x, norm.weight, norm.bias, norm.num_groups, norm.eps).to(x.dtype)


def norm_swish(norm: nn.Module, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
    """swish(norm(x)), where swish is SiLU; one operation if norm is a group normalisation."""
    if not isinstance(norm, nn.GroupNorm):
        return F.silu(norm(x))
    return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


class ResnetBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1 x 1 convolution on x where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:  # (B, in_channels, H, W) -> (B, out_channels, H, W)
        h = self.conv1(norm_swish(self.norm1, x))
        h = self.conv2(self.dropout(norm_swish(self.norm2, h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map, added to its input."""

    def __init__(self, channels: int, *, norm_groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, norm_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h = normalise(self.norm, x)
        q, k, v = (_tokens(project(h)) for project in (self.q, self.k, self.v))  # (B, 1, H·W, C)
        return x + self.proj_out(attend(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, heads, N, C) each -> (B, heads, N, C)
    """softmax(q kᵀ / √C) v, by PyTorch's kernels if they support the required derivatives.

    The kernels have a backward pass, but no second derivatives and no forward mode. Both use the plain formula.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.scaled_dot_product_attention(q, k, v)
    if in_transform() or in_forward_mode():
        return _attend_plainly(q, k, v)
    if needs_gradient((q, k, v)):
        return _Attend.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


class _Attend(torch.autograd.Function):
    """Keeps only q, k and v, and recomputes the rest in the backward pass."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or in_forward_mode():
            return tuple(torch.func.vjp(_attend_plainly, *tensors)[1](grad))
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in tensors]
            attended = F.scaled_dot_product_attention(*leaves)
        return torch.autograd.grad(attended, leaves, grad)


def _tokens(x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, one head, H·W, C)
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


class Downsample(nn.Module):
    """Halves height and width: a 3 x 3 convolution of stride 2, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 2h, 2w) -> (B, C, h, w)
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3 x 3 convolution.

    It is computed as one transposed convolution, without an enlarged copy of x. Each output depends on 2 x 2 inputs
    instead of 3 x 3 copies of them, which takes 4/9 of the multiply-adds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, 2h, 2w)
        return F.conv_transpose2d(x, _enlarging(self.conv.weight), self.conv.bias, stride=2, padding=1)


def _enlarging(weight: Tensor) -> Tensor:  # (C', C, 3, 3) -> (C, C', 4, 4)
    """Weight of the stride-2 transposed convolution of x that equals this convolution of x enlarged twofold.

    The enlarged x has pixel i at 2i and 2i + 1, so along each axis a tap is the sum of two neighbouring taps.
    """
    padded = F.pad(weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
    rows = padded[:, :, :-1] + padded[:, :, 1:]
    return rows[..., :-1] + rows[..., 1:]


class Level(nn.Module):
    """The blocks of one resolution: residual blocks, each followed by attention where `attention` is set."""

    def __init__(self, widths: list[tuple[int, int]], *, attention: bool, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(before, after, dropout=dropout, norm_groups=norm_groups) for before, after in widths
        )
        self.attn = nn.ModuleList(AttnBlock(after, norm_groups=norm_groups) for _, after in widths if attention)

    def forward(self, x: Tensor) -> Tensor:  # (B, widths[0][0], H, W) -> (B, widths[-1][1], H, W)
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class Middle(nn.Module):
    """The blocks at the bottleneck: residual, attention (where `attention` is set), residual."""

    def __init__(self, channels: int, *, attention: bool, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout=dropout, norm_groups=norm_groups)
        self.attn_1 = AttnBlock(channels, norm_groups=norm_groups) if attention else None
        self.block_2 = ResnetBlock(channels, channels, dropout=dropout, norm_groups=norm_groups)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        x = self.block_1(x)
        if self.attn_1 is not None:
            x = self.attn_1(x)
        return self.block_2(x)
