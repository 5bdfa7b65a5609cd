"""`scvae-fast train`, mostly in a separate process: killed, stopped, in two processes, and with wrong arguments."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from pictures import TINY
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scvae_fast import cli
from scvae_fast._files import locked
from scvae_fast.commands import train as run
from scvae_fast.commands.train import train
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.models.loading import load_model, read_training_state

pytestmark = pytest.mark.processes

CONFIG = {
    "seed_everything": 0,
    "ema": 0.9,
    "checkpoint_minutes": 1e-9,  # after every step
    "model": {
        "network": {name: list(v) if isinstance(v, tuple) else v for name, v in TINY.to_dict().items()},
        "loss": {"code_weight": 6000.0},
        "optimiser": {"learning_rate": 1e-3, "warm_up": 0.1, "last_learning_rate": 0.1},
        "start": "linear",
    },
    "data": {"class_path": "Photographs", "init_args": {"resolution": 16, "samples": 60, "batch_size": 4}},
    "trainer": {
        "max_steps": 40,
        "accelerator": "cpu",
        "precision": "32-true",
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return path


@pytest.fixture
def quiet() -> Iterator[None]:
    """Ignores Lightning's own warnings about small training runs, and restores seeds."""
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


def command(config: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "scvae_fast", "train", "--config", str(config), "--out", str(out), *options]


