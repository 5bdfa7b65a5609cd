import io
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trees import crops, flat, write_shard

from scvae_fast.data import FixedBatches, StreamBatches, UnreadableFiles, ZoomedCrop, picture_loader
from scvae_fast.data import shards as shards_module
from scvae_fast.data.pictures import PictureError
from scvae_fast.data.sampling import sample_dice
from scvae_fast.data.shards import (
    RawPicture,
    ShardPictures,
    ShardsInOrder,
    count_pictures,
    expand_shards,
    raw_pictures,
)
from scvae_fast.data.square_crops import load_square
from scvae_fast.errors import UsageError


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Four of them, with the samples 0 … 19."""
    for index, (first, count) in enumerate([(0, 5), (5, 5), (10, 6), (16, 4)]):
        write_shard(tmp_path / f"train-{index:03}.tar", first, count)
    return expand_shards(str(tmp_path / "train-{000..003}.tar"))


def fail(error: PictureError) -> None:
    raise AssertionError(error)


def members(urls: list[str]) -> list[str]:
    return [raw.member for url in urls for raw in raw_pictures(url, fail)]


class Numbered(ShardPictures):
    """Samples are the numbers that their names say, not decoded."""

    def _loader(self, number: int):  # type: ignore[no-untyped-def]
        def load(raw: RawPicture) -> Tensor:
            if len(raw.data) < 100:
                raise PictureError(raw.name, "damaged")
            return torch.tensor(int(raw.member[:4]))

        return load


def stream(urls: list[str], kind: type[ShardPictures] = Numbered, most: int = 100, **others: int) -> ShardPictures:
    settings = {"samples": 20, "seed": 0, "batch_size": 2, "buffer": 4, **others}
    return kind(urls, ZoomedCrop(8), broken=UnreadableFiles(most), **settings)


def batches(data: ShardPictures, count: int, first: int = 0, workers: int = 0) -> list[list[int]]:
    sampler = StreamBatches(
        data.samples, data.batch_size, rank=data.rank, world_size=data.world_size, first=lambda: first
    )
    loader = picture_loader(data, sampler, num_workers=workers)
    return [batch.tolist() for _, batch in zip(range(count), loader, strict=False)]


def test_patterns_lists_folders_and_pipes(tmp_path: Path, shards: list[str]) -> None:
    assert shards == [str(tmp_path / f"train-00{index}.tar") for index in range(4)]
    assert expand_shards(str(tmp_path)) == shards
    assert expand_shards([shards[1], str(tmp_path / "train-00{2,3}.tar")]) == shards[1:]
    assert expand_shards("pipe:cat x-{0..1}.tar") == ["pipe:cat x-0.tar", "pipe:cat x-1.tar"]
    with pytest.raises(UsageError, match=r"train-004\.tar: no such shard"):
        expand_shards(str(tmp_path / "train-00{3..4}.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no tar shards in this folder"):
        expand_shards(str(tmp_path / "empty"))


def test_pictures_are_counted_as_they_are_read(tmp_path: Path, shards: list[str]) -> None:
    assert members(shards) == [f"{number:04}.png" for number in range(20)]
    assert count_pictures(shards) == 20
    assert count_pictures([*shards, f"pipe:cat {shards[0]}"]) is None
    with tarfile.open(tmp_path / "odd.tar.gz", "w:gz") as tar:
        names = ["b/x.txt", "b/x.seg.png", "b/x.jpg", "a.json", "._a.png", "none", "c.d/y.JPEG", "__meta__/z.png"]
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert members([str(tmp_path / "odd.tar.gz")]) == ["b/x.seg.png", "c.d/y.JPEG"], "one of each sample"
    assert count_pictures([str(tmp_path / "odd.tar.gz")]) == 2


def archive(path: Path, names: list[str], **members: int) -> str:
    """A tar file with empty members of these names, or members whose declared bytes are missing."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        for name, size in members.items():
            member = tarfile.TarInfo(f"{name}.png")
            member.size = size
            header = member.tobuf(tar.format, tar.encoding, tar.errors)
            tar.fileobj.write(header)  # `addfile` may ask for the bytes
            tar.offset += len(header)
    return str(path)


