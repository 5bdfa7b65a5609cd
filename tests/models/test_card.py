"""The model card: read back by huggingface_hub, and its example run."""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from pictures import scene

from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.data import load_picture, save_picture
from scvae_fast.models import SCVAE
from scvae_fast.models.card import model_card

RECORD = {
    "data": {"data": "/home/someone/data/faces", "layout": "ffhq", "split": "train"},
    "steps": 1200,
    "epochs": 2.5,
    "seconds": 5400.0,
    "settings": {"training": {"learning_rate": 3e-4, "betas": [0.9, 0.99]}, "out": "/home/someone/out/run"},
    "versions": {"torch": "2.13.0"},
    "evaluation": {
        "data": {"data": "/home/someone/data/faces", "layout": "ffhq", "split": "val"},
        "n_pictures": 5000,
        "resize": "shorter side to 256, then the centre, 256 x 256",
        "precision": "float32",
        "figures": {
            "psnr": {"pooled": 29.5, "mean": 30.25, "n": 5000},
            "lpips-alex": {"mean": 0.125},
            "fid": {"value": 12.5, "warnings": ["few pictures"]},
            "codes": {"density": 0.0625, "hoyer": None},
        },
        "weights": {"fid": [{"path": "/home/someone/inception.pth", "sha256": "0123456789abcdef"}]},
        "unavailable": {"lpips-vgg": "its weights are missing"},
    },
}


def rows(text: str) -> dict[str, str]:
    """The rows of all tables."""
    return dict(re.findall(r"^\| (.+?) \| (.*) \|$", text, re.MULTILINE))


def test_it_tells_what_the_record_holds(small_model: SCVAE) -> None:
    text = model_card(small_model, RECORD, name="user/faces")
    found = rows(text)
    assert found["n_atoms"] == "24"
    assert found["parameters"] == f"{sum(p.numel() for p in small_model.parameters()):,}"
    assert (found["steps"], found["epochs"], found["time"]) == ("1200", "2.5", "1.5 h")
    assert (found["data: data"], found["data: layout"]) == ("faces", "ffhq")
    assert (found["training.learning_rate"], found["training.betas"]) == ("0.0003", "[0.9, 0.99]")
    assert found["torch"] == "2.13.0"
    assert (found["psnr.pooled"], found["codes.density"], found["codes.hoyer"]) == ("29.5", "0.0625", "none")
    assert (found["pictures"], found["resize"]) == ("5000", RECORD["evaluation"]["resize"])  # type: ignore[index]
    assert found["weights of fid"] == "inception.pth (SHA-256 0123456789ab…)"
    assert "lpips-vgg is missing: its weights are missing" in text
    assert "arXiv 2303.16666" in text
    assert "someone" not in text  # nobody's folders


def test_the_hub_reads_its_metadata(small_model: SCVAE) -> None:
    data = ModelCard(model_card(small_model, {**RECORD, "datasets": ["user/faces"]}, name="user/faces")).data
    assert (data.license, data.library_name, data.model_name) == ("mit", "scvae_fast", "faces")
    assert data.datasets == ["user/faces"]
    assert "sparse-coding" in data.tags
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {"PSNR, pooled (dB)": 29.5, "LPIPS (AlexNet)": 0.125, "rFID": 12.5}
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {("faces", "val")}


def test_the_figures_of_the_demonstration(small_model: SCVAE) -> None:
    evaluation = {"psnr": 25.5, "ssim": 0.75, "pictures": {"china": {"psnr": 23.25}}}
    text = model_card(small_model, {"evaluation": evaluation})
    assert rows(text)["pictures.china.psnr"] == "23.25"
    assert {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results} == {
        "psnr": 25.5,
        "ssim": 0.75,
    }


@pytest.mark.parametrize("record", [None, {}, {"steps": None, "evaluation": None}])
def test_an_empty_record(record: dict[str, object] | None, small_model: SCVAE) -> None:
    text = model_card(small_model, record)
    assert "No record of the training came with this model." in text
    assert "No evaluation came with this model." in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize("key", sorted(RECORD))
def test_any_key_may_be_missing(key: str, small_model: SCVAE) -> None:
    card = ModelCard(model_card(small_model, {name: value for name, value in RECORD.items() if name != key}))
    assert bool(card.data.eval_results) == (key != "evaluation")


def test_figures_that_are_not_numbers(small_model: SCVAE) -> None:
    figures = {"psnr": {"pooled": "inf", "mean": None}, "fid": {"value": 3}}
    text = model_card(small_model, {"evaluation": {"figures": figures}})
    assert (rows(text)["psnr.pooled"], rows(text)["psnr.mean"]) == ("inf", "none")
    assert [result.metric_type for result in ModelCard(text).data.eval_results] == ["fid"]


def test_characters_that_would_break_a_table(small_model: SCVAE) -> None:
    text = model_card(small_model, {"settings": {"note": "a | b\nc"}, "origin": "Found in a drawer."})
    assert "| note | a \\| b c |" in text
    assert "Found in a drawer." in text


def test_the_example_works(small_model: SCVAE, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small_model.save_pretrained("model", record=RECORD)
    save_picture("picture.jpg", scene(20, 30))
    (code,) = re.findall(r"^```python\n(.*?)^```", (tmp_path / "model" / "README.md").read_text(), re.S | re.M)
    exec(compile(code, "README.md", "exec"), {})
    with torch.no_grad():
        expected = reconstruct_tiled(small_model.eval(), load_picture("picture.jpg"))
    torch.testing.assert_close(load_picture("rebuilt.png"), expected.x_hat, atol=1 / 255, rtol=0)
    assert capsys.readouterr().out == f"{expected.active.float().mean():.0f} of 24 atoms in the code of a cell\n"
