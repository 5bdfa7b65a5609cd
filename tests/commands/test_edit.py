import json
from pathlib import Path

import pytest
import torch
from pictures import TINY, scene

from scvae_fast import cli
from scvae_fast.codes.tiling import decode_tiled, encode_tiled, reconstruct_tiled
from scvae_fast.data import load_picture, save_picture
from scvae_fast.data.pictures import to_bytes
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms
from scvae_fast.models.loading import load_model
from scvae_fast.tasks.editing import scale_atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and pictures."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("editing")
    SCVAE(TINY).save_pretrained(folder / "model")
    for seed, (name, size) in enumerate({"a": (23, 30), "b": (23, 30), "small": (16, 16)}.items()):
        save_picture(folder / f"{name}.png", scene(*size, seed=seed))
    return folder


def edit(folder: Path, out: Path, way: str, *arguments: str) -> int:
    paths = [str(folder / each) if each.endswith(".png") else each for each in arguments]
    return cli.main(["edit", way, "--checkpoint", str(folder / "model"), "--out", str(out), *paths])


def same(path: Path, picture: torch.Tensor) -> bool:
    return bool((to_bytes(load_picture(path)) == to_bytes(picture)).all())


def test_interpolate(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(folder, tmp_path, "interpolate", "a.png", "b.png", "--steps", "3") == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["share"] for row in content["steps"]] == [0, 0.5, 1]
    model = load_model(folder / "model")
    for index, name in ((0, "a"), (2, "b")):
        assert same(
            tmp_path / f"codes-{index}.png", reconstruct_tiled(model, load_picture(folder / f"{name}.png")).x_hat
        )
    assert load_picture(tmp_path / "strip.png").std() > 0.05
    assert "| 0.50 |" in (tmp_path / "metrics.md").read_text()
    assert (tmp_path / "metrics.md").read_text() in capsys.readouterr().out


def test_atoms(folder: Path, tmp_path: Path) -> None:
    assert edit(folder, tmp_path, "atoms", "a.png", "--remove", "1", "--factor", "4=2", "--top", "3") == 0
    model = load_model(folder / "model")
    codes = encode_tiled(model, load_picture(folder / "a.png"))
    expected = decode_tiled(model, scale_atoms(codes, {1: 0, 4: 2}), (23, 30))
    assert same(tmp_path / "edited.png", expected)
    assert same(tmp_path / "difference.png", (expected - decode_tiled(model, codes, (23, 30))) / 2)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert len(content["atoms"]) == 3
    assert content["atoms"][0]["energy"] == max(each["energy"] for each in content["atoms"])
    best = content["atoms"][0]["atom"]
    assert edit(folder, tmp_path, "atoms", "a.png", "--keep-top", "1") == 0
    assert same(tmp_path / "edited.png", decode_tiled(model, scale_atoms(codes, {best: 1}, others=0), (23, 30)))
    torch.testing.assert_close(decode_atoms(model, torch.tensor([best])), decode_atoms(model)[best : best + 1])


def test_errors_leave_older_results(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.json").write_text("older")
    wrong = {
        ("interpolate", "a.png", "small.png"): "pictures must be of one size",
        ("interpolate", "a.png", "missing.png"): "missing.png: no such file",
        ("atoms", "a.png", "--remove", "24"): "atoms must be 0 … 23, got 24",
    }
    for arguments, message in wrong.items():
        assert edit(folder, tmp_path, *arguments) == cli.FAILED
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "older"
    with pytest.raises(SystemExit):
        edit(folder, tmp_path, "atoms", "a.png", "--factor", "3")
