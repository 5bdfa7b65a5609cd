from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import scene
from sklearn.datasets import load_digits
from trees import write_imagenet, write_pictures

from scvae_fast.data import Photograph
from scvae_fast.data.labelled import digits, open_labelled, photograph_patches
from scvae_fast.errors import UsageError


def test_patches_of_the_two_ends_neither_overlap_nor_touch() -> None:
    photographs = [Photograph("wide", scene(40, 60), True), Photograph("tall", scene(70, 33), True)]
    found = photograph_patches(16, photographs=photographs)
    assert (found.classes, found.exchangeable) == (("wide", "tall"), True)
    assert found.parts is not None
    for label, (name, picture, _) in enumerate(photographs):
        taken = torch.full(picture.shape[1:], -1)
        for named in found.pictures:
            if found.labels[named.name] != label:
                continue
            top, left = (int(number) for number in named.name.removeprefix(f"{name}/").split("-"))
            here = (slice(top, top + 16), slice(left, left + 16))
            assert torch.equal(named.picture, picture[(slice(None), *here)])
            assert (taken[here] == -1).all(), "patches overlap"
            taken[here] = found.parts[named.name]
        lengthwise = taken if picture.shape[1] > picture.shape[2] else taken.T
        ends = [(lengthwise == part).any(1).nonzero() for part in (0, 1)]
        assert int(ends[1].min()) - int(ends[0].max()) > 16


def test_patches_are_drawn_by_the_seed() -> None:
    photographs = [Photograph("a", scene(100, 100), True)]

    def names(**options: int) -> list[str]:
        return [named.name for named in photograph_patches(8, photographs=photographs, **options).pictures]

    assert len(names(per_class=5)) == 10
    assert names(per_class=5) == names(per_class=5)
    assert names(per_class=5) != names(per_class=5, seed=1)
    with pytest.raises(UsageError, match=r"patches of 64 x 64 pixels: a, 100 x 100, is too small"):
        photograph_patches(64, photographs=photographs)


def test_embedded_photographs_without_one_of_a_stereo_pair() -> None:
    found = open_labelled("patches", 64, per_class=1)
    assert len(found.classes) == 20
    assert {"motorcycle_left", "astronaut"} <= set(found.classes)
    assert "motorcycle_right" not in found.classes
    assert len(found.labels) == len(list(found.pictures)) == 40


def test_digits_keep_their_levels() -> None:
    levels, kinds = load_digits(return_X_y=True)
    found = digits(8, per_class=2)
    assert sorted(found.labels.values()) == sorted(list(range(10)) * 2)
    for name, picture in found.pictures:
        index = int(name.split("/")[1])
        assert found.labels[name] == kinds[index]
        np.testing.assert_allclose((picture[1].flatten() + 1) * 8, levels[index], atol=1e-5)
    assert len(digits(64).labels) == 1797
    assert next(iter(digits(64).pictures)).picture.shape == (3, 64, 64)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b/x.png", "a/deep/er.png", "a/y.png", "a/z.png"])
    found = open_labelled(tmp_path, 16)
    assert found.labels == {"a/deep/er.png": 0, "a/y.png": 0, "a/z.png": 0, "b/x.png": 1}
    assert (found.classes, found.parts) == (("a", "b"), None)
    for _ in range(2):
        assert [named.name for named in found.pictures] == list(found.labels)
    assert all(named.picture.shape == (3, 16, 16) for named in found.pictures)
    assert sorted(open_labelled(tmp_path, None, per_class=1).labels.values()) == [0, 1]


def test_folders_without_pictures_are_no_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "flat", ["b/x.png", "d/x.png"])
    for name in ("a", "c"):
        (tmp_path / "flat" / name).mkdir()
    found = open_labelled(tmp_path / "flat", 16)
    assert (found.classes, found.labels) == (("b", "d"), {"b/x.png": 0, "d/x.png": 1})
    root = write_pictures(tmp_path / "parts", ["train/b/x.png", "train/c/x.png", "val/c/x.png", "val/d/x.png"])
    (root / "val" / "a").mkdir()
    found = open_labelled(root, 16)
    assert found.classes == ("b", "c", "d")
    assert found.labels == {"train/b/x.png": 0, "train/c/x.png": 1, "val/c/x.png": 1, "val/d/x.png": 2}


def test_imagenets_parts(tmp_path: Path) -> None:
    found = open_labelled(write_imagenet(tmp_path), 16)
    assert found.parts is not None
    assert {name.split("/")[0]: part for name, part in found.parts.items()} == {"train": 0, "val": 1}
    assert [named.name for named in found.pictures] == list(found.labels) == list(found.parts)
    assert found.labels["val/n02/1.JPEG"] == found.labels["train/n02/0.JPEG"] == 1
    assert not found.exchangeable


def test_data_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing: no such folder"):
        open_labelled(tmp_path / "missing", 16)
    with pytest.raises(UsageError, match="no pictures in this folder"):
        open_labelled(tmp_path, 16)
    write_pictures(tmp_path, ["a/x.png", "b/x.png", "y.png"])
    with pytest.raises(UsageError, match=r"a folder for each class, but y\.png lies in none"):
        open_labelled(tmp_path, 16)