def test_names_with_dots_are_pictures_of_their_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    days = [f"2023.05.{day:02}.jpg" for day in (1, 2, 3)]
    days_only = archive(tmp_path / "days.tar", days)
    assert members([days_only]) == days
    assert count_pictures([days_only]) == 3
    assert capfd.readouterr().err == ""
    mixed = archive(tmp_path / "mixed.tar", [*days, "x.jpg", "x.seg.png", "x.depth.PNG", "y.png"])
    assert members([mixed]) == [*days, "x.jpg", "y.png"]
    assert count_pictures([days_only, mixed]) == 8
    told = "2 pictures in shards are left out: only the first picture of each sample is used, which excludes x.seg.png"
    assert capfd.readouterr().err == f"{told}\n"
    shards_module._tell.cache_clear()
    assert len(members([f"pipe:cat {mixed}"] * 2)) == 10
    assert capfd.readouterr().err.count("x.seg.png") == 1


def test_a_member_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "0.001")
    path = archive(tmp_path / "bomb.tar", ["a.png"], b=10**15)
    told: list[PictureError] = []
    assert [raw.member for raw in raw_pictures(path, told.append)] == ["a.png"]
    assert "this shard can't be read to its end: b.png has 1,000,000,000,000,000 bytes, at most 16,000" in str(told[0])
    assert "SCVAE_FAST_MAX_MEGAPIXELS raises that" in str(told[0])
    assert count_pictures([path]) == 1


