import math
import sys
from pathlib import Path

import networks
import pytest
import torch
import torch.nn.functional as F
from pictures import scene
from torch import Tensor

from scvae_fast import _torchvision
from scvae_fast.metrics import weights
from scvae_fast.metrics.perceptual import LEAST_SIDE, PerceptualDistance, heads


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {net: networks.save_backbone(folder, net) for net in ("alex", "vgg")}


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    x = torch.stack([scene(34, 40, seed=seed) for seed in range(3)])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + 0.2 * noise).clamp(-1, 1), x


def by_hand(net: str, x_hat: Tensor, x: Tensor) -> Tensor:
    """LPIPS, written from the paper: (B, 3, H, W) twice -> (B,)."""
    state, linear = networks.random_features(net), torch.load(heads(net).path, "cpu")  # type: ignore[arg-type]
    # The five features are those before each pooling and, of AlexNet, after each of the last convolutions.
    layers = networks.ALEXNET if net == "alex" else networks.vgg16()
    taken = {0, 3, 6, 8, 10} if net == "alex" else {2, 7, 14, 21, 28}
    pooled = {0, 3} if net == "alex" else {2, 7, 14, 21}
    both = []
    for picture in (x_hat, x):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        h, features = (picture - shift[:, None, None]) / scale[:, None, None], []
        for number, _, stride, padding in layers:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            h = F.conv2d(h, weight, bias, stride, padding).relu()
            if number in taken:
                features.append(h / h.square().sum(1, keepdim=True).sqrt())
            if number in pooled:
                h = F.max_pool2d(h, 3, 2) if net == "alex" else F.max_pool2d(h, 2)
        both.append(features)
    total = torch.zeros(len(x))
    for i, (a, b) in enumerate(zip(*both, strict=True)):
        total += ((a - b).square() * linear[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_against_the_formula(net: str, backbones: dict[str, Path], batch: tuple[Tensor, Tensor]) -> None:
    distance = PerceptualDistance(net, backbones[net])  # type: ignore[arg-type]
    expected = by_hand(net, *batch)
    distances = distance.update(*batch)
    torch.testing.assert_close(distances, expected.double(), rtol=1e-4, atol=0)
    assert distance.mean == pytest.approx(float(expected.mean()), rel=1e-4)
    assert expected.min() > 0.01

    small = scene(LEAST_SIDE[net], LEAST_SIDE[net])[None]
    assert float(distance.update(small, small)) == 0
    assert distance.update(small[:, :, 1:], small[:, :, 1:]) is None
    assert distance.rated == 4
    outside = distance.update(5 * small, small)
    torch.testing.assert_close(outside, distance.update((5 * small).clamp(-1, 1), small))


def test_it_is_what_lpips_makes_with_the_same_weights(
    backbones: dict[str, Path], batch: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _torchvision.make_importable()
    import lpips
    import torchvision

    with torch.device("meta"):
        names = torchvision.models.alexnet().state_dict()
    # The classifier is not used: a single number in the file stands for each of its matrices.
    blank = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in names.items()}
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(blank | networks.random_features("alex"), checkpoints / weights.ALEXNET.name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="deprecated"):
        usual = lpips.LPIPS(net="alex", verbose=False)
    distance = PerceptualDistance("alex", backbones["alex"])
    with torch.no_grad():
        assert torch.equal(distance.update(*batch), usual(*batch).flatten().double())
    assert PerceptualDistance("alex", checkpoints / weights.ALEXNET.name).update(*batch) is not None


def test_before_any_picture(backbones: dict[str, Path]) -> None:
    assert math.isnan(PerceptualDistance("alex", backbones["alex"]).mean)


def test_weights_of_another_network(backbones: dict[str, Path], tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "few.pth")
    with pytest.raises(weights.UnavailableError, match=r"few.pth lacks features.0.bias and 8 more"):
        PerceptualDistance("alex", tmp_path / "few.pth")
    state = networks.random_features("alex") | {"features.0.bias": torch.zeros(5)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(weights.UnavailableError, match=r"other.pth holds no weights for LPIPS \(alex\)"):
        PerceptualDistance("alex", tmp_path / "other.pth")


def test_without_lpips(backbones: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(weights.UnavailableError, match=r'pip install "scvae_fast\[lpips\]"'):
        PerceptualDistance("alex", backbones["alex"])
