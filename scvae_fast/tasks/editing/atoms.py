"""Single atoms of a picture's codes: their energy, and codes with atoms scaled."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from scvae_fast.codes import SparseCodes


def atom_energies(codes: SparseCodes, dictionary: Tensor) -> Tensor:  # dictionary: (n, K) -> (K,) float64
    """Σ z_k² ‖d_k‖² over the cells: the energy that each atom contributes to the latents D z.

    Atoms are not orthogonal, so these are not shares of ‖D z‖².

    Raises:
        ValueError: the dictionary has another number of atoms than the codes.

    Example:
        >>> import torch
        >>> from scvae_fast.codes import SparseCodes
        >>> from scvae_fast.tasks.editing import atom_energies
        >>> atom_energies(SparseCodes.of(torch.tensor([[[0.0, 2.0]]])), torch.eye(2)).tolist()
        [0.0, 4.0]
    """
    if dictionary.dim() != 2 or dictionary.shape[1] != codes.n_atoms:
        raise ValueError(f"atom_energies: dictionary must be (n, {codes.n_atoms}), got {tuple(dictionary.shape)}")
    squares = np.bincount(codes.atoms, np.square(codes.values, dtype=np.float64), minlength=codes.n_atoms)
    return torch.from_numpy(squares) * dictionary.detach().cpu().double().square().sum(0)


def scale_atoms(codes: SparseCodes, factors: Mapping[int, float], *, others: float = 1.0) -> SparseCodes:
    """The codes with the entries of some atoms multiplied by factors; a factor of 0 removes an atom.

    Args:
        codes: of a picture.
        factors: by atom index.
        others: factor of all other atoms; 0 keeps only those in `factors`.

    Raises:
        ValueError: there is no such atom, or a factor or a multiplied entry is not finite.

    Example:
        >>> import torch
        >>> from scvae_fast.codes import SparseCodes
        >>> from scvae_fast.tasks.editing import scale_atoms
        >>> scale_atoms(SparseCodes.of(torch.tensor([[[1.0, 2.0]]])), {1: 0.0}).dense().tolist()
        [[[1.0, 0.0]]]
    """
    if unknown := [atom for atom in factors if not 0 <= atom < codes.n_atoms]:
        raise ValueError(f"scale_atoms: atoms must be 0 … {codes.n_atoms - 1}, got {unknown[0]}")
    if not np.isfinite([*factors.values(), others]).all():
        raise ValueError("scale_atoms: factors must be finite numbers")
    scale = np.full(codes.n_atoms, others, dtype=np.float64)
    scale[list(factors)] = list(factors.values())
    matrix = codes.csr()
    with np.errstate(over="ignore"):  # checked below
        matrix.data = (matrix.data * scale[matrix.indices]).astype(matrix.data.dtype)
    if not np.isfinite(matrix.data).all():
        raise ValueError(f"scale_atoms: entries multiplied by factors must be finite in {matrix.data.dtype}")
    return SparseCodes.from_csr(matrix, (codes.h, codes.w))
