import math
from dataclasses import replace
from pathlib import Path

import networks
import pytest
import torch
from pictures import TINY, scene
from torch import Tensor

from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.dictionaries import coherence
from scvae_fast.errors import UsageError
from scvae_fast.evaluation import METRICS, EvaluationSettings, evaluate
from scvae_fast.metrics import CodeSparsity, CodeStatistics, PictureQuality, block_means
from scvae_fast.metrics.perceptual import PerceptualDistance
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

WITHOUT_WEIGHTS = ("psnr", "ssim", "codes", "block-means")
# TINY has a stride of 2; a stride of 4 leaves blocks of 4 and of 2 pixels.
DEEPER = replace(TINY, ch_mult=(1, 2, 2))


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def pictures() -> list[NamedPicture]:
    sizes = [(16, 16)] * 6 + [(33, 40), (8, 16)]
    return [NamedPicture(str(i), scene(*size, seed=i)) for i, size in enumerate(sizes)]


def settings(*metrics: str, **changes: object) -> EvaluationSettings:
    return EvaluationSettings(metrics=metrics or WITHOUT_WEIGHTS, **changes)  # type: ignore[arg-type]


def test_figures_are_those_of_the_pictures_one_by_one(pictures: list[NamedPicture]) -> None:
    model = SCVAE(DEEPER).eval()
    found = evaluate(model, pictures, settings(batch_size=4))
    quality, means = PictureQuality(), PictureQuality()
    usage, sparsity = CodeStatistics(24), CodeSparsity(24)

    def take(codes: Tensor) -> None:
        usage.update(codes)
        sparsity.update(codes)

    for _, x in pictures:
        if x.shape[1] <= 16:
            with torch.no_grad():
                output = model(x[None])
            take(output.codes)
            x_hat = output.x_hat[0]
        else:
            x_hat = reconstruct_tiled(model, x, on_codes=take).x_hat
        quality.update(x_hat, x)
        means.update(block_means(x, 4), x)
    figures = found.figures
    assert (found.n_pictures, found.n_tiled) == (8, 1)
    assert figures["psnr"] == {
        "pooled": pytest.approx(quality.psnr()),
        "mean": pytest.approx(quality.mean_psnr()),
        "n": 8,
    }
    assert figures["ssim"]["mean"] == pytest.approx(quality.ssim(), abs=1e-5)
    assert figures["ssim"]["n"] == 7
    assert figures["ssim"]["warnings"] == ["left out, for sides under 11 pixels: 1 of 8 pictures"]
    assert figures["block-means"].keys() == {"4x4", "2x2", "n"}
    assert figures["block-means"]["4x4"]["psnr"] == pytest.approx(means.psnr())
    assert figures["codes"] == {
        "density": pytest.approx(usage.density),
        "hoyer": pytest.approx(sparsity.hoyer, abs=1e-6),
        "hoyer_of_all": pytest.approx(sparsity.hoyer_of_all, abs=1e-6),
        "atoms": 24,
        "atoms_in_use": usage.atoms_in_use,
        "dead_atoms": 24 - usage.atoms_in_use,
        "usage_entropy": pytest.approx(usage.usage_entropy),
        "usage_perplexity": pytest.approx(usage.usage_perplexity),
        "coherence": coherence(model.bottleneck.dictionary),
        "bits_per_picture": pytest.approx(sparsity.bits / 8),
        "bits_per_pixel": pytest.approx(sparsity.bits / (6 * 256 + 33 * 40 + 8 * 16)),
        "value_bits": 16,
        "codes": 6 * 16 + 9 * 10 + 8,
        "zero_codes": sparsity.zero_codes,
        "n": 8,
    }


