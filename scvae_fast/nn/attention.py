"""Networks that weigh the positions of a latent grid: SC-VAE's α.

Each is an `AlphaNetwork` and maps the squared latent errors and the codes of a batch to weights α. B is the
batch, (h, w) the grid, n the length of a latent vector, K the number of atoms.

Source: Xiao et al., "SC-VAE: Sparse Coding-based Variational Autoencoder with Learned ISTA", arXiv
2303.16666, and the code released with it.

The graph of `GAT` and `SSGC` joins each position to itself and its (at most) four neighbours. Shifted copies
of the grid replace its (h·w)² adjacency matrix: cost and memory grow with h·w, nothing needs to be built or cached,
and any grid size works, including symbolic sizes under torch.compile.
"""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionName = Literal["constant", "eq", "GAT", "SSGC"]


def alpha_network(name: AttentionName, n_features: int, n_atoms: int, *, hidden: int = 64) -> "AlphaNetwork":
    """The network called `name`, for latents of `n_features` and codes of `n_atoms`; `hidden` is used by "eq" only.

    Raises:
        ValueError: no network has that name.
    """
    if name == "constant":
        return ConstantAlpha()
    if name == "eq":
        return EquivariantAlpha(n_features, hidden)
    if name == "GAT":
        return GraphAttentionAlpha(n_atoms)
    if name == "SSGC":
        return GraphConvolutionAlpha(n_atoms)
    raise ValueError(f"alpha_network: name must be one of {get_args(AttentionName)}, got {name!r}")


class AlphaNetwork(nn.Module, ABC):
    """Interface of the four networks."""

    def forward(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        """Compute the weights of each picture's positions.

        Args:
            sq_err: (B, h, w, n), squared errors (E(x) − D z)² of the latents.
            codes: (B, h, w, K), codes z.

        Returns:
            α, (B, h, w, 1) or (B, h, w, n), never negative. `ConstantAlpha`'s sums to 1 over all of (h, w,
            n), the others' over (h, w). A position's weight is the mean of α over the last dimension.

        Raises:
            ValueError: sq_err and codes are not four-dimensional over the same B, h, w.
        """
        if sq_err.dim() != 4 or codes.dim() != 4 or sq_err.shape[:3] != codes.shape[:3]:
            raise ValueError(
                f"{type(self).__name__}: sq_err must be (B, h, w, n) and codes (B, h, w, K), "
                f"got {tuple(sq_err.shape)} and {tuple(codes.shape)}"
            )
        return self._alpha(sq_err, codes)

    @abstractmethod
    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor: ...


class ConstantAlpha(AlphaNetwork):
    """α = 1/(h·w·n), so the α-weighted sum of squared errors is their mean. No parameters."""

    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        _, h, w, n = sq_err.shape
        return sq_err.new_full((), 1 / (h * w * n)).expand_as(sq_err)


class EquivariantAlpha(AlphaNetwork):
    """softmax(σ(W₂ (H − max H) + b₂)) with H = σ(W₁ (A − max A) + b₁) and A = (E − D z)².

    Softmax and maxima are over positions, per feature. A permutation of the positions permutes α in the same way.
    """

    def __init__(self, n_features: int, hidden: int = 64) -> None:
        super().__init__()
        self.linear1 = nn.Linear(n_features, hidden)
        self.linear2 = nn.Linear(hidden, 1)

    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        hidden = self.linear1(_below_maximum(sq_err)).sigmoid()  # (B, h, w, hidden)
        return _softmax_over_positions(self.linear2(_below_maximum(hidden)).sigmoid())


class GraphAttentionAlpha(AlphaNetwork):
    """softmax over positions of ELU(GAT₂(ELU(GAT₁(z)))): `heads` heads of `hidden` features, then one head of one.

    In training, dropout at rate `dropout` acts on the input of each layer and on the attention weights.
    """

    def __init__(self, n_atoms: int, *, hidden: int = 64, heads: int = 6, dropout: float = 0.6) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer1 = GridAttention(n_atoms, hidden, heads=heads, dropout=dropout)
        self.layer2 = GridAttention(heads * hidden, 1, heads=1, dropout=dropout)

    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        features = F.elu(self.layer1(self.dropout(codes)))  # (B, h, w, heads·hidden)
        return _softmax_over_positions(F.elu(self.layer2(self.dropout(features))))


class GraphConvolutionAlpha(AlphaNetwork):
    """softmax over positions of W (½ z + ½ A z) + b, with A the 0/1 adjacency of the grid with self-loops.

    Simple spectral graph convolution (Zhu and Koniusz, ICLR 2021) with one step. The graph acts on positions and W on
    atoms, so W may be applied first, and neighbours are summed over one number instead of K.
    """

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_atoms, 1)

    def _alpha(self, sq_err: Tensor, codes: Tensor) -> Tensor:
        score = F.linear(codes, self.linear.weight)  # (B, h, w, 1)
        around = torch.stack(_stencil(score, fill=0.0)).sum(0)
        return _softmax_over_positions(0.5 * score + 0.5 * around + self.linear.bias)


