import math

import pytest
import torch

from scvae_fast.comparison.bottlenecks import Posterior
from scvae_fast.comparison.diagnosis import AtomDiagnosis, IndexDiagnosis, PosteriorDiagnosis, perplexity
from scvae_fast.metrics import CodeSparsity


def posterior(means: torch.Tensor, variance: float) -> Posterior:
    return Posterior(means, torch.full_like(means, math.log(variance)))


def test_a_collapsed_posterior_has_no_active_unit_and_no_bits() -> None:
    diagnosis = PosteriorDiagnosis(4)
    diagnosis.update(posterior(torch.zeros(2, 4, 3, 3), 1.0))
    found = diagnosis.figures()
    assert (found["units"], found["active_units"]) == (4, 0)
    assert diagnosis.bits_per_picture == 0
    assert found["kl_nats_per_unit"] == [0.0] * 4


def test_units_are_active_by_the_variance_of_their_means_over_all_batches() -> None:
    means = torch.zeros(2, 3, 1, 2)
    means[:, 0] = 5.0  # far from the prior, but says nothing
    means[0, 1], means[1, 1] = 1.0, -1.0  # variance 1
    means[0, 2], means[1, 2] = 0.09, -0.09  # variance 0.0081
    diagnosis = PosteriorDiagnosis(3)
    for picture in means.split(1):  # nothing differs within a batch
        diagnosis.update(posterior(picture, 0.5))
    found = diagnosis.figures()
    assert found["active_units"] == 1
    assert found["variance_of_means"] == pytest.approx([1, 0.0081, 0], abs=1e-6)
    base = 0.5 * (0.5 - 1 - math.log(0.5))
    assert found["kl_nats_per_unit"] == pytest.approx([base + 12.5, base + 0.5, base + 0.5 * 0.0081], rel=1e-5)
    nats = 2 * sum(found["kl_nats_per_unit"])  # two positions
    assert diagnosis.bits_per_picture == pytest.approx(nats / math.log(2))


def test_a_collapsed_codebook_has_one_vector_in_use() -> None:
    diagnosis = IndexDiagnosis(8, 1)
    diagnosis.update(torch.full((2, 3, 3, 1), 5))
    found = diagnosis.figures()
    assert (found["in_use"], found["perplexity"]) == (1, 1.0)
    assert diagnosis.bits_per_picture == 9 * 3


def test_levels_of_codes_are_counted_apart_and_together() -> None:
    diagnosis = IndexDiagnosis(8, 2)
    first = torch.arange(8).reshape(1, 2, 4, 1)
    diagnosis.update(torch.cat([first, torch.zeros_like(first)], -1))
    found = diagnosis.figures()
    assert found["in_use_by_level"] == [8, 1]
    assert found["perplexity_by_level"] == pytest.approx([8, 1])
    shares = [9 / 16] + [1 / 16] * 7
    assert found["perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert diagnosis.bits_per_picture == 8 * 2 * 3


def test_perplexity_of_nothing_is_0() -> None:
    assert perplexity(torch.zeros(4, dtype=torch.int64)) == 0


def test_atoms_in_use_and_bits() -> None:
    codes = torch.zeros(2, 1, 1, 6)
    codes[0, ..., :2] = 1.5
    codes[1, ..., 1] = -1
    diagnosis, sparsity = AtomDiagnosis(6, 16), CodeSparsity(6, 16)
    diagnosis.update(codes)
    sparsity.update(codes)
    found = diagnosis.figures()
    assert (found["atoms"], found["in_use"], found["entries_per_position"]) == (6, 2, pytest.approx(1.5))
    assert found["perplexity"] == pytest.approx(math.exp(-(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3)))
    assert diagnosis.bits_per_picture == sparsity.bits / 2
