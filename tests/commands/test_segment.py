"""`scvae-fast segment`, end to end with a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import TINY, scene
from PIL import Image
from sklearn.metrics import jaccard_score
from texts import words

from scvae_fast import cli
from scvae_fast.commands.segment import Labels, segment_pictures
from scvae_fast.data import load_picture, save_picture
from scvae_fast.data.masks import MaskedFiles
from scvae_fast.errors import ArgumentError
from scvae_fast.models import SCVAE
from scvae_fast.tasks.segmentation import FeatureSettings, MapSettings
from scvae_fast.tasks.segmentation.experiment import Method

pytestmark = pytest.mark.slow

SIZES = {"a.png": (24, 24), "deep/b.jpg": (17, 30), "c.png": (24, 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model and pictures, bright on the left, and their masks."""
    folder = tmp_path_factory.mktemp("segmentation")
    torch.manual_seed(0)
    SCVAE(TINY).save_pretrained(folder / "model")
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        mask = torch.arange(width).expand(height, -1) < width // 2
        picture = 0.3 * scene(height, width, seed=seed) + (mask.float() - 0.5)
        save_picture(folder / "data" / "images" / name, picture)
        target = (folder / "data" / "masks" / name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.numpy()).save(target)
    return folder


def run(folder: Path, out: Path, *options: str) -> int:
    data = () if "--data" in options else ("--data", str(folder / "data"))
    return cli.main(["segment", "--checkpoint", str(folder / "model"), "--out", str(out), *data, *options])


@pytest.mark.parametrize("options", [(), ("--labels", "1"), ("--labels", "2", "--classifier", "centres")])
def test_what_is_written_is_what_is_rated(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run(folder, tmp_path, "--features", "colour,codes", "--words", "6", "--shifts", "1", *options) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "overlays.png", "metrics.json", "metrics.md"}
    content = json.loads((tmp_path / "metrics.json").read_text())
    labelled = int(options[1]) if options else 0
    assert content["segmented"] == 3 - labelled
    truth, found = [], []
    files = MaskedFiles(folder / "data")
    for index in range(3):
        path = (tmp_path / "masks" / files[index].name).with_suffix(".png")
        if path.exists():
            with Image.open(path) as image:
                assert image.mode == "P"
                found.append(np.asarray(image).flatten())
            truth.append(files[index].mask.flatten())
    assert len(found) == 3 - labelled
    first, second = content["runs"]
    assert (first["feature"], second["feature"]) == ("colour", "codes")
    expected = jaccard_score(np.concatenate(truth), np.concatenate(found), average="macro")
    assert first["miou"] == pytest.approx(expected)
    assert max(first["accuracy"], second["accuracy"]) > 0.8
    assert f"| colour | 6 words, window of 1.5 | {first['miou']:.3f} |" in words(tmp_path / "metrics.md")
    assert load_picture(tmp_path / "overlays.png").std() > 0.05


def test_mosaics_are_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scvae_fast.commands import segment as command
    from scvae_fast.data.mosaics import Mosaics

    def small(split: str, count: int, seed: int) -> Mosaics:
        return Mosaics(split=split, count=count, seed=seed, side=48)  # type: ignore[arg-type]

    monkeypatch.setattr(command.Labels, "_mosaics", staticmethod(small))
    options = "--data mosaics --limit 2 --words 8 --shifts 1 --repeats 2 --compare --labels 2"
    assert run(folder, tmp_path, *options.split()) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert [(each["feature"], each["plain"], each["seed"]) for each in content["runs"]] == [
        (feature, plain, seed)
        for seed in (0, 1)
        for feature in ("codes", "latents", "pixels", "centred", "colour")
        for plain in (False, True)
    ]
    assert len(content["runs"][0]["iou_of_classes"]) == 5
    table = words(tmp_path / "metrics.md")
    assert "Seeds 0 … 1: mean ± standard deviation." in table
    values = [each["miou"] for each in content["runs"] if each["feature"] == "latents" and each["plain"]]
    expected = f"| latents | single cells | {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} |"
    assert expected in table
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"val-0000.png", "val-0001.png"}