class GridAttention(nn.Module):
    """Graph attention over the five-point neighbourhood of each position of a grid.

    Per head, with features f = x W, position i gets Σ_j w_ij f_j over its neighbours j (itself among them),
    where w_ij = softmax_j(LeakyReLU(a_self·f_i + a_other·f_j)) with slope 0.2. Heads are concatenated.

    Source: Veličković et al., "Graph Attention Networks" (ICLR 2018), equations 1 to 5.
    """

    def __init__(self, in_features: int, out_features: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, in_features, out_features))
        self.score = nn.Parameter(torch.empty(heads, 2, out_features))  # a_self, a_other
        self.dropout = nn.Dropout(dropout)
        for head in range(heads):
            nn.init.xavier_uniform_(self.weight[head], gain=2**0.5)
            nn.init.xavier_uniform_(self.score[head].view(-1, 1), gain=2**0.5)

    def forward(self, x: Tensor) -> Tensor:  # (B, h, w, in_features) -> (B, h, w, heads·out_features)
        heads, _, out = self.weight.shape
        features = x @ self.weight.transpose(0, 1).flatten(1)  # (B, h, w, heads·out)
        by_head = features.unflatten(-1, (heads, 1, out))
        own, other = (by_head * self.score).sum(-1).unbind(-1)  # (B, h, w, heads) each
        scores = own + torch.stack(_stencil(other, fill=float("-inf")))  # (5, B, h, w, heads)
        weights = self.dropout(F.leaky_relu(scores, 0.2).softmax(0))
        mixed = torch.zeros_like(by_head[..., 0, :])  # (B, h, w, heads, out)
        for weight, neighbour in zip(weights, _stencil(features, fill=0.0), strict=True):
            mixed = mixed + weight.unsqueeze(-1) * neighbour.unflatten(-1, (heads, out))
        return mixed.flatten(-2)


def _stencil(grid: Tensor, *, fill: float) -> list[Tensor]:
    """For each position of a grid (B, h, w, C): itself, above, below, left, right; `fill` beyond the edge."""
    h, w = grid.shape[1:3]
    padded = F.pad(grid, (0, 0, 1, 1, 1, 1), value=fill)
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return [padded[:, top : top + h, left : left + w] for top, left in corners]


def _below_maximum(grid: Tensor) -> Tensor:  # (B, h, w, C), minus its maximum over (h, w)
    # `max`, not `amax`: at a tie the released code sends the gradient to only one of the positions.
    return grid - grid.flatten(1, 2).max(dim=1).values[:, None, None]


def _softmax_over_positions(logits: Tensor) -> Tensor:  # (B, h, w, 1) -> (B, h, w, 1)
    return logits.flatten(1).softmax(1).view(logits.shape)
