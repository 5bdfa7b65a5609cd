"""Refining the codes of a sparse autoencoder, on synthetic features with known codes.

    python examples/sparse_autoencoder.py

x = Dz + noise. Each of the K = 8 n atoms is active in a row with probability s/K, with a value of 0.5 to 1.5. A TopK
autoencoder with k = s is trained, once over the true dictionary and once over one that it learns. Then T iterations
refine its codes, with the same k: without training and, over the true dictionary, also with trained λ, steps and
momentum for T = 8. All figures are for rows that were not used in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NamedTuple

import torch

from scvae_fast import SparseAutoencoder, dictionaries

ITERATIONS = (0, 1, 2, 4, 8, 16, 32, 64)


class Features:
    """Draws rows x and the codes z that generate them, over a true dictionary D (n, K)."""

    def __init__(self, n: int, K: int, active: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.dictionary = dictionaries.random_unit(n, K, generator=self.generator)
        self.active = active

    def draw(self, rows: int, noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows x (rows, n), and their codes z (rows, K)."""
        n, K = self.dictionary.shape
        chance, amplitude = torch.rand(2, rows, K, generator=self.generator)
        z = (chance < self.active / K) * (0.5 + amplitude)
        return z @ self.dictionary.T + noise * torch.randn(rows, n, generator=self.generator), z


class Rating(NamedTuple):
    """How well codes reconstruct x, and how well their support matches that of the true codes."""

    error: float  # ‖x − x̂‖² / ‖x‖², of all rows together
    codes: float  # positive codes per row, L0
    found: float  # share of the true support that the codes contain
    right: float  # share of the codes' support that is true


class Likeness(NamedTuple):
    """The correspondence between a layer's atoms and the true ones, by the largest cosine."""

    of_true: torch.Tensor  # (K,) the layer's atom for each true one
    of_layer: torch.Tensor  # (K,) the true atom for each of the layer's
    cosine: torch.Tensor  # (K,) of each true atom with the layer's

    @classmethod
    @torch.no_grad()
    def between(cls, layer: SparseAutoencoder, truth: torch.Tensor) -> Likeness:
        """Match a layer's atoms with the true ones (n, K)."""
        cosines = truth.T @ layer.dictionary
        best = cosines.max(1)
        return cls(best.indices, cosines.argmax(0), best.values)


@torch.no_grad()
def rate(layer: SparseAutoencoder, x: torch.Tensor, z: torch.Tensor, like: Likeness) -> Rating:
    """Rate the codes of rows x (rows, n) with true codes z (rows, K)."""
    codes, x_hat = layer(x)
    active, truly = codes > 0, z > 0
    error = (x - x_hat).square().sum() / x.square().sum()
    found = (active[:, like.of_true] & truly).sum() / truly.sum()
    right = (active & truly[:, like.of_layer]).sum() / active.sum()
    return Rating(float(error), float(active.sum() / len(x)), float(found), float(right))


def train(
    layer: SparseAutoencoder, parameters: Iterable[torch.nn.Parameter], features: Features, steps: int, lr: float
) -> SparseAutoencoder:
    """Adam on ‖x − x̂‖², with a learning rate that falls to zero in the last third."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 3 * (1 - step / steps)))
    for _ in range(steps):
        x, _ = features.draw(256)
        loss = (x - layer(x)[1]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer


def refined(layer: SparseAutoencoder, n_iter: int) -> SparseAutoencoder:
    """The same autoencoder with T untrained iterations."""
    with torch.no_grad():
        encoder = (layer.W_enc, layer.b_enc, layer.dictionary, layer.b_dec)
        return SparseAutoencoder.from_encoder(*encoder, n_iter, k=layer.k)


def show(title: str, ratings: dict[str, Rating]) -> None:
    """Print a table in Markdown."""
    print(
        f"\n{title}\n\n| T | error | codes in a row | true support found | codes that are true |\n|:--|--:|--:|--:|--:|"
    )
    for name, rating in ratings.items():
        print(f"| {name} | {rating.error:.3f} | {rating.codes:.2f} | {rating.found:.1%} | {rating.right:.1%} |")


def main() -> None:
    """Train, refine, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=64, help="n; K is 8 n")
    parser.add_argument("--active", type=int, default=6, help="s, active atoms per row, and k")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each one-layer training")
    options = parser.parse_args()
    n, K, s = options.features, 8 * options.features, options.active
    torch.manual_seed(0)
    features = Features(n, K, s)
    x, z = features.draw(4096)

    attainable = (z > 0).sum(1).clamp(max=s).sum() / (z > 0).sum()
    print(f"n = {n}, K = {K}, k = s = {s}; k codes in a row can have {attainable:.1%} of the true support at most")

    layer = SparseAutoencoder(n, K, 0, k=s, lmbda=0.0, dictionary=features.dictionary)
    train(layer, (layer.W_enc, layer.b_enc, layer.b_dec), features, options.steps, lr=3e-3)
    like = Likeness.between(layer, features.dictionary)
    ratings = {f"{n_iter}": rate(refined(layer, n_iter), x, z, like) for n_iter in ITERATIONS}
    of_eight = refined(layer, 8)
    learned = (p for p in (of_eight.lmbda, of_eight.step, of_eight.momentum) if p is not None)
    train(of_eight, learned, features, options.steps // 5, lr=1e-2)
    show("True dictionary", ratings | {"8, trained": rate(of_eight, x, z, like)})

    layer = SparseAutoencoder(n, K, 0, k=s, lmbda=0.0)
    train(layer, layer.parameters(), features, 4 * options.steps, lr=3e-3)
    like = Likeness.between(layer, features.dictionary)
    alike = (like.cosine > 0.9).float().mean()
    title = f"Learned dictionary; {alike:.1%} of the true atoms have one with a cosine above 0.9"
    show(title, {f"{n_iter}": rate(refined(layer, n_iter), x, z, like) for n_iter in ITERATIONS})


if __name__ == "__main__":
    main()
