import math

import pytest
import torch
from pictures import scene

from scvae_fast.metrics import CodeStatistics, PictureQuality, block_means


def test_psnr_pools_the_squared_error() -> None:
    quality = PictureQuality()
    quality.update(torch.full((3, 10, 10), 0.5), torch.zeros(3, 10, 10))  # squared error 0.25 on 300 values
    quality.update(torch.zeros(3, 20, 30), torch.zeros(3, 20, 30))  # none on 1800
    assert quality.psnr() == pytest.approx(10 * math.log10(4 / (0.25 * 300 / 2100)))


def test_each_picture_gets_its_own_figures_beside_the_pooled_ones() -> None:
    together, x, noise = PictureQuality(), scene(20, 24), 0.1 * torch.randn(3, 20, 24)
    for x_hat in (x + noise, x + 2 * noise):
        alone = PictureQuality()
        alone.update(x_hat, x)
        assert together.update(x_hat, x) == {"psnr": alone.psnr(), "ssim": alone.ssim()}
    first, second = ((x_hat.clamp(-1, 1) - x).double().square().mean() for x_hat in (x + noise, x + 2 * noise))
    assert together.psnr() == pytest.approx(float(10 * torch.log10(4 / ((first + second) / 2))))


def test_values_are_clipped_before_they_are_rated() -> None:
    quality = PictureQuality()
    quality.update(torch.full((3, 12, 12), 1.7), torch.ones(3, 12, 12))
    assert quality.psnr() == math.inf
    assert quality.ssim() == pytest.approx(1)


def test_ssim_of_constant_pictures_has_a_closed_form() -> None:
    a, b, c1 = 0.2, 0.6, (0.01 * 2) ** 2
    quality = PictureQuality()
    quality.update(torch.full((3, 32, 32), a), torch.full((3, 32, 32), b))
    assert quality.ssim() == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-4)


def test_ssim_leaves_out_pictures_smaller_than_its_window() -> None:
    quality = PictureQuality()
    quality.update(torch.zeros(3, 10, 40), torch.zeros(3, 10, 40))
    assert math.isnan(quality.ssim())
    quality.update(scene(20, 20), scene(20, 20))
    assert quality.ssim() == pytest.approx(1)
    without = PictureQuality(rate_structure=False)
    without.update(scene(20, 20), scene(20, 20))
    assert math.isnan(without.ssim())


def test_shapes_of_pictures_are_checked() -> None:
    with pytest.raises(ValueError, match="must both be"):
        PictureQuality().update(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))


def test_block_means() -> None:
    picture = torch.arange(12.0).reshape(1, 3, 4)
    expected = torch.tensor([[2.5, 2.5, 4.5, 4.5], [2.5, 2.5, 4.5, 4.5], [8.5, 8.5, 10.5, 10.5]])
    assert torch.equal(block_means(picture, 2)[0], expected)
    assert torch.equal(block_means(picture, 1), picture)
    assert block_means(picture, 100).unique().item() == 5.5
    with pytest.raises(ValueError, match="size must be positive"):
        block_means(picture, 0)


def test_code_statistics() -> None:
    codes = torch.tensor([[0.0, 1.0, 0.0, -2.0], [0.0, -0.0, 0.0, 3.0], [0.0, 0.0, 0.0, math.nan]])
    statistics = CodeStatistics(4)
    statistics.update(codes)
    assert statistics.usage.tolist() == [0, 1, 0, 3]
    assert statistics.density == pytest.approx(4 / 12)
    assert statistics.atoms_in_use == 2
    statistics.add(torch.tensor([5, 0, 0, 0]), 5)
    assert statistics.n_codes == 8
    assert statistics.density == pytest.approx(9 / 32)


def test_code_statistics_before_any_code_and_of_wrong_codes() -> None:
    assert math.isnan(CodeStatistics(4).density)
    with pytest.raises(ValueError, match=r"codes must be \(..., 4\), got \(2, 5\)"):
        CodeStatistics(4).update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"usage must be \(4,\)"):
        CodeStatistics(4).add(torch.zeros(5), 1)
