import math

import numpy as np
import pytest
import torch

from scvae_fast.metrics import CodeSparsity, CodeStatistics


def random_codes(*shape: int, density: float = 0.3) -> torch.Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


def hoyer(z: np.ndarray) -> float:
    K = len(z)
    return float((math.sqrt(K) - np.abs(z).sum() / math.sqrt((z * z).sum())) / (math.sqrt(K) - 1))


def test_hoyer_of_vectors_with_a_closed_form() -> None:
    one, all_alike = CodeSparsity(16), CodeSparsity(16)
    one.update(torch.eye(16)[:3] * -7)
    all_alike.update(torch.tensor([1.0, -1.0]).repeat(8))
    assert one.hoyer == pytest.approx(1)
    assert all_alike.hoyer == pytest.approx(0, abs=1e-12)
    four = CodeSparsity(16)
    four.update(torch.tensor([2.0] * 4 + [0.0] * 12))  # (4 − 2) / 3
    assert four.hoyer == pytest.approx(2 / 3)


def test_hoyer_is_a_mean_over_codes_and_of_all_codes_one_vector() -> None:
    codes = random_codes(5, 4, 3, 24)
    codes[0, 0, 0] = 0
    sparsity = CodeSparsity(24)
    for part in codes.split(2):
        sparsity.update(part)
    rows = codes.reshape(-1, 24).double().numpy()
    single = [hoyer(row) for row in rows if row.any()]
    assert sparsity.zero_codes == len(rows) - len(single) >= 1
    assert sparsity.n_codes == len(rows)
    assert sparsity.hoyer == pytest.approx(np.mean(single), rel=1e-12)
    assert sparsity.hoyer_of_all == pytest.approx(hoyer(rows.reshape(-1)), rel=1e-9)


@pytest.mark.parametrize("value_bits", [16, 0, 2.5])
def test_bits_against_binomial_coefficients(value_bits: float) -> None:
    codes = random_codes(40, 30)
    sparsity = CodeSparsity(30, value_bits)
    sparsity.update(codes[:7])
    sparsity.update(codes[7:])
    expected = 0.0
    for row in codes:
        s = int(row.count_nonzero())
        expected += math.log2(31) + math.log2(math.comb(30, s)) + s * value_bits
    assert sparsity.bits == pytest.approx(expected, rel=1e-12)


def test_bits_of_a_wide_dictionary_do_not_overflow() -> None:
    sparsity = CodeSparsity(4096)
    sparsity.update(torch.cat([torch.ones(2048), torch.zeros(2048)]))
    expected = math.log2(4097) + math.log2(math.comb(4096, 2048)) + 16 * 2048
    assert sparsity.bits == pytest.approx(expected, rel=1e-12)


def test_usage_entropy_and_dead_atoms() -> None:
    statistics = CodeStatistics(6)
    statistics.add(torch.tensor([4, 0, 2, 1, 1, 0]), 4)
    assert statistics.dead_atoms == 2
    assert statistics.usage_entropy == pytest.approx(1 / 2 * 1 + 1 / 4 * 2 + 2 * 1 / 8 * 3)
    assert statistics.usage_perplexity == pytest.approx(2**1.75)
    alike = CodeStatistics(512)
    alike.add(torch.full((512,), 3), 100)
    assert alike.usage_perplexity == pytest.approx(512)


def test_nothing_to_measure() -> None:
    sparsity, statistics = CodeSparsity(4), CodeStatistics(4)
    for each in (sparsity, statistics):
        each.update(torch.zeros(2, 4))
        each.update(torch.zeros(0, 4))
    assert math.isnan(sparsity.hoyer)
    assert math.isnan(sparsity.hoyer_of_all)
    assert math.isnan(statistics.usage_entropy)
    assert statistics.dead_atoms == 4
    assert sparsity.bits == pytest.approx(2 * math.log2(5))
    alone = CodeSparsity(1)
    alone.update(torch.ones(3, 1))
    assert math.isnan(alone.hoyer)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"CodeSparsity: codes must be \(..., 4\), got \(2, 5\)"):
        CodeSparsity(4).update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="value_bits must not be negative"):
        CodeSparsity(4, -1)
