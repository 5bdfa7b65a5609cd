import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import TINY, photographs, scene

from scvae_fast.commands import demo
from scvae_fast.commands.demo import run_demo
from scvae_fast.data import Photograph, RandomCrops, load_picture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE

pytestmark = pytest.mark.slow

NETWORK = [
    f"--model.network.{name}={value if isinstance(value, str) else json.dumps(value)}"
    for name, value in TINY.to_dict().items()
]
SETTINGS = [
    *NETWORK,
    "--data.resolution=16",
    "--data.batch_size=2",
    "--data.samples=40",
    "--trainer.log_every_n_steps=1",
    "--trainer.max_steps=30",  # so that nothing depends on how fast the machine is
]
SHORT, LONG = 1, 2  # minutes, which so few steps never take


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two training runs of two threads each would wait for each other on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = [Photograph("unseen", scene(30, 50, seed=9), True)]
    for place in ("commands.demo", "training.data", "data.stream"):
        monkeypatch.setattr(f"scvae_fast.{place}.held_out_photographs", lambda: held_out)
    monkeypatch.setattr("scvae_fast.training.data.training_photographs", photographs)


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    metrics = read(tmp_path / "evaluation" / "metrics.json")
    assert {"psnr", "ssim", "codes", "block-means"} == metrics["figures"].keys()
    assert 0 < metrics["figures"]["codes"]["density"] < 1
    assert not metrics["unavailable"]
    training = read(tmp_path / "training.json")
    assert training["steps"] > 0
    assert training["settings"]["trainer"]["max_time"] == "00:00:01:00"
    assert SCVAE.from_pretrained(tmp_path / "model").config == TINY
    for name in ("held_out", "density", "losses", "atoms"):
        picture = load_picture(tmp_path / "pictures" / f"{name}.png")
        assert min(picture.shape[1:]) > 100, name
        assert picture.std() > 0.05, f"{name} is nearly blank"
    assert f"{metrics['figures']['psnr']['pooled']:.2f} dB" in capsys.readouterr().out


def test_a_second_run_only_prints_and_a_longer_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(tmp_path, SHORT, SETTINGS)
    state, metrics = tmp_path / "last.ckpt", tmp_path / "evaluation" / "metrics.json"
    before, first, rated = state.stat().st_mtime_ns, read(tmp_path / "training.json"), read(metrics)
    capsys.readouterr()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    printed = capsys.readouterr().out
    assert "already holds the result of 1 minutes of training" in printed
    assert f"{rated['figures']['psnr']['pooled']:.2f} dB" in printed
    assert (state.stat().st_mtime_ns, read(metrics)) == (before, rated)
    assert run_demo(tmp_path, LONG, [*SETTINGS, "--trainer.max_steps=60"]) == 0
    assert "continuing from" in capsys.readouterr().out
    assert read(tmp_path / "training.json")["steps"] > first["steps"]
    assert read(metrics)["checkpoint"] != rated["checkpoint"]


def test_stopped_before_the_evaluation_it_goes_on_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "evaluate_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path, SHORT, SETTINGS)
    metrics, steps = tmp_path / "evaluation" / "metrics.json", read(tmp_path / "training.json")["steps"]
    assert not metrics.exists()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    assert metrics.exists()
    assert read(tmp_path / "training.json")["steps"] == steps


def test_a_signal_stops_it_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = RandomCrops.__getitem__

    def press_ctrl_c(crops: RandomCrops, index: int) -> object:
        if index == 200:
            signal.raise_signal(signal.SIGINT)
        return draw(crops, index)

    with monkeypatch.context() as patch:
        patch.setattr(RandomCrops, "__getitem__", press_ctrl_c)
        assert run_demo(tmp_path, 10, [*SETTINGS, "--trainer.max_steps=-1"]) == 130
    assert "Run the same command again" in capsys.readouterr().out
    assert (tmp_path / "last.ckpt").exists()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    assert read(tmp_path / "training.json")["steps"] >= 30


def test_folders_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be written to"):
        run_demo(tmp_path / "file" / "out", SHORT, SETTINGS)
    run_demo(tmp_path / "out", SHORT, SETTINGS)
    with pytest.raises(UsageError, match="holds a training run of another network: different n_iter"):
        run_demo(tmp_path / "out", LONG, [*SETTINGS, "--model.network.n_iter=5"])


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_checked(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UsageError, match="minutes must be a positive number"):
        run_demo(tmp_path / "out", minutes, SETTINGS)
    assert not (tmp_path / "out").exists()
