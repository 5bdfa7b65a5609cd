"""Sparsity of codes, use of atoms, and bits."""

import math

import torch
from torch import Tensor

from scvae_fast._shares import Processes
from scvae_fast.metrics._sums import added


class CodeStatistics:
    """Counts of the nonzero entries of codes, accumulated over updates.

    Args:
        n_atoms: K.

    Example:
        >>> import torch
        >>> from scvae_fast.metrics import CodeStatistics
        >>> statistics = CodeStatistics(n_atoms=4)
        >>> statistics.update(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))
        >>> statistics.density, statistics.atoms_in_use
        (0.375, 2)
    """

    def __init__(self, n_atoms: int) -> None:
        self.usage = torch.zeros(n_atoms, dtype=torch.int64)  # (K,), number of codes that use each atom
        self.n_codes = 0

    def update(self, codes: Tensor) -> None:  # (..., K)
        """Add codes.

        Raises:
            ValueError: the last dimension of codes is not K.
        """
        rows = _rows("CodeStatistics", codes, len(self.usage))
        self.add((rows != 0).sum(0), len(rows))

    def add(self, usage: Tensor, n_codes: int) -> None:
        """Add `n_codes` codes, of which usage[k] use atom k.

        Raises:
            ValueError: usage is not (K,).
        """
        if usage.shape != self.usage.shape:
            raise ValueError(f"CodeStatistics: usage must be {tuple(self.usage.shape)}, got {tuple(usage.shape)}")
        self.usage += usage.to(self.usage)
        self.n_codes += n_codes

    def sum_over(self, processes: Processes) -> None:
        """Combine with the counts of the other processes; all call it once, at the end."""
        self.usage = processes.sum(self.usage)
        self.n_codes = int(processes.sum(torch.tensor(self.n_codes)))

    @property
    def density(self) -> float:
        """Share of nonzero entries, 0 … 1; NaN before the first code."""
        return float(self.usage.sum()) / (self.n_codes * len(self.usage)) if self.n_codes else math.nan

    @property
    def atoms_in_use(self) -> int:
        """Number of atoms that at least one code uses."""
        return int((self.usage > 0).sum())

    @property
    def dead_atoms(self) -> int:
        """Number of atoms that no code uses."""
        return len(self.usage) - self.atoms_in_use

    @property
    def usage_entropy(self) -> float:
        """Entropy −Σ p_k log₂ p_k in bits, with p_k the share of atom k in all uses; NaN if no atom was used.

        log₂ K if all atoms are used equally often, 0 if only one is used.
        """
        used = self.usage[self.usage > 0].double()
        if not len(used):
            return math.nan
        shares = used / used.sum()
        return float(torch.special.entr(shares).sum()) / math.log(2)

    @property
    def usage_perplexity(self) -> float:
        """2 to the power of `usage_entropy`: the number of equally used atoms with the same entropy."""
        return 2.0**self.usage_entropy


class CodeSparsity:
    """Sparsity of single codes, and the bits of a simple coder; accumulated over updates.

    Hoyer's sparsity of a vector of K entries is (√K − ‖z‖₁ / ‖z‖₂) / (√K − 1): 1 if only one entry is nonzero, 0 if all
    entries have the same absolute value. Source: P. O. Hoyer, "Non-negative Matrix Factorization with Sparseness
    Constraints", Journal of Machine Learning Research 5 (2004), section 3.1.

    A code with s nonzero entries costs

        log₂(K + 1) + log₂ binomial(K, s) + s · value_bits

    bits: for s, for the positions among the K entries if all choices are equally likely, and for the values. There is
        no entropy coding, so this is the size with a simple coder, not the smallest possible one.

    Args:
        n_atoms: K.
        value_bits: bits for a nonzero value.

    Raises:
        ValueError: value_bits is negative.

    Example:
        >>> import torch
        >>> from scvae_fast.metrics import CodeSparsity
        >>> sparsity = CodeSparsity(n_atoms=4)
        >>> sparsity.update(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
        >>> sparsity.hoyer
        0.5
    """

    def __init__(self, n_atoms: int, value_bits: float = 16) -> None:
        if not value_bits >= 0:
            raise ValueError(f"CodeSparsity: value_bits must not be negative, got {value_bits}")
        self.value_bits = value_bits
        self.sizes = torch.zeros(n_atoms + 1, dtype=torch.int64)  # number of codes with 0, 1, … K nonzero entries
        self._n_atoms = n_atoms
        self._sum_of_hoyer = self._absolute = self._squares = 0.0

    def update(self, codes: Tensor) -> None:  # (..., K)
        """Add codes.

        Raises:
            ValueError: the last dimension of codes is not K.
        """
        rows = _rows("CodeSparsity", codes, self._n_atoms)
        sizes = (rows != 0).sum(1)
        self.sizes += torch.bincount(sizes.cpu(), minlength=len(self.sizes))
        l1, l2 = (torch.linalg.vector_norm(rows, order, dim=1, dtype=torch.float64) for order in (1, 2))
        self._absolute += float(l1.sum())
        self._squares += float(l2.square().sum())
        active = sizes > 0
        self._sum_of_hoyer += float(_hoyer(l1[active], l2[active], self._n_atoms).sum())

    def sum_over(self, processes: Processes) -> None:
        """Combine with the counts of the other processes; all call it once, at the end."""
        self.sizes = processes.sum(self.sizes)
        sums = added(processes, self._sum_of_hoyer, self._absolute, self._squares)
        self._sum_of_hoyer, self._absolute, self._squares = sums

    @property
    def n_codes(self) -> int:
        """Number of codes."""
        return int(self.sizes.sum())

    @property
    def zero_codes(self) -> int:
        """Number of codes without nonzero entries, for which Hoyer's sparsity is not defined."""
        return int(self.sizes[0])

    @property
    def hoyer(self) -> float:
        """Mean of Hoyer's sparsity over the codes with nonzero entries; NaN if there are none, or K is 1."""
        count = self.n_codes - self.zero_codes
        return self._sum_of_hoyer / count if count else math.nan

    @property
    def hoyer_of_all(self) -> float:
        """Hoyer's sparsity of all codes as one long vector, as the authors' released code computes it for a batch."""
        if not self._squares:
            return math.nan
        l1, l2 = (torch.tensor(value, dtype=torch.float64) for value in (self._absolute, math.sqrt(self._squares)))
        return float(_hoyer(l1, l2, self.n_codes * self._n_atoms))

    @property
    def bits(self) -> float:
        """Bits of all codes together, as defined above."""
        K, s = self._n_atoms, torch.arange(len(self.sizes), dtype=torch.float64)
        choices = math.lgamma(K + 1) - torch.lgamma(s + 1) - torch.lgamma(K - s + 1)  # log binomial(K, s)
        cost = math.log2(K + 1) + choices / math.log(2) + s * self.value_bits
        return float((self.sizes * cost).sum())


def _rows(name: str, codes: Tensor, n_atoms: int) -> Tensor:  # (..., K) -> (M, K)
    if codes.dim() == 0 or codes.shape[-1] != n_atoms:
        raise ValueError(f"{name}: codes must be (..., {n_atoms}), got {tuple(codes.shape)}")
    return codes.reshape(-1, n_atoms)


def _hoyer(l1: Tensor, l2: Tensor, count: int) -> Tensor:
    root = math.sqrt(count)
    return (root - l1 / l2) / (root - 1) if count > 1 else torch.full_like(l1, math.nan)
