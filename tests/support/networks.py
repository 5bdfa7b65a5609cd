"""Random weights for the networks that metrics use, under the names of the published files."""

from pathlib import Path

import torch
from torch import Tensor, nn

from scvae_fast import _torchvision
from scvae_fast.metrics import weights

# Layers of torchvision's `features`: the number, (channels out, channels in, kernel), stride, padding.
ALEXNET = (
    (0, (64, 3, 11), 4, 2),
    (3, (192, 64, 5), 1, 2),
    (6, (384, 192, 3), 1, 1),
    (8, (256, 384, 3), 1, 1),
    (10, (256, 256, 3), 1, 1),
)
_VGG_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


def vgg16() -> list[tuple[int, tuple[int, int, int], int, int]]:
    """As `ALEXNET`; each convolution is followed by a ReLU, and a pooling is a layer too."""
    layers, number, width = [], 0, 3
    for wider in _VGG_WIDTHS:
        if isinstance(wider, int):
            layers.append((number, (wider, width, 3), 1, 1))
            number, width = number + 2, wider
        else:
            number += 1
    return layers


def random_features(net: str) -> dict[str, Tensor]:
    """A state dict with the convolutions of torchvision's AlexNet or VGG-16."""
    generator, state = torch.Generator().manual_seed(3), {}
    for number, (out, into, side), _, _ in ALEXNET if net == "alex" else vgg16():
        weight = torch.randn(out, into, side, side, generator=generator)
        state[f"features.{number}.weight"] = weight * (2 / (into * side * side)) ** 0.5
        state[f"features.{number}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


def save_backbone(folder: Path, net: str) -> Path:
    """Write random weights for LPIPS."""
    path = folder / (weights.ALEXNET if net == "alex" else weights.VGG16).name
    torch.save(random_features(net), path)
    return path


def save_inception(folder: Path) -> Path:
    """Write random weights of Inception v3; its features are about as large as those of the real one."""
    _torchvision.make_importable()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **options: object) -> None:
            """Keeps the initialisation."""

    path = folder / weights.INCEPTION.name
    torch.save({}, path)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path
