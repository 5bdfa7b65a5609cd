"""Online dictionary learning: seconds of one pass over patches in batches, and the objective over what was learned.

All contestants start from the same dictionary, of atoms of unit norm. They get the same batches in the same order; the
name of a contestant that draws its own batches, from the same rows, says so. The objective is the mean of ½‖x − Dz‖² +
λ‖z‖₁ over all rows, at codes z that `scvae_fast.lasso` certifies.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

import scvae_fast
from benchmarks import lasso, pictures, timing
from benchmarks.cases import DictionaryLearningCase

OURS = "scvae_fast.estimators.OnlineDictionaryLearning"
SPAMS, SPAMS_DRAWS = "SPAMS, trainDL batch by batch", "SPAMS, trainDL, its own batches"
SKLEARN = "scikit-learn, MiniBatchDictionaryLearning"
_TOLERANCE = 1e-6  # of the objective's codes, relative to ½‖x‖²


class Learning(NamedTuple):
    """A problem, float32."""

    x: np.ndarray  # (batches · η, n)
    start: np.ndarray  # (K, n), an atom a row
    batch: int  # η
    lmbda: float  # λ

    def batches(self) -> list[np.ndarray]:
        """Of the rows, in their order."""
        return [self.x[first : first + self.batch] for first in range(0, len(self.x), self.batch)]

    def objective(self, atoms: np.ndarray) -> float:  # (K, n)
        """The mean over the rows at the optimal codes."""
        x, D = torch.from_numpy(self.x).double(), torch.tensor(atoms.T).double()
        z = scvae_fast.lasso(x, D, self.lmbda, tol=_TOLERANCE).codes
        return lasso.Lasso(x, D, self.lmbda, 0.0).objective(z) / len(x)


# Takes a problem, gives its atoms (K, n).
Learner = Callable[[Learning], np.ndarray]


def problem(case: DictionaryLearningCase) -> Learning:
    """Shuffled patches without their means, of norm √n on average, and some of them as atoms."""
    drawn = torch.Generator().manual_seed(0)
    x = lasso.patches(case.batches * case.batch, case.side)
    x = x[torch.randperm(len(x), generator=drawn)]
    different = x[x.any(1)].unique(dim=0)
    start = different[torch.randperm(len(different), generator=drawn)[: case.atoms]]
    return Learning(x.numpy(), (start / start.norm(dim=1, keepdim=True)).numpy(), case.batch, case.lmbda)


def _ours(p: Learning) -> np.ndarray:
    from scvae_fast.estimators import OnlineDictionaryLearning

    learner = OnlineDictionaryLearning(len(p.start), alpha=p.lmbda, dict_init=p.start, random_state=0)
    for batch in p.batches():
        learner.partial_fit(batch)
    return learner.components_


def _by_spams(p: Learning) -> np.ndarray:
    import spams  # type: ignore[import-not-found]

    D, model = np.asfortranarray(p.start.T), None
    for batch in p.batches():
        x = np.asfortranarray(batch.T)
        D, model = spams.trainDL(x, return_model=True, model=model, D=D, iter=1, **_of_spams(p))
    return np.ascontiguousarray(D.T)


def _by_spams_alone(p: Learning) -> np.ndarray:
    import spams

    x, D = np.asfortranarray(p.x.T), np.asfortranarray(p.start.T)
    return np.ascontiguousarray(spams.trainDL(x, D=D, iter=len(p.batches()), **_of_spams(p)).T)


def _of_spams(p: Learning) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {"lambda1": p.lmbda, "mode": 2, "batchsize": p.batch, "numThreads": threads, "verbose": False}


def _by_sklearn(p: Learning) -> np.ndarray:
    import joblib  # type: ignore[import-untyped]
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    learner = MiniBatchDictionaryLearning(
        len(p.start),
        alpha=p.lmbda,
        batch_size=p.batch,
        fit_algorithm="cd",
        n_jobs=torch.get_num_threads(),
        dict_init=p.start,
        random_state=0,
    )
    with joblib.parallel_config(backend="threading"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for batch in p.batches():
            learner.partial_fit(batch)
    atoms: np.ndarray = learner.components_
    return atoms


def learners() -> dict[str, Learner]:
    """The contestants, ours first. SPAMS takes part where the user has installed it."""
    found: dict[str, Learner] = {OURS: _ours} if find_spec("sklearn") else {}
    if find_spec("spams"):
        found |= {SPAMS: _by_spams, SPAMS_DRAWS: _by_spams_alone}
    return found | ({SKLEARN: _by_sklearn} if find_spec("sklearn") else {})


def measure(case: DictionaryLearningCase, seconds: float) -> dict[str, Any]:
    """The objective that each contestant ends with, and samples in seconds."""
    p = problem(case)
    efforts, able, took = {}, {}, {}
    for name, learn in learners().items():
        atoms, took[name] = timing.timed(functools.partial(learn, p))
        efforts[name] = {"objective": p.objective(atoms)}
        able[name] = functools.partial(learn, p)
    return {
        "chosen": OURS,
        "pictures": pictures.kind(),
        "start": p.objective(p.start),
        "efforts": efforts,
        "samples": lasso.samples(able, took, seconds),
    }
