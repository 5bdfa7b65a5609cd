"""The model that comes with the package: its files, and where it is found."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from pictures import scene
from safetensors import safe_open

from scvae_fast import cli
from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.data import held_out_photographs, load_picture, photograph_credits, save_picture
from scvae_fast.errors import UsageError
from scvae_fast.metrics.psnr import psnr
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.models._hub import shipped_models
from scvae_fast.models.loading import load_model

FOLDER = shipped_models()["pictures64"]
RECORD = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


def test_it_is_small_and_has_the_preset_of_its_name() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8e6
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    model = SCVAE.from_pretrained("pictures64")
    assert model.config == SCVAEConfig.preset("pictures64")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.fingerprint() == load_model("pictures64").fingerprint() == RECORD["weights"]


def test_its_record_goes_with_it(tmp_path: Path) -> None:
    SCVAE.from_pretrained("pictures64").save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "training.json").read_text(encoding="utf-8")) == RECORD


def test_its_evaluation_is_of_this_file() -> None:
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert RECORD["evaluation"]["checkpoint"]["sha256"] == digest


@pytest.mark.slow
def test_its_figures_are_those_of_its_record() -> None:
    model, figures = load_model("pictures64"), RECORD["evaluation"]["figures"]
    photographs = [each.picture for each in held_out_photographs()]
    with torch.inference_mode():
        rebuilt = [reconstruct_tiled(model, picture) for picture in photographs]
    mean = sum(psnr(r.x_hat.clamp(-1, 1), x) for r, x in zip(rebuilt, photographs, strict=True)) / len(rebuilt)
    assert float(mean) == pytest.approx(figures["psnr"]["mean"], abs=0.02)
    active = sum(float(each.active.sum()) for each in rebuilt)
    density = active / sum(each.active.numel() for each in rebuilt) / model.config.n_atoms
    assert density == pytest.approx(figures["codes"]["density"], abs=1e-3)
    assert figures["psnr"]["pooled"] >= 28
    assert figures["codes"]["density"] <= 0.09
    assert figures["codes"]["atoms_in_use"] >= 500


def test_its_card_names_every_photographer() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, credit in photograph_credits().items():
        assert f"| {name} | {credit.author} | {credit.licence} | {credit.source} |" in card
    assert "scvae-fast train --config pictures64" in card


def test_a_folder_of_its_name_goes_first(
    small_model: SCVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_model("pictures64").fingerprint()
    assert capsys.readouterr().err == "using pictures64, the model that comes with the package\n"
    small_model.save_pretrained(tmp_path / "pictures64" / "model")
    assert load_model("pictures64").fingerprint() == small_model.fingerprint() != shipped
    assert SCVAE.from_pretrained("pictures64/model").config == small_model.config
    assert capsys.readouterr().err == ""


def test_a_folder_without_a_model_is_no_reason_to_take_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures64").mkdir()
    with pytest.raises(UsageError, match=r"no model or training .*, and it hides the model of this name that comes"):
        load_model("pictures64")
    with pytest.raises(FileNotFoundError, match=r"pictures64 has no config\.json"):
        SCVAE.from_pretrained("pictures64")


def test_nearly_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"can't be loaded: no such file or folder; did you mean pictures64\?"):
        load_model("picture64")


def test_commands_take_it_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "x.png", scene(40, 50))
    assert cli.main(["reconstruct", "x.png", "--out", "rebuilt"]) == 0
    assert cli.main(["encode", "--data", "x.png", "--out", "codes.parquet"]) == 0
    assert cli.main(["decode", "codes.parquet", "--out", "decoded"]) == 0
    rebuilt, decoded = (load_picture(tmp_path / folder / "x.png") for folder in ("rebuilt", "decoded"))
    torch.testing.assert_close(rebuilt, decoded, atol=2 / 127.5, rtol=0)  # the codes are stored in float16
    assert capsys.readouterr().err.count("using pictures64") == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_commands_compute_in_float32(dtype: torch.dtype, small_model: SCVAE, tmp_path: Path) -> None:
    small_model.to(dtype).save_pretrained(tmp_path / "model")
    assert {parameter.dtype for parameter in load_model(tmp_path / "model").parameters()} == {torch.float32}
