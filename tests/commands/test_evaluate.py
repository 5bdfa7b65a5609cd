"""`scvae-fast evaluate`, from the options to the files."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from pictures import TINY, scene
from PIL import Image

from scvae_fast import cli
from scvae_fast.cli.evaluate import UNAVAILABLE
from scvae_fast.commands import evaluate as command
from scvae_fast.data import load_picture, save_picture
from scvae_fast.evaluation import METRICS
from scvae_fast.models import SCVAE

pytestmark = pytest.mark.slow

LIGHT = ("psnr", "ssim", "codes")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for i in range(5):
        save_picture(folder / f"{i}.png", scene(34, 32, seed=i))
    return folder


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def arguments(checkpoint: Path, data: Path, tmp_path: Path) -> list[str]:
    out = tmp_path / "out"
    return ["evaluate", "--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out), "--device", "cpu"]


def result(tmp_path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    text = (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def test_everything(
    arguments: list[str], checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    files = [networks.save_backbone(weights, "alex"), networks.save_backbone(weights, "vgg")]
    files.append(networks.save_inception(weights))
    command = [*arguments, "--resize", "none", "--weights", str(weights), "--batch-size", "2", "--limit", "4"]
    assert cli.main(command) == 0
    content, output = result(tmp_path), capsys.readouterr()

    assert content["schema"] == 1
    assert content["n_pictures"] == content["n_tiled"] == 4
    assert content["unavailable"] == {}
    assert content["skipped"] == []
    assert content["data"]["data"] == str(data)
    assert content["resize"] == "none, whole pictures"
    assert content["model"]["n_atoms"] == TINY.n_atoms
    sha256 = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert content["checkpoint"] == {"path": str(checkpoint), "sha256": sha256}
    assert list(content["figures"]) == list(content["methods"]) == list(METRICS)
    assert all(figures["n"] == 4 for figures in content["figures"].values())
    assert {"scvae-fast", "torch", "torchmetrics", "lpips", "torch-fidelity"} == content["versions"].keys()

    used = {Path(file["path"]): file for found in content["weights"].values() for file in found}
    for file in files:
        assert used[file]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert not used[file]["published"]
    assert len(used) == 5  # and the heads of both LPIPS

    fid = content["figures"]["fid"]
    assert fid["value"] > 0
    assert "4 pictures are fewer than 2048" in fid["warnings"][0]
    assert "fid: 4 pictures are fewer than 2048" in output.err
    assert content["figures"]["kid"]["subset_size"] == 4
    assert content["figures"]["lpips-vgg"]["mean"] > 0

    printed = (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")
    assert printed.partition("\n\n- ")[0] in output.out
    assert "| rFID " in printed
    assert "N = 4 pictures of " in printed
    for name in ("best", "worst"):
        assert load_picture(tmp_path / "out" / "pictures" / f"{name}.png").shape[0] == 3


def test_missing_weights_change_the_status_and_nothing_else(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--metrics", "kid", "psnr", "lpips-vgg"]) == UNAVAILABLE == 3
    content, output = result(tmp_path), capsys.readouterr()
    assert content["figures"].keys() == {"psnr"}
    assert content["unavailable"].keys() == {"kid", "lpips-vgg"}
    path = tmp_path / "home" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    written = (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")
    assert (output.err + output.out).count("lpips-vgg is unavailable") == 1, "it is told once"
    for text in (content["unavailable"]["lpips-vgg"], output.err, written):
        assert str(path) in text
        assert "give a folder that has it (weights)" in text
    assert content["weights"] == {}


def test_pictures_are_brought_to_the_resolution_of_the_model(
    arguments: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "squares"
    for i in range(3):
        save_picture(data / f"{i}.png", scene(TINY.resolution, TINY.resolution, seed=i))
    arguments[4] = str(data)
    assert cli.main([*arguments, "--metrics", *LIGHT]) == 0
    content = result(tmp_path)
    assert content["data"]["resize"] == TINY.resolution
    assert content["resize"].startswith("shorter side to 16, then the centre, 16 x 16")
    assert content["n_tiled"] == 0
    x = torch.stack([load_picture(data / f"{i}.png") for i in range(3)])
    with torch.no_grad():
        output = SCVAE.from_pretrained(checkpoint)(x)
    error = (output.x_hat.clamp(-1, 1) - x).double().square().mean()
    assert content["figures"]["psnr"]["pooled"] == pytest.approx(10 * math.log10(4 / float(error)))
    assert content["figures"]["codes"]["density"] == pytest.approx(float((output.codes != 0).double().mean()))


def test_files_that_are_no_pictures_are_in_the_record(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "mixed"
    save_picture(data / "good.png", scene(16, 16))
    (data / "bad.png").write_text("no picture")
    arguments[4] = str(data)
    assert cli.main([*arguments, "--metrics", *LIGHT]) == 0
    content = result(tmp_path)
    assert content["n_pictures"] == 1
    assert len(content["skipped"]) == 1
    assert "bad.png" in content["skipped"][0]
    assert "- skipped: " in (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")
    printed = capsys.readouterr()
    assert (printed.err + printed.out).count("bad.png: ") == 1


def test_figures_that_are_not_finite_are_still_json(arguments: list[str], tmp_path: Path) -> None:
    silent = SCVAE(TINY)
    torch.nn.init.zeros_(silent.decoder.conv_out.weight)
    torch.nn.init.zeros_(silent.encoder.conv_out.weight)
    for convolution in (silent.decoder.conv_out, silent.encoder.conv_out):
        if convolution.bias is not None:
            torch.nn.init.zeros_(convolution.bias)
    silent.save_pretrained(tmp_path / "silent")
    (tmp_path / "grey").mkdir()
    Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)).save(tmp_path / "grey" / "exactly.tiff")
    arguments[2], arguments[4] = str(tmp_path / "silent"), str(tmp_path / "grey")
    assert cli.main([*arguments, "--metrics", *LIGHT]) == 0
    figures = result(tmp_path)["figures"]
    assert figures["psnr"] == {"pooled": "inf", "mean": "inf", "n": 1}
    assert figures["codes"]["hoyer"] is None
    assert figures["codes"]["usage_entropy"] is None
    text = (tmp_path / "out" / "metrics.md").read_text(encoding="utf-8")
    assert "undefined" in text
    assert "inf dB" in text


def test_an_evaluation_that_fails_leaves_the_older_result(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main([*arguments, "--metrics", *LIGHT]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert before
    (tmp_path / "empty").mkdir()
    assert cli.main([*arguments[:4], str(tmp_path / "empty"), *arguments[5:]]) == cli.FAILED

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "evaluate", stop)
        assert cli.main([*arguments, "--metrics", *LIGHT]) == cli.STOPPED
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda:99"], "there is no device 'cuda:99'"),
        (["--checkpoint", "not here/at/all"], "the checkpoint not here/at/all can't be loaded"),
    ],
)
def test_options_are_checked_before_any_work(
    arguments: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, *options]) == cli.FAILED
    error = capsys.readouterr().err
    assert error.startswith("scvae-fast evaluate: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_folders_that_can_not_be_written_to(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    taken = Path(arguments[6])
    taken.write_text("a file")
    assert cli.main(arguments) == cli.FAILED
    assert f"{taken} can't be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resize", "-3"], "must be 1 or more"),
        (["--limit", "0"], "must be 1 or more"),
        (["--batch-size", "two"], "must be 1 or more"),
        (["--metrics", "psnr", "beauty"], "must be one of psnr, ssim"),
        (["--precision", "float8"], "invalid choice: 'float8'"),
        (["--value-bits", "-1"], "must be 0 or more"),
        (["--layout", "heap"], "invalid choice: 'heap'"),
        (["--split", "half"], "invalid choice: 'half'"),
    ],
)
def test_wrong_usage(
    arguments: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, *options])
    assert stop.value.code == cli.WRONG
    assert f"argument {options[0]}: {message}" in capsys.readouterr().err


def test_help_names_all_metrics_and_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(METRICS) in text
    assert "3 if one could not be" in text