def run_to_the_end(config: Path, out: Path, *options: str) -> str:
    done = subprocess.run(
        command(config, out, *options), capture_output=True, text=True, check=False, env=one_thread(), timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def outcome(out: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The logged figures, without times, and the final weights."""
    rows = json.loads((out / "training.json").read_text(encoding="utf-8"))["history"]
    kept = [{k: v for k, v in row.items() if k not in ("seconds", "pictures_per_second")} for row in rows]
    return kept, load_file(out / "model" / "model.safetensors")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has not appeared")


def test_the_state_is_that_of_the_end_when_the_time_is_over(config: Path, tmp_path: Path) -> None:
    limit = ("--trainer.max_steps=-1", "--trainer.max_time=00:00:00:02", "--data.samples=100000")
    run_to_the_end(config, tmp_path / "out", "--checkpoint_minutes=60", *limit)
    steps = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))["steps"]
    assert read_training_state(tmp_path / "out" / "last.ckpt")["global_step"] == steps > 0


def test_a_training_goes_on_with_another_lambda(config: Path, tmp_path: Path) -> None:
    run_to_the_end(config, tmp_path / "out", "--trainer.max_steps=2")
    printed = run_to_the_end(
        config, tmp_path / "out", "--resume", "--trainer.max_steps=3", f"--model.network.lmbda={2 * TINY.lmbda}"
    )
    assert f"resumed with another λ: {TINY.lmbda:g} -> {2 * TINY.lmbda:g}\n" in printed


def test_repeatedly_killed_training_gives_the_same_losses(config: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_to_the_end(config, whole)
    dice, kills = random.Random(1), 0
    while not (parts / "training.json").exists() and kills < 3:
        process = subprocess.Popen(
            command(config, parts, "--resume"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=one_thread(),
        )
        log = parts / "logs" / f"version_{kills}"
        wait_for(log, process)
        time.sleep(dice.uniform(0.1, 0.6))
        if process.poll() is None:
            kills += 1
        process.kill()
        process.communicate()
    assert kills > 0
    if not (parts / "training.json").exists():
        run_to_the_end(config, parts, "--resume")
    (losses, weights), (expected_losses, expected) = outcome(parts), outcome(whole)
    assert losses == expected_losses
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


# Whether it ends by itself or is stopped.
LEFT = {"config.yaml", "last.ckpt", "logs", "pictures", "model", "training.json"}


def test_sigterm_saves_and_ends(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--checkpoint_minutes", "1000", "--trainer.max_steps", "100000")
    process = subprocess.Popen(
        command(config, out, *options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=one_thread()
    )
    wait_for(out / "logs" / "csv", process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    step = torch.load(out / "last.ckpt", weights_only=False)["global_step"]
    assert f"holds the state after step {step}: --resume continues" in printed
    assert {path.name for path in out.iterdir()} - {"before-last.ckpt"} == LEFT
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert (record["stopped"], record["steps"]) == (True, step)
    assert {path.stem for path in (out / "pictures").iterdir()} == {"reconstructions", "atoms", "supports"}
    weights = load_model(out / "last.ckpt").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in load_model(out / "model").state_dict().items())


def test_two_processes_give_the_losses_of_a_single_one(config: Path, tmp_path: Path) -> None:
    run_to_the_end(config, tmp_path / "one")
    two = ("--data.batch_size", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    run_to_the_end(config, tmp_path / "two", *two)
    losses, weights = outcome(tmp_path / "two")
    expected_losses, expected = outcome(tmp_path / "one")
    assert len(losses) == len(expected_losses) == 2
    for row, other in zip(losses, expected_losses, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "two" / "training.json").read_text(encoding="utf-8"))["processes"] == 2


def test_files_after_training(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run_to_the_end(config, out, "--trainer.max_steps", "16")
    assert {path.name for path in out.iterdir()} == LEFT | {"before-last.ckpt"}
    assert torch.load(out / "before-last.ckpt", weights_only=False)["global_step"] == 15
    assert "16 steps in 0:" in printed
    assert "scvae-fast evaluate" in printed
    model = SCVAE.from_pretrained(out / "model")
    assert model.config == TINY
    for checkpoint in (out, out / "last.ckpt"):
        weights = load_model(checkpoint).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items()), checkpoint
    assert "## Training" in (out / "model" / "README.md").read_text(encoding="utf-8")
    saved = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["max_steps"] == 16
    assert saved["model"]["loss"]["code_weight"] == 6000.0
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == 16
    assert record["settings"]["model"]["network"]["n_atoms"] == TINY.n_atoms
    assert {path.stem for path in (out / "pictures").iterdir()} == {"reconstructions", "atoms", "supports"}
    events = EventAccumulator(str(out / "logs" / "version_0")).Reload().Tags()
    assert {f"pictures/{name}" for name in ("reconstructions", "atoms", "supports")} <= set(events["images"])
    assert {"codes/support", "codes/usage_of_atoms"} <= set(events["histograms"])
    assert {"loss/total", "val/psnr"} <= set(events["scalars"])
    header, *rows = (out / "logs" / "csv" / "version_0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert {"loss/total", "loss/image", "density", "psnr", "val/psnr"} <= set(header.split(","))
    assert len(rows) >= 16


def test_nothing_changes_if_nothing_is_left_to_train(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_to_the_end(config, out, "--trainer.max_steps", "6")
    before = {path: path.read_bytes() for path in (*(out / "model").iterdir(), out / "training.json")}
    assert "nothing is left to train" in run_to_the_end(config, out, "--trainer.max_steps", "6", "--resume")
    assert {path: path.read_bytes() for path in before} == before
    averaged = load_file(out / "model" / "model.safetensors")
    shutil.rmtree(out / "model")
    assert "6 steps in 0:" in run_to_the_end(config, out, "--trainer.max_steps", "6", "--resume")
    again = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(again[name], averaged[name]) for name in averaged), "the averaged weights"


def test_the_card_describes_the_resumed_training(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_to_the_end(config, out, "--trainer.max_steps", "2")
    printed = run_to_the_end(
        config, out, "--trainer.max_steps", "3", "--resume", "--model.optimiser.last_learning_rate", "0.5"
    )
    assert "resumed with different optimiser settings: last_learning_rate 0.1 -> 0.5" in printed
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert "| steps | 3 |" in " ".join(card.split())


def test_gradients_of_several_batches_survive_a_kill(config: Path, tmp_path: Path) -> None:
    """Checkpoints fall between steps, although they are due after every batch."""
    options = ("--trainer.accumulate_grad_batches", "4", "--trainer.max_steps", "4")
    run_to_the_end(config, tmp_path / "whole", *options)
    out = tmp_path / "parts"
    process = subprocess.Popen(
        command(config, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread()
    )
    wait_for(out / "last.ckpt", process)
    process.kill()
    process.wait()
    run_to_the_end(config, out, *options, "--resume")
    (_, weights), (_, expected) = outcome(out), outcome(tmp_path / "whole")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("quiet")
class TestArguments:
    """Arguments that are refused before any work, in this process."""

    def test_unknown_keys(self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["train", "--config", str(config), "--out", str(tmp_path / "out"), "--model.loss.from", "paper"]
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        assert "model.loss.from" in capsys.readouterr().err
        config.write_text(yaml.safe_dump({**CONFIG, "modle": {"a": 1}}), encoding="utf-8")
        with pytest.raises(SystemExit):
            cli.main(arguments[:-2])
        assert "modle" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--ema", "1.5"], "ema must be a number between 0 and 1"),
            (["--model.network.n_atoms", "0"], "SCVAEConfig: n_atoms must be a positive integer"),
            (["--model.optimiser.learning_rate", "-1"], "OptimiserSettings: learning_rate must be a positive number"),
            (["--model.network.norm_out", "true"], "needs a network with norm_out=False"),
            (["--model.network.in_channels", "1"], "model.network.in_channels must be 3, got 1"),
            (["--data.resolution", "17"], "resolution 17 of the data must be a multiple of the network's stride, 2"),
        ],
    )
    def test_values_out_of_range(self, config: Path, tmp_path: Path, options: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            train(["--config", str(config), "--out", str(tmp_path / "out"), *options])
        assert not (tmp_path / "out").exists()

    def test_data_that_are_not_there(self, config: Path, tmp_path: Path) -> None:
        folder = ["--data", "PictureFolder", "--data.root", str(tmp_path / "nothing"), "--data.resolution", "16"]
        with pytest.raises(UsageError, match="nothing"):
            train(["--config", str(config), "--out", str(tmp_path / "out"), *folder])
        assert not (tmp_path / "out").exists()

    def test_second_stage_without_its_weights(self, config: Path, tmp_path: Path) -> None:
        options = ["--model.second_stage.perceptual_weights", str(tmp_path)]
        with pytest.raises(UsageError, match=r"(?s)second_stage: LPIPS .*vgg16"):
            train(["--config", str(config), "--out", str(tmp_path / "out"), *options])
        assert not (tmp_path / "out").exists()

    def test_folders_that_can_not_be_used(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="can't be written to"):
            train(["--config", str(config), "--out", str(tmp_path / "file")])
        usage = shutil._ntuple_diskusage(2**30, 2**30, 1000)
        monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UsageError, match="0 MiB free, but checkpoints of this training run need"):
            train(["--config", str(config), "--out", str(tmp_path / "full")])

    def test_a_training_is_not_overwritten(self, config: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        others = dict.fromkeys(("callbacks", "epoch", "global_step", "loops", "lr_schedulers", "optimizer_states"))
        other_network = {"network": {**TINY.to_dict(), "n_atoms": 99}, "state_dict": {}}
        torch.save(other_network | others, out / "last.ckpt")
        with pytest.raises(UsageError, match="already holds a training run: continue it with --resume"):
            train(["--config", str(config), "--out", str(out)])
        with pytest.raises(UsageError, match="a training run of another network: different n_atoms"):
            train(["--config", str(config), "--out", str(out), "--resume"])
        torch.save({"network": TINY.to_dict(), "state_dict": {}, "epoch": 0}, out / "last.ckpt")
        with pytest.raises(UsageError, match=r"can't be resumed, because it has no global_step, loops, callbacks"):
            train(["--config", str(config), "--out", str(out), "--resume"])
        (out / "last.ckpt").write_bytes(b"cut short")
        with pytest.raises(UsageError, match=r"last\.ckpt can't be read as a training state"):
            train(["--config", str(config), "--out", str(out), "--resume"])

    def test_averaged_weights_need_their_option(self, config: Path, tmp_path: Path) -> None:
        run_to_the_end(config, tmp_path / "out", "--trainer.max_steps", "1")
        arguments = command(config, tmp_path / "out", "--resume", "--ema", "null", "--trainer.max_steps", "2")[4:]
        with pytest.raises(UsageError, match="a training run that averages its weights: resume it with --ema"):
            train(arguments)

    def test_two_trainings_in_one_folder(self, config: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        with locked(out), pytest.raises(UsageError, match="another process is using"):
            train(["--config", str(config), "--out", str(out)])
        assert not list(out.iterdir())

    def test_packaged_configurations_are_the_presets(self) -> None:
        for name in ("ffhq256-16x16", "ffhq256-32x32", "imagenet256-16x16", "imagenet256-32x32", "pictures64"):
            (path,) = run.spelled_out(["--config", name])[1:]
            assert run.spelled_out([f"--config={name}"]) == [f"--config={path}"]
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            assert SCVAEConfig(**values["model"]["network"]) == SCVAEConfig.preset(name)
