import math

import numpy as np
import pytest
import torch
from pictures import scene
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from scvae_fast.metrics import PictureQuality


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.stack([scene(40, 52, seed=seed) for seed in range(5)])
    return (x + 0.1 * torch.randn_like(x)).clamp(-1, 1), x


def test_against_scikit_image(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    each = PictureQuality().update_batch(*batch)
    for i, (x_hat, x) in enumerate(zip(*batch, strict=True)):
        psnr = peak_signal_noise_ratio(x.double().numpy(), x_hat.double().numpy(), data_range=2)
        ssim = structural_similarity(
            # scikit-image leaves out what five pixels along the edges make of it; torchmetrics reflects pictures there.
            np.pad(x.double().numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect"),
            np.pad(x_hat.double().numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect"),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            channel_axis=0,
        )
        assert float(each["psnr"][i]) == pytest.approx(psnr, rel=1e-6)  # torchmetrics takes its logarithms in float32
        assert float(each["ssim"][i]) == pytest.approx(ssim, abs=1e-5)


def test_pooled_and_mean_figures_by_the_formula(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    quality = PictureQuality()
    each = quality.update_batch(*batch)
    error = (batch[0].double() - batch[1].double()).square()
    assert quality.psnr() == pytest.approx(10 * math.log10(4 / float(error.mean())))
    own = [10 * math.log10(4 / float(one.mean())) for one in error]
    assert quality.mean_psnr() == pytest.approx(np.mean(own))
    assert quality.ssim() == pytest.approx(float(each["ssim"].mean()))
    assert (quality.n_pictures, quality.n_structures) == (5, 5)


def test_a_batch_is_its_pictures_one_by_one(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    together, single = PictureQuality(), PictureQuality()
    each = together.update_batch(*batch)
    for i, (x_hat, x) in enumerate(zip(*batch, strict=True)):
        alone = single.update(x_hat, x)
        assert alone["psnr"] == pytest.approx(float(each["psnr"][i]))
        assert alone["ssim"] == pytest.approx(float(each["ssim"][i]), abs=1e-6)
    assert together.psnr() == pytest.approx(single.psnr())
    assert together.mean_psnr() == pytest.approx(single.mean_psnr())
    assert together.ssim() == pytest.approx(single.ssim(), abs=1e-6)


def test_large_batches_are_cut_up(batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PictureQuality().update_batch(*batch)["ssim"]
    monkeypatch.setattr("scvae_fast.metrics._pieces._MOST_PIXELS", 2 * 40 * 52)
    torch.testing.assert_close(PictureQuality().update_batch(*batch)["ssim"], whole, atol=1e-6, rtol=0)
    monkeypatch.setattr("scvae_fast.metrics._pieces._MOST_PIXELS", 1)
    torch.testing.assert_close(PictureQuality().update_batch(*batch)["ssim"], whole, atol=1e-6, rtol=0)


def test_before_any_picture_and_of_wrong_ones() -> None:
    assert math.isnan(PictureQuality().mean_psnr())
    with pytest.raises(ValueError, match=r"must both be \(B, 3, H, W\)"):
        PictureQuality().update_batch(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))


def test_small_errors_count_beside_large_ones() -> None:
    # Each of the small ones is less than half a unit of the last place of a float32 that holds the sum.
    quality, large, small = PictureQuality(rate_structure=False), torch.ones(3, 512, 512), torch.zeros(3, 8, 8)
    quality.update(-large, large)
    for _ in range(500):
        quality.update(small + 0.02, small)
    values = 3 * 512 * 512 + 500 * 3 * 8 * 8
    total = 4 * 3 * 512 * 512 + 500 * 3 * 8 * 8 * 0.02**2
    assert quality.psnr() == pytest.approx(10 * math.log10(4 * values / total), abs=1e-6)
