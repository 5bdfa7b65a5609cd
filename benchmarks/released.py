"""The released code's way of computing, in a model of ours: a rival that differs from SC-VAE only in this respect.

Its LISTA is eager PyTorch and forms S in every call. The grid's adjacency matrix is built on the host (by scipy there,
by numpy here), copied to the device in every call, and multiplied by codes of K entries. Normalisation and activation
are separate operations. Each loss is copied to the host. Everything is float32 and NCHW.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import formulas
from benchmarks.rivals import Iterate
from scvae_fast import DictionaryLISTA
from scvae_fast.models import SCVAE, blocks
from scvae_fast.nn.attention import AlphaNetwork, GraphConvolutionAlpha


class EagerBottleneck(nn.Module):
    """`DictionaryLISTA` in eager PyTorch, over the same parameters."""

    def __init__(self, ours: DictionaryLISTA, iterate: Iterate) -> None:
        """`iterate` is a function of `formulas`."""
        super().__init__()
        self.ours, self.iterate = ours, iterate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, h, w, n) -> (B, h, w, K), (B, h, w, n)
        """Codes and reconstructions."""
        D, c = self.ours.dictionary, self.ours.c
        rows = x.flatten(0, -2)
        S = torch.eye(D.shape[1], dtype=D.dtype, device=D.device) - D.T @ D / c
        gain = c if self.ours.compat == "official" else None
        z = self.iterate(rows @ D / c, S, self.ours.lmbda / c, self.ours.n_iter, gain)
        return z.view(*x.shape[:-1], -1), (z @ D.T).view(x.shape)


class DenseGraphConvolution(AlphaNetwork):
    """`GraphConvolutionAlpha` with an adjacency matrix that is rebuilt in every call."""

    def __init__(self, ours: GraphConvolutionAlpha) -> None:
        """Use the same parameters."""
        super().__init__()
        self.linear = ours.linear

    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        _, h, w, _ = codes.shape
        adjacency = torch.from_numpy(_grid(h, w)).to(codes)
        nodes = codes.flatten(1, 2)  # (B, h·w, K)
        scores = self.linear(0.5 * nodes + 0.5 * adjacency @ nodes)
        return scores.flatten(1).softmax(1).view(*codes.shape[:3], 1)


class TwoStepUpsample(nn.Module):
    """`Upsample`, in two steps: double the pixels, then convolve."""

    def __init__(self, ours: blocks.Upsample) -> None:
        """Use the same parameters."""
        super().__init__()
        self.conv = ours.conv

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, 2h, 2w)
        """Double height and width."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _grid(h: int, w: int) -> np.ndarray:
    """The 0/1 adjacency (h·w, h·w) of a grid: each position is joined to itself and its four neighbours."""

    def path(length: int) -> np.ndarray:
        return np.eye(length, k=1) + np.eye(length, k=-1)

    return np.kron(path(h), np.eye(w)) + np.kron(np.eye(h), path(w)) + np.eye(h * w)


def with_eager_lista(model: SCVAE, iterate: Iterate = formulas.clean) -> SCVAE:
    """The model with an eager bottleneck that gives the same numbers."""
    model.bottleneck = EagerBottleneck(model.bottleneck, iterate)  # type: ignore[assignment]
    return model


def with_released_habits(model: SCVAE) -> SCVAE:
    """The model, computed like the released code; use it within `separate_norms`."""
    if isinstance(model.attention, GraphConvolutionAlpha):
        model.attention = DenseGraphConvolution(model.attention)
    for level in model.decoder.up:
        if isinstance(level.upsample, blocks.Upsample):
            level.upsample = TwoStepUpsample(level.upsample)
    return with_eager_lista(model, formulas.released)


def separate_norms() -> AbstractContextManager[Any]:
    """Within this context, every model's normalisation and activation are two separate operations of PyTorch."""

    def composed(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        return F.silu(F.group_norm(x, groups, weight, bias, eps))

    return mock.patch.object(blocks, "group_norm_silu", composed)
