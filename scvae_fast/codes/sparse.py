"""The codes of a picture without their zeros."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast.models.config import SCVAEConfig


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Codes of a grid of h x w cells over K atoms, stored as their nonzero entries.

    Cells are stored row by row, the entries of a cell in the order of their atoms. Counts and atom numbers are
    uint16, or uint32 if K is above 65535.

    Args:
        h: rows of cells.
        w: columns of cells.
        n_atoms: K.
        counts: (h·w,), number of entries of each cell.
        atoms: (N,), the atom of each entry, 0 … K − 1.
        values: (N,), floating point.

    Raises:
        ValueError: the arrays don't fit each other, or the entries of a cell are not in the order of their atoms.

    Example:
        >>> import torch
        >>> from scvae_fast.codes import SparseCodes
        >>> codes = SparseCodes.of(torch.tensor([[[0.0, 2.0, 0.0], [1.0, 0.0, -1.0]]]))  # (h, w, K)
        >>> codes.h, codes.w, codes.n_atoms, codes.n_entries
        (1, 2, 3, 3)
        >>> codes.csr().toarray()
        array([[ 0.,  2.,  0.],
               [ 1.,  0., -1.]], dtype=float32)
    """

    h: int
    w: int
    n_atoms: int
    counts: np.ndarray
    atoms: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        index = index_type(self.n_atoms)
        _require(self.counts.shape == (self.h * self.w,), f"counts must be ({self.h * self.w},)", self.counts.shape)
        for name in ("counts", "atoms"):
            _require(getattr(self, name).dtype == index, f"{name} must be {index}", getattr(self, name).dtype)
        _require(self.values.dtype.kind == "f", "values must be floating point", self.values.dtype)
        shape = (int(self.counts.sum(dtype=np.int64)),)
        _require(self.atoms.shape == shape, f"atoms must be {shape}, the sum of counts", self.atoms.shape)
        _require(self.values.shape == shape, f"values must be {shape}, the sum of counts", self.values.shape)
        if len(self.atoms):
            _require(self.atoms.max() < self.n_atoms, f"atoms must be below {self.n_atoms}", self.atoms.max())
            places = self._cells() * self.n_atoms + self.atoms
            _require(bool((np.diff(places) > 0).all()), "atoms must be strictly increasing within a cell", "others")

    @classmethod
    def of(cls, dense: Tensor) -> "SparseCodes":  # (h, w, K)
        """The nonzero entries of dense codes (NaN counts as nonzero), as float32, or as float64 if they are float64.

        Raises:
            ValueError: dense is not (h, w, K).
        """
        if dense.dim() != 3:
            raise ValueError(f"SparseCodes.of: dense must be (h, w, K), got {tuple(dense.shape)}")
        h, w, n_atoms = dense.shape
        rows = dense.detach().reshape(h * w, n_atoms)
        support = rows != 0
        values = rows[support]
        values = values if values.dtype == torch.float64 else values.float()
        index = index_type(n_atoms)
        counts, atoms = (each.cpu().numpy().astype(index) for each in (support.sum(1), support.nonzero()[:, 1]))
        return cls(h, w, n_atoms, counts, atoms, values.cpu().numpy())

    def usage(self) -> Tensor:
        """(K,) int64, how many of the codes use each atom."""
        return torch.bincount(torch.from_numpy(self.atoms.astype(np.int64)), minlength=self.n_atoms)

    @classmethod
    def stack(cls, parts: Sequence["SparseCodes"]) -> "SparseCodes":
        """Stack grids of the same width vertically.

        Raises:
            ValueError: there are none, or their widths or numbers of atoms differ.
        """
        if len({(part.w, part.n_atoms) for part in parts}) != 1:
            raise ValueError("SparseCodes.stack: parts must be one or more, of the same width and number of atoms")
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "atoms", "values"))
        return cls(sum(part.h for part in parts), parts[0].w, parts[0].n_atoms, *arrays)

    @classmethod
    def from_csr(cls, matrix: Any, grid: tuple[int, int]) -> "SparseCodes":
        """The codes in SciPy's (h·w, K) matrix, as returned by `csr`; explicit zeros are dropped.

        Args:
            matrix: a scipy.sparse array or matrix with a row for each cell.
            grid: (h, w).

        Raises:
            ValueError: the matrix doesn't have h·w rows, or its values are not floating-point numbers.
        """
        if len(grid) != 2 or matrix.shape[0] != grid[0] * grid[1]:
            raise ValueError(f"SparseCodes.from_csr: matrix must have h·w rows, got {matrix.shape} for {grid}")
        matrix = matrix.tocsr(copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        index = index_type(matrix.shape[1])
        counts, atoms = (each.astype(index) for each in (np.diff(matrix.indptr), matrix.indices))
        return cls(*grid, matrix.shape[1], counts, atoms, matrix.data)

    @property
    def n_entries(self) -> int:
        """N, the number of nonzero entries."""
        return len(self.values)

    @property
    def density(self) -> float:
        """Share of nonzero entries, 0 … 1."""
        return self.n_entries / (self.h * self.w * self.n_atoms)

    def dense(
        self, rows: slice = slice(None), *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:  # -> (h, w, K)
        """The codes as a dense tensor.

        Args:
            rows: rows of cells to return; a slice without a step.
            dtype: that of `values` by default.
            device: where the result is created.
        """
        first, end, _ = rows.indices(self.h)
        height = max(end - first, 0)
        cells = slice(first * self.w, (first + height) * self.w)
        before, count = (int(self.counts[each].sum(dtype=np.int64)) for each in (slice(cells.start), cells))
        entries = slice(before, before + count)
        values = torch.from_numpy(self.values[entries].copy()).to(device, dtype)  # a file's arrays are read-only
        cell = np.repeat(np.arange(height * self.w), self.counts[cells])
        index = (torch.from_numpy(each.astype(np.int64)).to(device) for each in (cell, self.atoms[entries]))
        codes = torch.zeros(height * self.w, self.n_atoms, dtype=values.dtype, device=device)
        return codes.index_put_(tuple(index), values).view(height, self.w, self.n_atoms)

    def csr(self) -> Any:  # scipy.sparse.csr_array
        """The codes as SciPy's (h·w, K) matrix with a row for each cell, for scikit-learn and others.

        Indices are int32 if they fit, which scikit-learn requires. float16 values, with which SciPy can't compute,
        become float32.

        Raises:
            ImportError: SciPy is not installed.
        """
        with extra("SparseCodes.csr", "SciPy"):
            from scipy.sparse import csr_array
        index = np.int32 if self.n_entries <= np.iinfo(np.int32).max else np.int64
        starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)]).astype(index)
        values = self.values.astype(np.float32) if self.values.dtype == np.float16 else self.values
        return csr_array((values, self.atoms.astype(index), starts), shape=(self.h * self.w, self.n_atoms))

    def _cells(self) -> np.ndarray:
        """(N,) int64, the cell of each entry."""
        return np.repeat(np.arange(self.h * self.w), self.counts)


