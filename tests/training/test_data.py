from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from trees import write_ffhq, write_imagenet, write_pictures, write_shard

from scvae_fast.data import (
    CropSettings,
    RandomCrops,
    held_out_photographs,
    list_imagenet,
    training_photographs,
)
from scvae_fast.data.square_crops import load_centre
from scvae_fast.errors import UsageError
from scvae_fast.training.data import FFHQ, ImageNet, Photographs, PictureData, PictureFolder, Shards
from scvae_fast.training.lightning_messages import lightning_messages_silenced

SMALL: dict[str, Any] = {"resolution": 8, "batch_size": 2, "num_workers": 0}


class Recorder(LightningModule):
    """Keeps the batches that it sees, with Lightning's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, Tensor]] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append((batch_idx, batch.clone()))
        return self.weight * batch.mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(batch.clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAfter(Callback):
    """Writes a checkpoint after this many steps, and ends training."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(data: PictureData, *callbacks: Callback, resume: Path | None = None, **settings: Any) -> Recorder:
    recorder = Recorder()
    with lightning_messages_silenced():
        trainer = Trainer(
            accelerator="cpu",
            callbacks=list(callbacks),
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **({"max_epochs": 3} | settings),
        )
        trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    return recorder


def assert_same(seen: list[tuple[int, Tensor]], expected: list[tuple[int, Tensor]]) -> None:
    assert [index for index, _ in seen] == [index for index, _ in expected]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(seen, expected, strict=True))


@pytest.fixture
def ffhq(tmp_path: Path) -> Path:
    """Eleven pictures to train on: epochs of five batches of two, which begin in the midst of the stream's epochs."""
    return write_ffhq(tmp_path / "ffhq", [*range(11), 60_000, 60_001, 60_002])


@pytest.fixture
def shards(tmp_path: Path) -> str:
    for index in range(3):
        write_shard(tmp_path / f"train-{index}.tar", 5 * index, 5)
    return str(tmp_path / "train-{0..2}.tar")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "settings", "stops"),
    [
        (0, {}, range(1, 16)),
        (2, {}, (3, 5, 11)),
        (0, {"max_epochs": -1, "max_steps": 15}, (3, 5, 11)),
        (0, {"accumulate_grad_batches": 2}, (2, 3, 5)),
    ],
)
def test_a_resumed_training_sees_the_same_batches(
    ffhq: Path, tmp_path: Path, workers: int, settings: dict[str, Any], stops: range
) -> None:
    make = partial(FFHQ, str(ffhq), **{**SMALL, "num_workers": workers})
    whole = fit(make(), **settings)
    assert [index for index, _ in whole.seen] == [0, 1, 2, 3, 4] * 3
    assert whole.seen[0][1].shape == (2, 3, 8, 8)
    for steps in stops:
        before = fit(make(), StopAfter(steps, tmp_path / "x.ckpt"), **settings)
        after = fit(make(), resume=tmp_path / "x.ckpt", **settings)
        assert_same(before.seen + after.seen, whole.seen)


