import json
import signal
from pathlib import Path

import pytest
from pictures import TINY, photographs, scene

from scvae_fast.commands import demo
from scvae_fast.commands.demo import DemoError, DemoSettings, run_demo
from scvae_fast.data import CropSettings, Photograph, RandomCrops
from scvae_fast.models import SCVAE
from scvae_fast.training import data

SETTINGS = DemoSettings(model=TINY, batch_size=2, crops=CropSettings(size=16))
SHORT, LONG = 0.01, 0.05  # minutes


@pytest.fixture(autouse=True)
def small_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (demo, data):
        monkeypatch.setattr(module, "training_photographs", photographs)
        monkeypatch.setattr(module, "held_out_photographs", lambda: [Photograph("unseen", scene(30, 50, seed=9), True)])


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    for part, names in (("held_out", ["unseen"]), ("training", ["waves"])):
        figures = metrics[part]
        assert list(figures["pictures"]) == names
        assert {"psnr", "ssim", "density", "atoms_in_use"} <= figures.keys()
        assert figures["block_means"].keys() == {"8x8", "4x4"}
        assert 0 < figures["density"] < 1
        assert 0 < figures["atoms_in_use"] <= TINY.n_atoms
    assert metrics["steps"] > 0
    assert metrics["seconds"]["training"] >= 60 * SHORT
    assert metrics["settings"] == SETTINGS.to_dict()
    assert SCVAE.from_pretrained(tmp_path / "checkpoint").config == TINY
    pictures = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert {"held_out", "training", "atoms", "usage", "density"} <= pictures
    assert f"{metrics['held_out']['psnr']:.2f} dB" in capsys.readouterr().out


def test_a_second_run_only_prints_and_a_longer_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(tmp_path, SHORT, SETTINGS)
    state, metrics = tmp_path / "training.ckpt", tmp_path / "metrics.json"
    before, first = state.stat().st_mtime_ns, json.loads(metrics.read_text(encoding="utf-8"))
    capsys.readouterr()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    assert "holds the result of 0.01 minutes of training already" in capsys.readouterr().out
    assert state.stat().st_mtime_ns == before
    assert run_demo(tmp_path, LONG, SETTINGS) == 0
    assert "it goes on to 0.05" in capsys.readouterr().out
    second = json.loads(metrics.read_text(encoding="utf-8"))
    assert second["minutes"] == LONG
    assert second["steps"] > first["steps"]


def test_stopped_before_the_evaluation_it_goes_on_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path, SHORT, SETTINGS)
    assert not (tmp_path / "metrics.json").exists()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    assert (tmp_path / "metrics.json").exists()


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
        assert run_demo(tmp_path, 1, SETTINGS) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert (tmp_path / "training.ckpt").exists()
    assert run_demo(tmp_path, SHORT, SETTINGS) == 0
    steps = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["steps"]
    assert steps >= 100


def test_folders_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match="can't be written to"):
        run_demo(tmp_path / "file" / "out", SHORT, SETTINGS)
    (tmp_path / "settings.json").write_text(json.dumps(DemoSettings().to_dict()), encoding="utf-8")
    with pytest.raises(DemoError, match=r"other settings .*crops\.size.*model\.n_atoms"):
        run_demo(tmp_path, SHORT, SETTINGS)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_checked(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(DemoError, match="minutes must be a positive number"):
        run_demo(tmp_path / "out", minutes, SETTINGS)
    assert not (tmp_path / "out").exists()
