"""Dictionaries for scikit-learn's digits, and the objective of codes."""

import numpy as np
import torch

from scvae_fast import dictionaries


def atoms(n_components, dtype=np.float64, seed=0):
    """Random atoms of unit norm, (n_components, 64)."""
    D = dictionaries.random_unit(64, n_components, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return D.T.numpy().astype(dtype)


def objectives(X, atoms, codes, alpha):
    """½‖x − Dz‖² + α‖z‖₁ of each row."""
    return 0.5 * np.square(X - codes @ atoms).sum(1) + alpha * np.abs(codes).sum(1)