def test_validation_in_between_changes_nothing(ffhq: Path, tmp_path: Path) -> None:
    make = partial(FFHQ, str(ffhq), **SMALL)
    whole = fit(make())
    before = fit(make(), StopAfter(7, tmp_path / "x.ckpt"), val_check_interval=2)
    after = fit(make(), resume=tmp_path / "x.ckpt", val_check_interval=2)
    assert_same(before.seen + after.seen, whole.seen)
    expected = torch.stack([load_centre(ffhq / "60000" / f"{number}.png", "", 8) for number in range(60_000, 60_003)])
    for run in (whole, after):
        assert torch.equal(torch.cat(run.validated[-2:]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_on_shards_resumes_as_well(shards: str, tmp_path: Path, workers: int) -> None:
    make = partial(Shards, shards, val=str(tmp_path / "train-0.tar"), buffer=4, **{**SMALL, "num_workers": workers})
    whole = fit(make())
    assert [index for index, _ in whole.seen] == [0, 1, 2, 3, 4, 5, 6] * 3
    for steps in range(1, 21) if not workers else (4, 7, 16):
        before = fit(make(), StopAfter(steps, tmp_path / "x.ckpt"), limit_val_batches=0)
        after = fit(make(), resume=tmp_path / "x.ckpt")
        assert_same(before.seen + after.seen, whole.seen)
    assert [len(batch) for batch in whole.validated[-3:]] == [2, 2, 1]


def test_another_batch_size_goes_on_at_the_same_sample(ffhq: Path, tmp_path: Path) -> None:
    samples = torch.cat([batch for _, batch in fit(FFHQ(str(ffhq), **SMALL)).seen])
    fit(FFHQ(str(ffhq), **SMALL), StopAfter(3, tmp_path / "x.ckpt"))
    larger = fit(
        FFHQ(str(ffhq), **{**SMALL, "batch_size": 4}), StopAfter(5, tmp_path / "y.ckpt"), resume=tmp_path / "x.ckpt"
    )
    assert torch.equal(torch.cat([batch for _, batch in larger.seen]), samples[6:14])
    last = fit(FFHQ(str(ffhq), **SMALL), resume=tmp_path / "y.ckpt", max_epochs=-1, max_steps=7)
    assert torch.equal(torch.cat([batch for _, batch in last.seen]), samples[14:18])


def test_neither_workers_nor_an_earlier_training_matter(ffhq: Path, tmp_path: Path) -> None:
    whole = fit(FFHQ(str(ffhq), **SMALL))
    assert_same(fit(FFHQ(str(ffhq), **{**SMALL, "num_workers": 1})).seen, whole.seen)
    data = FFHQ(str(ffhq), **SMALL)
    fit(data, StopAfter(4, tmp_path / "x.ckpt"))
    fit(data, resume=tmp_path / "x.ckpt")
    assert_same(fit(data).seen, whole.seen)
    other = fit(FFHQ(str(ffhq), **SMALL, seed=1))
    assert not any(torch.equal(ours[1], theirs[1]) for ours, theirs in zip(other.seen, whole.seen, strict=True))


def in_process(data: PictureData, rank: int, world_size: int) -> PictureData:
    """Acts as one process of a distributed training."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, num_devices=1, fit_loop=loop)  # type: ignore[assignment]
    return data


def taken(data: PictureData, count: int) -> list[Tensor]:
    return [batch for _, batch in zip(range(count), data.train_dataloader(), strict=False)]


def test_processes_share_the_samples_of_a_batch(ffhq: Path) -> None:
    alone = taken(FFHQ(str(ffhq), **{**SMALL, "batch_size": 6}), 4)
    processes = [in_process(FFHQ(str(ffhq), **SMALL), rank, 3) for rank in range(3)]
    parts = [taken(data, 4) for data in processes]
    for step in range(4):
        assert torch.equal(torch.stack([part[step] for part in parts], dim=1).flatten(0, 1), alone[step])
    validation = [torch.cat(list(data.val_dataloader())) for data in processes]
    assert torch.equal(torch.cat(validation), torch.cat(list(FFHQ(str(ffhq), **SMALL).val_dataloader())))
    assert processes[0].state_dict() == {"samples": 0, "batches": 0}
    processes[0].trainer.fit_loop.epoch_loop.batch_progress.total.processed = 5  # type: ignore[union-attr]
    assert processes[0].state_dict() == {"samples": 30, "batches": 5}
    with pytest.raises(UsageError, match="3 validation pictures are too few for 4 processes"):
        in_process(FFHQ(str(ffhq), **SMALL), 0, 4).val_dataloader()


def test_first_samples_are_those_that_a_training_begins_with(ffhq: Path, shards: str) -> None:
    modules: list[Callable[[], PictureData]] = [
        lambda: FFHQ(str(ffhq), **SMALL),
        lambda: Shards(shards, **SMALL),
        lambda: Photographs(**SMALL),
    ]
    for make in modules:
        first = make().first_samples(5)
        assert torch.equal(first, torch.cat(taken(make(), 3))[:5])


def test_imagenet(tmp_path: Path) -> None:
    root = write_imagenet(tmp_path, training=3, validation=2)
    data = ImageNet(str(root), **SMALL)
    assert len(data.train_dataloader()) == 3
    files = list_imagenet(root, "val")
    expected = torch.stack([load_centre(files.source(index), "", 8) for index in range(4)])
    assert torch.equal(torch.cat(list(data.val_dataloader())), expected)
    # Forty rows become eight: every crop has its rows at 0, and columns that begin at 0, 1 or 2.
    wide = {tuple(batch[0, 0, 0].tolist()) for batch in taken(data, 12)}
    assert len(wide) > 6


def test_a_folder_holds_pictures_out_by_name(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "a", [f"{i:02}.png" for i in range(20)])

    def held_out(**settings: Any) -> set[tuple[float, ...]]:
        loader = PictureFolder(str(root), **settings, **SMALL).val_dataloader()
        return {tuple(picture.flatten().tolist()) for batch in loader for picture in batch}

    assert len(held_out()) == 1
    some = held_out(held_out=0.25)
    assert len(some) == 5
    (root / "zz.png").write_bytes((root / "00.png").read_bytes())
    assert len(held_out(held_out=0.25) & some) >= 4, "another file changes little"
    data = PictureFolder(str(root), held_out=0.25, **SMALL)
    data.setup("fit")
    assert len(data.train_dataloader()) == 16 // 2
    assert PictureFolder(str(root), held_out=0.0, **SMALL).val_dataloader() == []
    other = write_pictures(tmp_path / "b", ["x/y.png", "z.png"])
    assert len(PictureFolder(str(root), val_root=str(other), recursive=False, **SMALL).val_dataloader()) == 1
    alone = fit(PictureFolder(str(other), held_out=0.0, crop="placed", **SMALL))
    assert (len(alone.seen), alone.validated) == (3, [])
    with pytest.raises(UsageError, match="no pictures to train on, if 1 of 1 are held out"):
        PictureFolder(str(other), recursive=False, **SMALL).setup()


def test_photographs() -> None:
    settings = CropSettings(zoom_out=2.0)
    data = Photographs(settings, samples=6, **SMALL)
    crops = RandomCrops(training_photographs(), CropSettings(zoom_out=2.0, size=8))
    assert torch.equal(torch.cat(taken(data, 2)), torch.stack([crops[index] for index in range(4)]))
    assert len(data.train_dataloader()) == 3
    large = Photographs(**{**SMALL, "resolution": 200, "batch_size": 100})
    [validation] = list(large.val_dataloader())
    astronaut = held_out_photographs()[0].picture  # 512 x 512; the other is 427 x 640
    assert len(validation) == 2 * 2 + 2 * 3
    assert torch.equal(validation[0], astronaut[:, 56:256, 56:256])
    [one, other] = list(Photographs(**{**SMALL, "resolution": 600, "batch_size": 1}).val_dataloader())
    assert one.shape == other.shape == (1, 3, 600, 600)


def test_shards_in_pipes_must_be_counted_by_the_user(shards: str) -> None:
    pipes = f"pipe:cat {shards}"
    with pytest.raises(UsageError, match="samples must give the number of pictures in train:"):
        Shards(pipes, **SMALL).setup()
    with pytest.raises(UsageError, match="val_samples must give the number of pictures in val:"):
        Shards(pipes, val=[pipes], samples=15, **SMALL).setup()
    data, files = Shards([pipes], samples=15, **SMALL), Shards(shards, **SMALL)
    assert data.val_dataloader() == []
    assert all(map(torch.equal, taken(data, 14), taken(files, 14)))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_end_a_training_with_one_clear_error(
    ffhq: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 5, 9):
        (ffhq / "00000" / f"{number:05}.png").write_bytes(b"")
    settings = {**SMALL, "num_workers": workers}
    assert len(fit(FFHQ(str(ffhq), most_broken=3, **settings)).seen) == 15
    assert capfd.readouterr().err.count("skipped: ") == 3
    with pytest.raises(
        UsageError, match=r"^more files can't be read than most_broken = 2 allows, the last: .*\.png: not a"
    ):
        fit(FFHQ(str(ffhq), most_broken=2, **settings))


def test_missing_inputs_are_reported_before_training(tmp_path: Path, ffhq: Path) -> None:
    cases: list[tuple[Callable[[], PictureData], str]] = [
        (lambda: FFHQ(str(tmp_path / "no"), **SMALL), "no such folder"),
        (lambda: ImageNet(str(ffhq), **SMALL), "contains no folder train/"),
        (lambda: PictureFolder(str(ffhq), val_root=str(tmp_path / "no"), **SMALL), "no such folder"),
        (lambda: Shards(str(tmp_path / "no-{0..3}.tar"), **SMALL), "no-0.tar: no such shard"),
    ]
    for make, message in cases:
        with pytest.raises(UsageError, match=message):
            fit(make())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0}, "FFHQ: resolution must be at least 1, got 0"),
        ({"batch_size": 0}, "FFHQ: batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "FFHQ: num_workers must be at least 0, got -1"),
        ({"seed": -1}, "FFHQ: seed must be at least 0, got -1"),
        ({"most_broken": -1}, "FFHQ: most_broken must be at least 0, got -1"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FFHQ("x", **arguments)


def test_without_semaphores_there_are_no_workers(ffhq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", missing)
    alone = fit(FFHQ(str(ffhq), resolution=8, batch_size=2))
    monkeypatch.undo()
    assert_same(alone.seen, fit(FFHQ(str(ffhq), **SMALL)).seen)
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", missing)
    with pytest.raises(UsageError, match="FFHQ: num_workers must be 0, got 2: this system has no semaphores"):
        FFHQ(str(ffhq), **{**SMALL, "num_workers": 2}).setup()


def test_modules_are_made_from_yaml(ffhq: Path) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PictureData, "data")

    def made(text: str) -> Any:
        return parser.instantiate(parser.parse_string(text)).data

    data = made(f"data: {{class_path: FFHQ, init_args: {{root: {ffhq}, batch_size: 3, seed: 5}}}}")
    assert isinstance(data, FFHQ)
    assert (data.root, data.batch_size, data.seed, data.resolution) == (str(ffhq), 3, 5, 256)
    data = made("data: {class_path: Photographs, init_args: {resolution: 32, crops: {zoom_out: 2.5}}}")
    assert (data.crops.zoom_out, data.crops.size) == (2.5, 32)
    assert made("data: {class_path: Shards, init_args: {train: [a.tar, b.tar]}}").train_shards == ["a.tar", "b.tar"]
    with pytest.raises(jsonargparse.ArgumentError, match="batchsize"):
        made(f"data: {{class_path: FFHQ, init_args: {{root: {ffhq}, batchsize: 3}}}}")
