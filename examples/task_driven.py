"""Task-driven dictionary learning on scikit-learn's digits: networks that end in a lasso, or in LISTA.

    python examples/task_driven.py

Each network consists of a dictionary D and a linear classifier of the codes of x, trained together on the classifier's
loss (Mairal, Bach & Ponce, "Task-driven dictionary learning", IEEE PAMI 2012). They differ in the codes: the lasso's
optimum, with derivatives by the implicit function theorem, or T iterations over the same D, through which gradients
flow back. All start from the same dictionary, learned without labels; "kept" trains only the classifier over it. Half
of the digits are for training, half for testing. Seconds are for one training run, and memory is what autograd keeps of
one batch's forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from scvae_fast import DictionaryLISTA, lasso
from scvae_fast.estimators import OnlineDictionaryLearning

KEPT, OPTIMUM = "lasso, D kept", "lasso"
ITERATIONS = (5, 16, 30)
BATCH = 256


class Digits(NamedTuple):
    """Rows x (M, 64) of norm 1, and their labels (M,)."""

    x: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def halves(cls, seed: int) -> tuple[Digits, Digits]:
        """The digits to train on, and those to test on."""
        x, labels = load_digits(return_X_y=True)
        rows = torch.nn.functional.normalize(torch.from_numpy(x).float())
        train, test = train_test_split(range(len(x)), train_size=0.5, stratify=labels, random_state=seed)
        return cls(rows[train], torch.from_numpy(labels)[train]), cls(rows[test], torch.from_numpy(labels)[test])


class Classifier(torch.nn.Module):
    """Scores (M, 10) of x (M, n): linear in the codes over `dictionary` (n, K), which has columns of norm 1."""

    def __init__(self, dictionary: torch.Tensor, lmbda: float, n_iter: int | None, learned: bool = True) -> None:
        super().__init__()
        self.dictionary = torch.nn.Parameter(dictionary.clone(), requires_grad=learned)
        self.head = torch.nn.Linear(dictionary.shape[1], 10)
        self.lmbda = lmbda
        self.iterations = None
        if n_iter is not None:
            self.iterations = DictionaryLISTA(dictionary, n_iter, lmbda, learn_c=False)
            self.dictionary = self.iterations.dictionary

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (M, n) -> (M, 10)
        """Scores from the codes of the optimum, or of T iterations."""
        codes = lasso(x, self.dictionary, self.lmbda).codes if self.iterations is None else self.iterations(x)[0]
        return self.head(codes)

    @torch.no_grad()
    def project(self) -> None:
        """Scale atoms back to norm 1, and raise c, which bounds the steps, to its lower limit."""
        self.dictionary /= self.dictionary.norm(dim=0)
        if self.iterations is not None:
            self.iterations.c.copy_(torch.linalg.eigvalsh(self.dictionary @ self.dictionary.T)[-1:])


class Trained(NamedTuple):
    """The result of a training run."""

    accuracy: float  # on the test half
    seconds: float
    kept: float  # MiB


def bytes_kept(forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps of a forward pass, counting each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = forward()
    del kept
    return sum(storages.values())


def train(network: Classifier, half: Digits, test: Digits, epochs: int) -> Trained:
    """Adam on the cross-entropy, with a learning rate that falls to zero."""
    optimizer = torch.optim.Adam(
        [{"params": [network.dictionary], "lr": 1e-3}, {"params": network.head.parameters(), "lr": 1e-2}]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs)
    began = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(half.x)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(network(half.x[rows]), half.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            network.project()
        schedule.step()
    seconds = time.perf_counter() - began
    batch = half.x[:BATCH].clone()  # a copy, so that the other rows don't count
    kept = bytes_kept(lambda: network(batch))
    with torch.no_grad():
        accuracy = (network(test.x).argmax(1) == test.labels).float().mean()
    return Trained(float(accuracy), seconds, kept / 2**20)


def contestants(dictionary: torch.Tensor, lmbda: float) -> dict[str, Callable[[], Classifier]]:
    """Networks that start from a dictionary, by name."""
    made: dict[str, Callable[[], Classifier]] = {
        KEPT: lambda: Classifier(dictionary, lmbda, None, learned=False),
        OPTIMUM: lambda: Classifier(dictionary, lmbda, None),
    }
    for T in ITERATIONS:
        made[f"LISTA, T = {T}"] = lambda T=T: Classifier(dictionary, lmbda, T)  # type: ignore[misc]
    return made


def main(arguments: list[str] | None = None) -> None:
    """Train each network with each seed, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=128, help="K")
    parser.add_argument("--lmbda", type=float, default=0.1, help="λ, the lasso's alpha; rows have norm 1")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (halves, batches, classifiers)")
    options = parser.parse_args(arguments)
    found: dict[str, list[Trained]] = {}
    for seed in range(options.seeds):
        half, test = Digits.halves(seed)
        learner = OnlineDictionaryLearning(options.atoms, alpha=options.lmbda, max_iter=10, random_state=seed)
        dictionary = torch.from_numpy(learner.fit(half.x.numpy()).components_.T.copy())
        for name, network in contestants(dictionary, options.lmbda).items():
            torch.manual_seed(seed)
            found.setdefault(name, []).append(train(network(), half, test, options.epochs))
    print(f"K = {options.atoms}, λ = {options.lmbda}, {options.epochs} epochs, {options.seeds} seeds\n")
    print("| codes | accuracy | its range | seconds | MiB kept |\n|:--|--:|--:|--:|--:|")
    for name, runs in found.items():
        accuracies = [run.accuracy for run in runs]
        middle: Any = Trained(*(statistics.median(values) for values in zip(*runs, strict=True)))
        print(
            f"| {name} | {statistics.mean(accuracies):.2%} | {min(accuracies):.2%} to {max(accuracies):.2%} | "
            f"{middle.seconds:.2f} | {middle.kept:.2f} |"
        )


if __name__ == "__main__":
    main()
