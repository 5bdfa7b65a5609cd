import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import scipy.linalg
import torch
from pictures import scene
from torch import Tensor

from scvae_fast.metrics import inception, weights
from scvae_fast.metrics.inception import FeatureDistances, InceptionFeatures

D = 6


@pytest.fixture
def sets() -> tuple[Tensor, Tensor]:
    """Features (50, D) of two sets with different means and covariances."""
    mixing = torch.randn(2, D, D)
    a, b = torch.randn(2, 50, D) @ mixing
    return a, b + 0.5


def gathered(originals: Tensor, rebuilt: Tensor, pieces: int = 3) -> FeatureDistances:
    distances = FeatureDistances(D)
    for a, b in zip(originals.chunk(pieces), rebuilt.chunk(pieces), strict=True):
        distances.update(a, b)
    return distances


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    mixed = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(mixed))


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate, as sums over all pairs."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / D + 1) ** 3)

    m = len(a)
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(m) for j in range(m) if i != j)
    between = sum(kernel(x, y) for x in a for y in b)
    return within / (m * (m - 1)) - 2 * between / m**2


def test_fid_against_the_matrix_square_root(sets: tuple[Tensor, Tensor]) -> None:
    a, b = (features.double().numpy() for features in sets)
    assert gathered(*sets).fid() == pytest.approx(frechet(a, b), rel=1e-8)


def test_fid_of_a_shift_is_its_square_length_even_far_from_zero() -> None:
    # In float32 the covariance of such features would be nothing but rounding.
    features = 1000 + 0.01 * torch.randn(200, D, dtype=torch.float64)
    shift = torch.linspace(-1e-3, 2e-3, D, dtype=torch.float64)
    assert gathered(features, features + shift).fid() == pytest.approx(float(shift.square().sum()), rel=1e-3)
    assert gathered(features, features).fid() == pytest.approx(0, abs=1e-7)


def test_kid_against_all_pairs(sets: tuple[Tensor, Tensor]) -> None:
    kid = gathered(*sets).kid()
    a, b = (features.double().numpy() for features in sets)
    assert kid.mean == pytest.approx(polynomial_mmd(a, b), rel=1e-10)
    assert kid[1:] == (0.0, 1, 50)


def test_kid_of_more_pictures_than_a_subset_has(sets: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "KID_SUBSET_SIZE", 20)
    before = torch.get_rng_state()
    kid = gathered(*sets).kid()
    assert torch.equal(torch.get_rng_state(), before)
    assert gathered(*sets, pieces=1).kid() == kid != gathered(*sets).kid(seed=1)
    assert kid[2:] == (100, 20)
    everything = polynomial_mmd(*(features.double().numpy() for features in sets))
    assert abs(kid.mean - everything) < 4 * kid.std / 10  # the standard error of a mean of 100


def test_either_alone_and_too_few_pictures(sets: tuple[Tensor, Tensor]) -> None:
    for which in ("fid", "kid"):
        alone = FeatureDistances(D, [which])
        alone.update(*sets)
        assert getattr(alone, which)() == getattr(gathered(*sets, pieces=1), which)()
        single = FeatureDistances(D, [which])
        single.update(sets[0][:1], sets[1][:1])
        with pytest.raises(weights.UnavailableError, match="needs at least two pictures, got 1"):
            getattr(single, which)()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.save_inception(tmp_path_factory.mktemp("weights"))


@pytest.mark.slow
def test_features_are_those_that_torchmetrics_computes_without_antialiasing(file: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    reference = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file), antialias=False)
    pictures = torch.stack([scene(40, 30, seed=seed) for seed in range(2)])
    levels = torch.from_numpy(np.round((pictures.numpy() + 1) * 127.5).astype(np.uint8))
    features = InceptionFeatures(file)(3 * pictures)  # clipped
    assert not torch.equal(features, InceptionFeatures(file)(pictures))
    features = InceptionFeatures(file)(pictures)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, reference(levels))
    assert (features[0] - features[1]).abs().max() > 0.01


def test_files_that_hold_other_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(weights.UnavailableError, match=r"other.pth holds no weights of Inception v3: .*Missing.* …$"):
        InceptionFeatures(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(weights.UnavailableError, match=r"text.pth can't be read as weights"):
        InceptionFeatures(tmp_path / "text.pth")


def test_without_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(weights.UnavailableError, match=r'torch-fidelity: pip install "scvae_fast\[train\]"'):
        InceptionFeatures(tmp_path / "any.pth")
