from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from trees import flat, write_pictures

from scvae_fast.data import (
    FixedBatches,
    FixedPictures,
    StreamBatches,
    TrainingPictures,
    UnreadableFiles,
    ZoomedCrop,
    list_folder,
    picture_loader,
)
from scvae_fast.errors import UsageError


class Numbers(Dataset[Tensor]):
    """A sample is its number."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.tensor(number)


def first(loader: object, count: int) -> list[list[int]]:
    return [batch.tolist() for _, batch in zip(range(count), loader, strict=False)]  # type: ignore[call-overload]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("begin", [0, 5])
def test_several_processes_see_together_what_one_sees(world_size: int, begin: int) -> None:
    def batches(size: int, rank: int, world: int) -> list[list[int]]:
        sampler = StreamBatches(100, size, rank=rank, world_size=world, first=lambda: begin)
        return [batch for _, batch in zip(range(4), sampler, strict=False)]

    alone = batches(4 * world_size, 0, 1)
    parts = [batches(4, rank, world_size) for rank in range(world_size)]
    for step in range(4):
        shares = [parts[rank][step] for rank in range(world_size)]
        assert sorted(flat(shares)) == alone[step] == list(range(alone[step][0], alone[step][0] + 4 * world_size))
        assert all(len(share) == 4 for share in shares)
    assert alone[0][0] == begin


def test_epochs_have_whole_batches() -> None:
    assert [len(StreamBatches(n, 4, world_size=2)) for n in (1, 8, 15, 16)] == [1, 1, 1, 2]


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_fixed_batches_hold_each_index_once(count: int) -> None:
    batches = list(FixedBatches(count, 4))
    assert flat(batches) == list(range(count))
    assert len(batches) == len(FixedBatches(count, 4)) == -(-count // 4)
    shares = [FixedBatches(count, 2, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(flat(map(flat, shares))) == list(range(count // 3 * 3))
    assert len({len(share) for share in shares}) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_it_stands_and_elsewhere_if_told(num_workers: int) -> None:
    position = 0
    loader = picture_loader(Numbers(), StreamBatches(6, 2, first=lambda: position), num_workers=num_workers)
    assert len(loader) == 3
    assert first(loader, 3) == [[0, 1], [2, 3], [4, 5]]
    position = 6
    assert first(loader, 2) == [[6, 7], [8, 9]]
    position = 20
    assert first(loader, 2) == [[20, 21], [22, 23]]
    position = 0
    assert first(loader, 1) == [[0, 1]]


def test_what_was_decoded_ahead_is_not_lost() -> None:
    class Counted(Numbers):
        def __init__(self) -> None:
            self.count = torch.zeros(1000, dtype=torch.int64).share_memory_()

        def __getitem__(self, number: int) -> Tensor:
            self.count[number] += 1
            return super().__getitem__(number)

    numbers, position = Counted(), 0
    loader = picture_loader(numbers, StreamBatches(4, 2, first=lambda: position), num_workers=1)
    for epoch in range(5):
        position = 4 * epoch
        assert first(loader, 2) == [[position, position + 1], [position + 2, position + 3]]
    assert numbers.count[:20].tolist() == [1] * 20


def test_loading_leaves_the_random_numbers_of_the_training_alone() -> None:
    state = torch.get_rng_state()
    first(picture_loader(Numbers(), StreamBatches(6, 2)), 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.processes
@pytest.mark.parametrize(("num_workers", "start_method"), [(0, None), (1, None), (2, "spawn")])
def test_pictures_and_errors_come_through_worker_processes(
    tmp_path: Path, num_workers: int, start_method: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, [f"{i}.png" for i in range(8)])
    samples = TrainingPictures(list_folder(tmp_path), ZoomedCrop(8), seed=0, broken=UnreadableFiles(1))
    expected = [samples[number] for number in range(8)]
    loader = picture_loader(samples, StreamBatches(8, 2), num_workers=num_workers, start_method=start_method)
    batches = [batch for _, batch in zip(range(4), loader, strict=False)]
    assert torch.equal(torch.cat(batches), torch.stack(expected))
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"^more files can't be read than most_broken = 1 allows, the last: [^\n]*$"):
        list(zip(range(20), loader, strict=False))
    assert capfd.readouterr().err.count("skipped: ") == 2


def test_validation_can_be_repeated(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{i}.png" for i in range(5)])
    pictures = FixedPictures(list_folder(tmp_path), 8, broken=UnreadableFiles(0))
    loader = picture_loader(pictures, FixedBatches(5, 2), num_workers=2)
    expected = torch.stack([pictures[index] for index in range(5)])
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), expected)