@pytest.mark.parametrize("name", ["pipe:touch HERE;.tar", "http:x.tar", "x{0..1}.tar"])
def test_a_name_found_in_a_folder_is_never_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "whole.tar", 0, 2).rename(tmp_path / name)
    for named in (".", str(tmp_path), name):
        urls = expand_shards(named)
        assert members(urls) == ["0000.png", "0001.png"]
        assert count_pictures(urls) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pipes_give_what_files_give(shards: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    pipes = [f"pipe:cat {url}" for url in shards]
    assert members(pipes) == members(shards)
    assert batches(stream(pipes), 10) == batches(stream(shards), 10)
    next(raw_pictures(pipes[0], fail))  # and the command is cut off
    broken = UnreadableFiles(5)
    assert len(list(raw_pictures(f"pipe:cat {shards[0]}; exit 3", broken.add))) == 5
    assert not list(raw_pictures("pipe:false", broken.add))
    assert not list(raw_pictures("/no/such.tar", broken.add))
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == len(broken) == 3
    assert errors[0].endswith("this shard can't be read to its end: the command ended with status 3")


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(shards: list[str]) -> None:
    taken = batches(stream(shards), 30)
    epochs = [[number for batch in taken[begin : begin + 10] for number in batch] for begin in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sum(abs(a - b) != 1 for a, b in pairwise(epoch)) > 8 for epoch in epochs), "mixed"
    assert batches(stream(shards, buffer=1), 10) != taken[:10]
    assert batches(stream(shards, seed=1), 10) != taken[:10]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_its_number(shards: list[str], workers: int) -> None:
    streams = max(workers, 1)
    whole = batches(stream(shards, streams=streams), 25, workers=workers)
    assert whole == batches(stream(shards, streams=streams), 25), "whoever reads the streams"
    for first in range(25):
        rest = batches(
            stream(shards, streams=streams), 25 - first, first=2 * first, workers=workers if first == 7 else 0
        )
        assert rest == whole[first:], first


@pytest.mark.parametrize(("world_size", "streams"), [(2, 2), (3, 2)])
def test_streams_share_the_samples_out(shards: list[str], world_size: int, streams: int) -> None:
    """By shards if there are enough of them, otherwise by samples."""
    per_epoch = 20 // world_size
    taken = [
        batches(stream(shards, rank=rank, world_size=world_size, streams=streams, batch_size=1), 5 * per_epoch)
        for rank in range(world_size)
    ]
    for epoch in range(5):
        firsts = flat(flat(part[epoch * per_epoch :][:streams]) for part in taken)
        assert len(set(firsts)) == world_size * streams, "each stream has something else"
    assert set(flat(map(flat, taken))) == set(range(20))


def test_another_size_of_batches_goes_on_at_the_same_place(shards: list[str]) -> None:
    one = flat(batches(stream(shards), 10))
    assert flat(batches(stream(shards, batch_size=4), 3, first=8)) == one[8:]


def test_samples_are_cropped_by_seed_and_number(shards: list[str]) -> None:
    [first, second] = [stream(shards, ShardPictures).__getitems__([20 + i, 21 + i]) for i in (0, 0)]
    assert all(map(torch.equal, first, second))
    assert first[0].shape == (3, 8, 8)
    numbers = stream(shards).__getitems__([20, 21])
    pictures = dict(enumerate(image for _, image in zip(range(20), crops(), strict=False)))
    content = io.BytesIO()
    pictures[int(numbers[1])].save(content, "png")
    assert torch.equal(first[1], load_square(content.getvalue(), "", ZoomedCrop(8), sample_dice(0, 21)))


def test_broken_members_are_replaced_without_shifting_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = [str(write_shard(tmp_path / "whole.tar", 0, 12))]
    damaged = [str(write_shard(tmp_path / "damaged.tar", 0, 12, broken=[3, 4, 11]))]
    order = flat(batches(stream(whole, samples=12), 6))
    taken = flat(batches(stream(damaged, samples=12), 6))
    places = [place for place, number in enumerate(order) if number in (3, 4, 11)]
    for place in range(12):
        if place not in places:
            assert taken[place] == order[place]
        elif place + 1 not in places and place < 11:
            assert taken[place] == order[place + 1]
    data = stream(damaged, samples=12)
    for first in range(0, 24, 2):
        assert batches(stream(damaged, samples=12), 3, first=first) == batches(data, 3, first=first)
    errors = set(capfd.readouterr().err.splitlines())
    assert errors == {f"skipped: {n:04}.png in {damaged[0]}: damaged" for n in (3, 4, 11)}
    with pytest.raises(UsageError, match="more files can't be read than most_broken = 2 allows"):
        batches(stream(damaged, samples=12, most=2), 6)


def test_a_shard_that_is_cut_short_gives_what_is_whole(tmp_path: Path, shards: list[str]) -> None:
    content = Path(shards[0]).read_bytes()
    Path(shards[0]).write_bytes(content[: len(content) // 2])
    Path(shards[1]).write_bytes(b"")
    broken = UnreadableFiles(10)
    readable = [raw.member for url in shards for raw in raw_pictures(url, broken.add)]
    assert len(broken) == 2
    assert readable[-10:] == [f"{number:04}.png" for number in range(10, 20)]
    assert 10 < len(readable) < 15
    # Two streams of two shards each: one of them may have damaged shards only.
    data = stream(shards, streams=2)
    assert set(flat(batches(data, 60))) == {int(name[:4]) for name in readable}


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    empty = str(write_shard(tmp_path / "empty.tar", 0, 0))
    with pytest.raises(UsageError, match="there are no pictures in"):
        batches(stream([empty], samples=4), 1)
    with pytest.raises(UsageError, match="there are no pictures in"):
        list(picture_loader(ShardsInOrder([empty], 8, samples=2, broken=UnreadableFiles(1)), FixedBatches(2, 2)))
    damaged = [str(write_shard(tmp_path / "damaged.tar", 0, 3, broken=range(3)))]
    with pytest.raises(UsageError, match="none of the 3 pictures can be read"):
        batches(stream(damaged, samples=3), 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_reads_each_picture_once_and_in_order(shards: list[str], workers: int) -> None:
    data = ShardsInOrder(shards, 8, samples=20, broken=UnreadableFiles(0))
    alone = picture_loader(data, FixedBatches(20, 3), num_workers=workers)
    pictures = [torch.cat(list(alone)) for _ in range(2)]
    assert torch.equal(*pictures)
    assert len(pictures[0]) == 20
    third = picture_loader(data, FixedBatches(20, 2, rank=2, world_size=3))
    assert torch.equal(torch.cat(list(third)), pictures[0][2:18:3])


def test_shards_that_can_not_be_opened_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    broken = UnreadableFiles(1)
    assert not list(raw_pictures("nothing://opens/this.tar", broken.add))
    assert capfd.readouterr().err.startswith("skipped: nothing://opens/this.tar: can't be opened: ")
