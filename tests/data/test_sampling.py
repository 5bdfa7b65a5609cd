from pathlib import Path

import pytest
import torch
from trees import write_pictures

from scvae_fast.data import FixedPictures, TrainingPictures, UnreadableFiles, ZoomedCrop, list_folder
from scvae_fast.data.pictures import PictureError
from scvae_fast.data.sampling import sample_dice
from scvae_fast.data.square_crops import load_centre, load_square
from scvae_fast.errors import UsageError


def stream(root: Path, seed: int = 0, most: int = 100) -> TrainingPictures:
    return TrainingPictures(list_folder(root), ZoomedCrop(8), seed=seed, broken=UnreadableFiles(most))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "tree", [f"{i}.png" for i in range(7)])


def test_a_sample_depends_on_seed_and_number_alone(tree: Path) -> None:
    samples = stream(tree)
    forwards = [samples[number] for number in range(21)]
    backwards = [samples[number] for number in reversed(range(21))][::-1]
    assert all(map(torch.equal, forwards, backwards))
    assert len({tuple(sample.flatten().tolist()) for sample in forwards}) > 14, "each epoch crops anew"
    other = stream(tree, seed=1)
    assert sum(torch.equal(sample, other[number]) for number, sample in enumerate(forwards)) < 7
    assert forwards[0].shape == (3, 8, 8)
    assert all(-1 <= sample.min() < sample.max() <= 1 for sample in forwards)
    with pytest.raises(IndexError, match="must not be negative"):
        samples[-1]


def test_each_epoch_has_every_picture_once_in_an_order_of_its_own(tree: Path) -> None:
    samples = stream(tree)
    orders = [samples.order(epoch).tolist() for epoch in (0, 1, 2, 0)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_broken_files_are_named_once_and_replaced_by_the_next(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = stream(tree)
    order = whole.order(0).tolist()
    for position in (2, 3, 6):
        (tree / f"{order[position]}.png").write_text("no picture")
    samples = stream(tree)
    taken = {0: 0, 1: 1, 2: 4, 3: 4, 4: 4, 5: 5, 6: 0}
    for number, position in taken.items():
        path = whole.pictures.source(order[position])
        assert torch.equal(samples[number], load_square(path, "", ZoomedCrop(8), sample_dice(0, number))), number
    for number in range(7, 21):
        assert samples[number].shape == (3, 8, 8)
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == len(samples.broken) == 3
    assert {error.split(": ")[1] for error in errors} == {str(tree / f"{order[i]}.png") for i in (2, 3, 6)}
    assert all(error.startswith("skipped: ") and error.endswith("not a picture of a known format") for error in errors)


def test_too_many_broken_files_are_an_error(tree: Path) -> None:
    for i in range(3):
        (tree / f"{i}.png").write_bytes(b"")
    enough = stream(tree, most=3)
    assert all(enough[number].shape == (3, 8, 8) for number in range(14))
    too_few = stream(tree, most=2)
    with pytest.raises(
        UsageError, match=r"more files can't be read than most_broken = 2 allows, the last: .*\d\.png: not a pic"
    ):
        [too_few[number] for number in range(7)]


def test_nothing_but_broken_files_is_an_error(tree: Path) -> None:
    for path in tree.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 7 pictures can be read"):
        stream(tree)[0]
    with pytest.raises(UsageError, match="none of the 7 pictures can be read"):
        FixedPictures(list_folder(tree), 8, broken=UnreadableFiles(7))[3]


def test_fixed_pictures_are_the_middles_in_order(tree: Path) -> None:
    files = list_folder(tree)
    (tree / "3.png").write_bytes(b"")
    (tree / "6.png").write_bytes(b"")
    pictures = FixedPictures(files, 8, broken=UnreadableFiles(100))
    expected = [0, 1, 2, 4, 4, 5, 0]
    for index, which in enumerate(expected):
        assert torch.equal(pictures[index], load_centre(tree / f"{which}.png", "", 8))
    assert len(pictures) == 7
    with pytest.raises(IndexError, match="0 … 6, got 7"):
        pictures[7]


def test_damage_of_any_kind_is_a_picture_error(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["x.png", "x.jpg", "x.webp", "x.tiff", "x.bmp", "x.gif"])
    generator = torch.Generator().manual_seed(0)
    names = set()
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(30):
            damaged = bytearray(whole)
            for place in torch.randint(len(whole), (8,), generator=generator).tolist():
                damaged[place] = int(torch.randint(256, (), generator=generator))
            try:
                load_centre(bytes(damaged), path.name, 8)
            except PictureError as error:
                names.add(error.name)
    assert len(names) > 3
