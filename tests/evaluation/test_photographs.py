import pytest
import torch
from pictures import TINY, photographs

from scvae_fast.evaluation.photographs import evaluate
from scvae_fast.metrics import PictureQuality, block_means
from scvae_fast.models import SCVAE


def test_figures_belong_to_the_pictures_rebuilt() -> None:
    model, seen = SCVAE(TINY).eval(), photographs()
    evaluation = evaluate(model, seen)
    quality, means = PictureQuality(), PictureQuality()
    for photograph, result in zip(seen, evaluation.rebuilt, strict=True):
        quality.update(result.x_hat, photograph.picture)
        means.update(block_means(photograph.picture, 8), photograph.picture)
    figures = evaluation.figures
    assert figures["psnr"] == quality.psnr()
    assert figures["ssim"] == quality.ssim()
    assert figures["block_means"]["8x8"]["psnr"] == means.psnr()
    entries = sum(result.active.numel() for result in evaluation.rebuilt) * TINY.n_atoms
    active = sum(int(result.active.sum()) for result in evaluation.rebuilt)
    assert figures["density"] == pytest.approx(active / entries)
    assert torch.equal(evaluation.usage, sum(result.usage for result in evaluation.rebuilt))
    assert list(figures["pictures"]) == ["waves", "grey"]
