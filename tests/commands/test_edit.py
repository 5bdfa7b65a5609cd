import json
import shutil
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


def test_numbers_sort_and_an_earlier_sequence_is_removed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "codes-77.png").write_text("not of the command")
    for steps, names in ((11, [f"codes-{step:02}.png" for step in range(11)]), (2, ["codes-0.png", "codes-1.png"])):
        before = sorted(path.name for path in tmp_path.glob("codes-*"))
        assert edit(folder, tmp_path, "interpolate", "a.png", "b.png", "--steps", str(steps)) == 0
        kept = before if steps == 11 else []  # there was no earlier run
        assert sorted(path.name for path in tmp_path.glob("codes-*")) == [*names, *kept]


WAYS = {"atoms": ["a.png"], "interpolate": ["b.png", "a.png", "--steps", "3"]}


@pytest.mark.parametrize("way", WAYS)
def test_no_result_replaces_a_picture(
    way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert edit(folder, out, way, *WAYS[way]) == 0
    written = sorted(out.iterdir())
    if way == "interpolate":
        shutil.copy(folder / "a.png", out / "codes-9.png")  # would be removed
        written.append(out / "codes-9.png")
    capsys.readouterr()
    for path in written:
        shutil.copy(folder / "a.png", path)
        (tmp_path / "link.png").unlink(missing_ok=True)
        (tmp_path / "link.png").symlink_to(path)
        before = {each: each.read_bytes() for each in out.iterdir()}
        for picture in (str(path), str(tmp_path / "link.png")):
            arguments = [picture if each == "a.png" else each for each in WAYS[way]]
            paths = [str(folder / each) if each == "b.png" else each for each in arguments]
            command = ["edit", way, "--checkpoint", str(folder / "model"), "--out", str(out), *paths]
            assert cli.main(command) == cli.FAILED
            message = f"scvae-fast edit {way}: the results would replace the picture {picture}: choose another --out"
            assert message in capsys.readouterr().err
        assert {each: each.read_bytes() for each in out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--remove", "2", "6", "--factor", "2=3"], "--remove and --factor must name different atoms, got 2 in both"),
        (["--factor", "2=3", "1=1", "2=4"], "--factor must give each atom one factor, got two for atom 2"),
        (["--keep", "1", "2", "--remove", "2"], "--keep must not name atoms that --remove or a factor of 0 removes"),
        (["--keep", "2", "--factor", "2=0"], "--keep must not name atoms that --remove or a factor of 0 removes"),
        (["--factor", "2=1e300"], "--factor must be finite in float32, got 2=1e+300"),
    ],
)
def test_factors_that_contradict_or_overflow(
    options: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(folder, tmp_path / "out", "atoms", "a.png", *options) == cli.WRONG
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_codes_or_pictures_that_overflow(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(folder, tmp_path, "atoms", "a.png", "--top", "24") == 0
    used = [each["atom"] for each in json.loads((tmp_path / "metrics.json").read_text())["atoms"] if each["used"]]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for factor in ("3e38", "1e38"):
        assert (
            edit(folder, tmp_path, "atoms", "a.png", "--factor", *(f"{atom}={factor}" for atom in used)) == cli.FAILED
        )
        assert "--factor must leave the codes and the picture finite in float32" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert edit(folder, tmp_path, "atoms", "a.png", "--keep", "2", "--factor", "2=3") == 0


def test_errors_leave_older_results(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.json").write_text("older")
    wrong = {
        ("interpolate", "a.png", "small.png"): "pictures must have the same size",
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
