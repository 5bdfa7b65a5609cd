import pytest
import torch
from pictures import photographs, scene

from scvae_fast.data import CropSettings, Photograph, RandomCrops

PLAIN = CropSettings(
    size=16, zoom_in=1.0, zoom_out=1.0, recolour=0, permute=0, negative=0, gamma=0, contrast=(1, 1), brightness=0
)


def test_a_crop_depends_on_seed_and_index_alone() -> None:
    crops, again = (RandomCrops(photographs(), CropSettings(size=16), seed=3) for _ in range(2))
    forward = [crops[i] for i in range(6)]
    backward = [again[i] for i in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not torch.equal(forward[0], forward[1])
    assert not torch.equal(forward[0], RandomCrops(photographs(), CropSettings(size=16), seed=4)[0])


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    RandomCrops(photographs(), CropSettings(size=16))[5]
    assert torch.equal(torch.get_rng_state(), state)


def test_crops_have_size_and_range() -> None:
    crops = RandomCrops(photographs(), CropSettings(size=24))
    for i in range(40):
        assert crops[i].shape == (3, 24, 24)
        assert -1 <= crops[i].min() <= crops[i].max() <= 1


def test_without_augmentation_a_crop_is_a_part_of_its_photograph_in_one_of_eight_positions() -> None:
    picture = scene(20, 30)
    crops = RandomCrops([Photograph("waves", picture, True)], PLAIN)
    windows = picture.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)  # (positions, 3, 16, 16)
    for i in range(10):
        positions = [turned for crop in (crops[i], crops[i].transpose(1, 2)) for turned in _flips(crop)]
        distance = min(float((windows - crop).abs().amax((1, 2, 3)).min()) for crop in positions)
        assert distance < 1e-3


def _flips(crop: torch.Tensor) -> list[torch.Tensor]:
    return [crop, crop.flip(1), crop.flip(2), crop.flip(1, 2)]


def test_a_photograph_smaller_than_a_crop_is_enlarged() -> None:
    crops = RandomCrops([Photograph("small", scene(8, 9), True)], CropSettings(size=32))
    assert crops[0].shape == (3, 32, 32)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        RandomCrops([], CropSettings())
    with pytest.raises(ValueError, match="small must be at least 8 x 8"):
        RandomCrops([Photograph("small", scene(7, 30), True)], CropSettings())
    with pytest.raises(IndexError, match="index must be in 0 … 9, got 10"):
        RandomCrops(photographs(), CropSettings(), length=10)[10]