def test_lpips_of_the_pictures_that_are_large_enough(pictures: list[NamedPicture], tmp_path: Path) -> None:
    backbone = networks.save_backbone(tmp_path, "alex")
    model = SCVAE(TINY).eval()
    found = evaluate(model, pictures, settings("lpips-alex", weights=tmp_path))
    x = pictures[6].picture
    alone = PerceptualDistance("alex", backbone)
    alone.update(reconstruct_tiled(model, x).x_hat[None], x[None])
    figures = found.figures["lpips-alex"]
    assert figures["mean"] == pytest.approx(alone.mean)
    assert figures["n"] == 1
    assert figures["warnings"][0] == "left out, for sides under 31 pixels: 7 of 8 pictures"
    assert figures["warnings"][1].startswith(f"{backbone} is not the published file")
    assert [file.path.name for file in found.weights["lpips-alex"]] == [backbone.name, "alex.pth"]
    assert found.figures.keys() == {"lpips-alex"}

    found = evaluate(model, pictures[:6], settings("lpips-alex", weights=tmp_path))
    assert found.unavailable == {"lpips-alex": "needs pictures of at least 31 x 31 pixels, and there are none"}


def test_without_weights_the_others_are_computed(pictures: list[NamedPicture], tmp_path: Path) -> None:
    warnings: list[str] = []
    found = evaluate(SCVAE(TINY), pictures, EvaluationSettings(), warn=warnings.append)
    missing = ["lpips-alex", "lpips-vgg", "fid", "kid"]
    # A stride of 2 leaves blocks of 2 x 2 alone.
    assert found.figures.keys() == set(METRICS) - set(missing)
    assert list(found.unavailable) == missing
    assert len(warnings) == 4
    for metric, warning in zip(missing, warnings, strict=True):
        assert warning.startswith(f"{metric} is unavailable: needs the weights of ")
        assert str(tmp_path / "home" / "hub" / "checkpoints") in warning
    assert not found.weights


def test_only_requested_metrics_are_computed(pictures: list[NamedPicture]) -> None:
    found = evaluate(SCVAE(TINY), pictures, settings("codes", limit=3))
    assert found.figures.keys() == {"codes"}
    assert found.n_pictures == 3
    assert len(found.extremes.best) == 3


def test_codes_that_are_all_zero(pictures: list[NamedPicture]) -> None:
    found = evaluate(SCVAE(replace(TINY, lmbda=1e6)), pictures, settings("codes"))
    codes = found.figures["codes"]
    assert codes["density"] == 0
    assert codes["dead_atoms"] == 24
    assert math.isnan(codes["hoyer"])
    assert codes["bits_per_picture"] == pytest.approx(codes["codes"] / 8 * math.log2(25))


def test_a_model_without_blocks(pictures: list[NamedPicture]) -> None:
    found = evaluate(SCVAE(replace(TINY, ch_mult=(1,))), pictures[:2], settings())
    assert found.unavailable.keys() == {"block-means"}


def test_a_model_of_another_dtype_is_run_in_float32(pictures: list[NamedPicture]) -> None:
    model = SCVAE(TINY)
    expected = evaluate(model, pictures, settings()).figures
    assert evaluate(model.double(), pictures, settings()).figures == expected


def test_inputs_that_can_not_be_evaluated() -> None:
    with pytest.raises(UsageError, match="there are no pictures"):
        evaluate(SCVAE(TINY), [], settings())
    with pytest.raises(UsageError, match="must be for pictures with 3 channels, it has 1"):
        evaluate(SCVAE(replace(TINY, in_channels=1)), [], settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("psnr", "beauty")}, "metrics must be names out of psnr, .*beauty"),
        ({"metrics": ()}, "metrics must be names"),
        ({"limit": 0}, "limit must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"value_bits": -1}, "value_bits must be a number, 0 or more"),
        ({"extremes": -1}, "extremes must be 0 or more"),
        ({"device": "tpu"}, "device must be cpu, or a cuda device of this machine, got 'tpu'"),
        ({"device": "cuda:99"}, "device must be cpu"),
        ({"device": "meta"}, "device must be cpu"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"EvaluationSettings: {message}"):
        EvaluationSettings(**changes)  # type: ignore[arg-type]
    assert EvaluationSettings().speed == SpeedSettings()