def test_errors_leave_an_earlier_result(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "old.png").write_text("old")
    old = json.dumps({"segmented": 1, "method": {}, "runs": []})
    (tmp_path / "metrics.json").write_text(old)
    Image.new("L", (4, 4), 7).save(tmp_path / "broken.png")
    data = tmp_path / "data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8), 7 * number * (name == "masks")).save(data / name / f"{number}.png")
    for options, message in (
        (("--data", str(data), "--words", "0", "--features", "colour"), "1.png has the value 7"),
        (("--words", "5000"), "--words 5000 is larger than the number of cells in which words are found, 399: "),
        (("--words", "0", "--clusters", "400"), "--clusters 400 (by default the number of classes) is larger than"),
        (("--labels", "3"), "--labels 3: "),
        (("--labels", "1", "--clusters", "2"), "--clusters can't be used with --labels"),
        (("--data", str(folder / "model")), "no known layout of masks"),
        (("--layout", "cub"), "segmentations: no such folder"),
    ):
        assert run(folder, tmp_path, *options) == (cli.WRONG if "can't be used" in message else cli.FAILED)
        assert message in capsys.readouterr().err
    method = Method(
        features=FeatureSettings(feature="colour", words=0, pool=0.0, seed=0), maps=MapSettings(shifts=1, smooth=0.0)
    )
    with pytest.raises(ArgumentError, match="--repeats must be 1 or more, got 0"):
        segment_pictures(folder / "model", Labels(data=data), tmp_path, method, repeats=0)
    assert (tmp_path / "masks" / "old.png").read_text() == "old"
    assert (tmp_path / "metrics.json").read_text() == old
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "metrics.json", "broken.png", "data"}
    assert run(folder, tmp_path, "--words", "0", "--features", "colour") == 0
    assert not (tmp_path / "masks" / "old.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--features", "codes,edges", "got 'edges'"),
        ("--pool", "-1", "must be 0 or more"),
        ("--smooth", "x", "0 or more"),
    ],
)
def test_options_out_of_range(option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["segment", "--checkpoint", "x", "--data", "y", f"{option}={value}"])
    assert message in capsys.readouterr().err


def test_pictures_that_differ_in_their_suffix_alone_keep_their_masks(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        save_picture(tmp_path / "data" / "images" / name, scene(16, 16))
    (tmp_path / "data" / "masks").mkdir()
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "data" / "masks" / "a.png")
    assert run(folder, tmp_path / "out", "--data", str(tmp_path / "data"), "--words", "0", "--shifts", "1") == 0
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"a.png", "a-2.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "mosaics", "--classes", "2"), "--classes can't be used with --data mosaics"),
        (("--data", "mosaics", "--layout", "cub"), "--layout can't be used with --data mosaics"),
        (("--classifier", "centres"), "--classifier can't be used without --labels"),
        (("--classifier", "logistic", "--labels", "0"), "--classifier can't be used without --labels"),
        (("--compare", "--features", "codes"), "--features can't be used with --compare"),
        (("--classes", "1"), "--classes must be 2 … 255, got 1"),
        (("--classes", "256"), "--classes must be 2 … 255, got 256"),
    ],
)
def test_options_that_would_have_no_effect(
    folder: Path, tmp_path: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out", *options) == cli.WRONG
    errors = capsys.readouterr().err
    assert errors.startswith(f"scvae-fast segment: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_record_has_only_what_was_used(folder: Path, tmp_path: Path) -> None:
    def recorded(*options: str) -> tuple[dict[str, object], dict[str, object]]:
        assert run(folder, tmp_path, "--words", "0", "--shifts", "1", "--features", "colour", *options) == 0
        content = json.loads((tmp_path / "metrics.json").read_text())
        return content["data"], content["method"]

    data, method = recorded()
    features = {"words": 0, "pool": 1.5, "seed": 0}
    common = {"features": features, "maps": {"shifts": 1, "smooth": 0.0}}
    files = {"data": str(folder / "data"), "layout": "folder", "classes": 2, "limit": None}
    assert data == {**files, "labelled": 0, "fit": 64}
    assert method == {**common, "clusters": 2}
    data, method = recorded("--labels", "1", "--classifier", "centres")
    assert data == {**files, "labelled": 1}
    assert method == {**common, "classifier": "centres"}
    data, method = recorded("--data", "mosaics", "--limit", "1", "--clusters", "6")
    assert data == {"data": "mosaics", "labelled": 0, "limit": 1, "fit": 64}
    assert method == {**common, "clusters": 6}


@pytest.mark.parametrize(
    "record", ["old", "[]", "{}", b"\xff", json.dumps({"schema": 1, "figures": {}, "methods": {}, "n_pictures": 2})]
)
def test_masks_beside_the_record_of_another_command_are_kept(
    folder: Path, tmp_path: Path, record: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"masks/mine.png": b"mine", "metrics.json": record.encode() if isinstance(record, str) else record}
    (tmp_path / "masks").mkdir()
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    assert run(folder, tmp_path, "--words", "0", "--shifts", "1", "--features", "colour") == cli.FAILED
    assert "masks already exists and is not a result of an earlier run of segment: " in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "metrics.json"}


@pytest.mark.parametrize("earlier", [False, True])
def test_masks_of_the_user_are_kept(
    folder: Path, tmp_path: Path, earlier: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    save_picture(data / "images" / "a.png", scene(16, 16))
    (data / "masks").mkdir()
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(data / "masks" / "a.png")
    other = tmp_path / "other"
    (other / "masks").mkdir(parents=True)
    if earlier:
        (data / "metrics.json").write_text('{"segmented": 1, "method": {}, "runs": []}')  # the data are no result
    before = (data / "masks" / "a.png").read_bytes()
    for out in (data, other)[: 1 if earlier else 2]:
        assert run(folder, out, "--data", str(data)) == cli.FAILED
        expected = "lies in the data folder" if out == data else "masks already exists and is not a result of"
        assert expected in capsys.readouterr().err
    assert (data / "masks" / "a.png").read_bytes() == before
