"""What the codes of a method carry: posterior collapse, codebook collapse, unused atoms, and bits.

Each diagnosis takes batches of codes in evaluation mode; `figures()` returns the results, JSON-serialisable.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from scvae_fast.comparison.bottlenecks import Posterior, kl_to_standard_normal, nats_to_bits
from scvae_fast.metrics import CodeSparsity, CodeStatistics

# Burda, Grosse and Salakhutdinov's threshold.
ACTIVE_VARIANCE = 0.01


class Diagnosis(ABC):
    """Interface of the diagnoses; `pictures` is the number of pictures so far."""

    def __init__(self) -> None:
        self.pictures = 0

    def update(self, code: Any) -> None:
        """Add the codes of a batch; their first dimension is that of the pictures."""
        self.pictures += len(code.mean if isinstance(code, Posterior) else code)
        self._count(code)

    @abstractmethod
    def _count(self, code: Any) -> None: ...

    @property
    @abstractmethod
    def bits_per_picture(self) -> float:
        """Average size of a picture's codes, measured in the way that suits the method."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """All results."""


class PosteriorDiagnosis(Diagnosis):
    """Active units and KL divergence of each of n Gaussian latents; every position of a picture is a sample.

    A unit u is active if Var_x(E[z_u | x]) > 0.01. Source: Burda, Grosse and Salakhutdinov, "Importance Weighted
    Autoencoders" (ICLR 2016), section 5. Bits are the KL divergence of all units to the prior: the cost of sending a
    sample of z with bits-back coding. Decoders are rated on the mean of z, which would cost more.

    Args:
        n_units: n.
    """

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self._sum, self._squares, self._kl = (torch.zeros(n_units, dtype=torch.float64) for _ in range(3))
        self._samples = 0

    def _count(self, code: Posterior) -> None:
        mean, kl = (each.double().cpu().transpose(0, 1).flatten(1) for each in (code.mean, kl_to_standard_normal(code)))
        self._sum += mean.sum(1)
        self._squares += mean.square().sum(1)
        self._kl += kl.sum(1)
        self._samples += mean.shape[1]

    @property
    def variances(self) -> Tensor:
        """(n,), variance of each unit's mean."""
        centre = self._sum / self._samples
        return (self._squares / self._samples - centre.square()).clamp_min(0)

    @property
    def bits_per_picture(self) -> float:
        """See `Diagnosis`."""
        return nats_to_bits(float(self._kl.sum()) / self.pictures)

    def figures(self) -> dict[str, Any]:
        """`units`, the number of active ones, and each unit's KL divergence in nats and variance of the mean."""
        kl, variances = self._kl / self._samples, self.variances
        return {
            "kind": "posterior",
            "units": len(kl),
            "active_units": int((variances > ACTIVE_VARIANCE).sum()),
            "kl_nats_per_position": float(kl.sum()),
            "kl_nats_per_unit": sorted((float(value) for value in kl), reverse=True),
            "variance_of_means": sorted((float(value) for value in variances), reverse=True),
        }


class IndexDiagnosis(Diagnosis):
    """How many codebook vectors are used, and how evenly: perplexity 2^H of their shares.

    Bits are codes times log₂ K, without entropy coding.

    Args:
        codebook_size: K.
        codes: number of codes per position; each is counted separately.
    """

    def __init__(self, codebook_size: int, codes: int) -> None:
        super().__init__()
        self._counts = torch.zeros(codes, codebook_size, dtype=torch.int64)

    def _count(self, code: Tensor) -> None:  # (B, h, w, codes)
        for counts, indices in zip(self._counts, code.cpu().flatten(0, -2).T, strict=True):
            counts += torch.bincount(indices, minlength=len(counts))

    @property
    def bits_per_picture(self) -> float:
        """See `Diagnosis`."""
        return int(self._counts.sum()) / self.pictures * math.log2(self._counts.shape[1])

    def figures(self) -> dict[str, Any]:
        """`codebook_size`, and for all codes together and for each level the vectors in use and their perplexity."""
        together = self._counts.sum(0)
        return {
            "kind": "codebook",
            "codebook_size": len(together),
            "codes_per_position": len(self._counts),
            "in_use": int((together > 0).sum()),
            "perplexity": perplexity(together),
            "in_use_by_level": (self._counts > 0).sum(1).tolist(),
            "perplexity_by_level": [perplexity(counts) for counts in self._counts],
            "shares": sorted((together / together.sum()).tolist(), reverse=True),
        }


class AtomDiagnosis(Diagnosis):
    """Atoms in use, perplexity of their use, density, and bits of a plain coder; see `CodeSparsity`.

    Args:
        n_atoms: K.
        value_bits: bits for each nonzero entry.
    """

    def __init__(self, n_atoms: int, value_bits: int) -> None:
        super().__init__()
        self._usage, self._sparsity = CodeStatistics(n_atoms), CodeSparsity(n_atoms, value_bits)

    def _count(self, code: Tensor) -> None:  # (B, h, w, K)
        self._usage.update(code)
        self._sparsity.update(code)

    @property
    def bits_per_picture(self) -> float:
        """See `Diagnosis`."""
        return self._sparsity.bits / self.pictures

    def figures(self) -> dict[str, Any]:
        """`atoms`, the number in use, perplexity of their shares of all uses, density, and mean Hoyer sparsity."""
        usage = self._usage.usage
        return {
            "kind": "atoms",
            "atoms": len(usage),
            "in_use": self._usage.atoms_in_use,
            "perplexity": perplexity(usage),
            "density": self._usage.density,
            "entries_per_position": self._usage.density * len(usage),
            "hoyer": None if math.isnan(self._sparsity.hoyer) else self._sparsity.hoyer,
            "shares": sorted((usage / usage.sum().clamp_min(1)).tolist(), reverse=True),
        }


def perplexity(counts: Tensor) -> float:
    """2^H of the shares of counts (K,): the number of equally likely choices of the same entropy; 0 without counts."""
    total = counts.sum()
    if not total:
        return 0.0
    return float(torch.special.entr(counts.double() / total).sum().exp())