def index_type(n_atoms: int) -> np.dtype:
    """The smaller of uint16 and uint32 that can count n_atoms atoms."""
    return np.dtype(np.uint16 if n_atoms <= np.iinfo(np.uint16).max else np.uint32)


def _require(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"SparseCodes: {expected}, got {got}")


class CodedPicture(NamedTuple):
    """The codes of a picture, with its name and size.

    Example:
        >>> import torch
        >>> from scvae_fast.codes import CodedPicture, SparseCodes
        >>> CodedPicture("a.png", (8, 16), SparseCodes.of(torch.zeros(1, 2, 512))).size
        (8, 16)
    """

    name: str
    size: tuple[int, int]  # height and width in pixels
    codes: SparseCodes

    def check(self, config: SCVAEConfig) -> "CodedPicture":
        """Return the picture itself if its codes have the shape that a model of this configuration gives them.

        Raises:
            ValueError: they have another shape.
        """
        expected = (*config.grid(*self.size), config.n_atoms)
        if (self.codes.h, self.codes.w, self.codes.n_atoms) != expected:
            raise ValueError(
                f"codes of {self.name!r}, {self.size[0]} x {self.size[1]} pixels, must be {expected}, "
                f"got {(self.codes.h, self.codes.w, self.codes.n_atoms)}"
            )
        return self
