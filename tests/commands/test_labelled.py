import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import scene
from torch import Tensor
from trees import write_imagenet, write_pictures

from scvae_fast import cli
from scvae_fast.commands._labelled import LabelledData
from scvae_fast.commands.probe import probe_checkpoint
from scvae_fast.commands.retrieve import retrieve_checkpoint
from scvae_fast.data import load_picture, save_picture
from scvae_fast.data.square_crops import load_centre
from scvae_fast.errors import UsageError
from scvae_fast.plotting.neighbours import SHOWN_PIXELS, neighbour_sheet

pytestmark = pytest.mark.slow

SOME = ["codes:signs:1", "latents:mean:2", "thumbnail"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two colours, noisy."""
    folder, generator = tmp_path_factory.mktemp("classes"), torch.Generator().manual_seed(0)
    for kind, colour in {"red": (0.6, -0.6, -0.6), "blue": (-0.6, -0.6, 0.6)}.items():
        for index in range(8):
            noise = 0.2 * torch.randn(3, 20, 24, generator=generator)
            save_picture(folder / kind / f"{index}.png", torch.tensor(colour)[:, None, None] + noise)
    return folder


def test_probe_from_the_command_line(
    checkpoint: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", "--checkpoint", str(checkpoint), "--data", str(classes), "--repeats", "2", "--device", "cpu"]
    assert cli.main([*command, "--descriptors", *SOME, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["classes"] == ["blue", "red"]
    assert list(content["descriptors"]) == SOME
    thumbnail = content["descriptors"]["thumbnail"]
    assert thumbnail["accuracies"] == [1.0, 1.0]
    assert thumbnail["accuracy"] == 1
    assert (content["n_train"], content["n_test"]) == ([12, 12], [4, 4])
    assert content["share_of_largest_class"] == 0.5
    table = (tmp_path / "metrics.md").read_text()
    assert "| thumbnail      |       192 | 100.0 ± 0.0 % |" in table
    assert table in capsys.readouterr().out


def test_retrieve_from_the_command_line(checkpoint: Path, classes: Path, tmp_path: Path) -> None:
    command = ["retrieve", "--checkpoint", str(checkpoint), "--data", str(classes), "--k", "7"]
    assert cli.main([*command, "--descriptors", *SOME, "--resize", "none", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["descriptors"]["thumbnail"] == {
        "dimension": 192,
        "precision@1": 1.0,
        "precision@7": 1.0,
        "mAP": pytest.approx(1.0),
        "n_queries": 16,
    }
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "metrics.md", "neighbours.png"}
    assert load_picture(tmp_path / "neighbours.png").std() > 0.05


def test_queries_find_their_own_class_and_not_themselves(checkpoint: Path, classes: Path, tmp_path: Path) -> None:
    queries = [classes / "red" / "3.png", classes / "blue" / "0.png"]
    content = retrieve_checkpoint(checkpoint, LabelledData(classes), tmp_path, queries=queries, descriptors=SOME, k=3)
    for query in queries:
        found = content["neighbours"][str(query)]
        assert all(
            neighbour["name"] != f"{query.parent.name}/{query.name}" for each in SOME for neighbour in found[each]
        )
        assert {each["name"].split("/")[0] for each in found["thumbnail"]} == {query.parent.name}


def test_a_copy_of_a_query_is_its_neighbour(checkpoint: Path, classes: Path, tmp_path: Path) -> None:
    query = tmp_path / "copy.png"
    query.write_bytes((classes / "red" / "3.png").read_bytes())
    content = retrieve_checkpoint(checkpoint, LabelledData(classes), tmp_path, queries=[query], descriptors=SOME, k=3)
    found = content["neighbours"][str(query)]
    assert all(found[each][0]["name"] == "red/3.png" for each in SOME)
    assert found["codes:signs:1"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_query_is_compared_with_both_parts_of_a_data_set(checkpoint: Path, tmp_path: Path) -> None:
    data = write_imagenet(tmp_path / "data", training=2, validation=1)
    (tmp_path / "link").symlink_to(data)
    for root in (data, tmp_path / "link"):
        query = root / "val" / "n01" / "0.JPEG"
        content = retrieve_checkpoint(checkpoint, LabelledData(data), tmp_path / "out", queries=[query], k=5)
        (found,) = content["neighbours"][str(query)].values()
        assert sorted(each["name"] for each in found) == [
            *(f"train/{kind}/{index}.JPEG" for kind in ("n01", "n02") for index in range(2)),
            "val/n02/0.JPEG",
        ]
    with pytest.raises(UsageError, match="--per-class can't be combined with --query"):
        retrieve_checkpoint(checkpoint, LabelledData(data, per_class=1), tmp_path / "out", queries=[query], k=1)


def test_a_query_is_compared_with_all_pictures_of_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", ["train/2020/a.png", "cats/a.png", "cats/b.png", "thumbnails/00001.png"])
    content = retrieve_checkpoint(
        checkpoint, LabelledData(data), tmp_path / "out", queries=[data / "cats" / "a.png"], k=3
    )
    (found,) = content["neighbours"][str(data / "cats" / "a.png")].values()
    assert sorted(each["name"] for each in found) == ["cats/b.png", "thumbnails/00001.png", "train/2020/a.png"]


def test_a_linked_query_in_the_gallery_is_not_its_own_neighbour(checkpoint: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", ["a.png"])
    data = write_pictures(tmp_path / "data", ["b.png", "c.png"], width=50)
    (data / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    content = retrieve_checkpoint(checkpoint, LabelledData(data), tmp_path / "out", queries=[data / "a.png"], k=2)
    (found,) = content["neighbours"][str(data / "a.png")].values()
    assert sorted(each["name"] for each in found) == ["b.png", "c.png"]


def test_a_query_among_pictures_without_classes(checkpoint: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "flat", ["a.png", "b.png", "c.png"])
    save_picture(tmp_path / "q.png", scene(30, 20))
    content = retrieve_checkpoint(
        checkpoint, LabelledData(tmp_path / "flat"), tmp_path / "out", queries=[tmp_path / "q.png"], k=3
    )
    (found,) = content["neighbours"].values()
    assert sorted(each["name"] for each in found["codes:signs:1"]) == ["a.png", "b.png", "c.png"]


def test_sheets_show_pictures_with_more_pixels_than_are_compared(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        save_picture(tmp_path / "data" / f"{index}.png", scene(400, 300, seed=index))
    shown: list[Tensor] = []
    monkeypatch.setattr(
        "scvae_fast.commands.retrieve.neighbour_sheet",
        lambda title, queries, neighbours: (
            shown.extend(picture for _, picture in queries)
            or shown.extend(each.picture for row in neighbours for each in row)
            or neighbour_sheet(title, queries, neighbours)
        ),
    )
    query = tmp_path / "data" / "2.png"
    data = LabelledData(tmp_path / "data", side=16)
    retrieve_checkpoint(checkpoint, data, tmp_path / "out", queries=[query], descriptors=["thumbnail"], k=3)
    assert [tuple(picture.shape) for picture in shown] == [(3, SHOWN_PIXELS, SHOWN_PIXELS)] * 4
    assert torch.equal(shown[0], load_centre(query, "", SHOWN_PIXELS))


def test_data_in_two_parts(checkpoint: Path, tmp_path: Path) -> None:
    data = LabelledData(write_imagenet(tmp_path / "data", training=4, validation=2))
    content = probe_checkpoint(checkpoint, data, tmp_path / "probe", descriptors=["thumbnail"], repeats=1)
    assert (content["n_train"], content["n_test"]) == ([8], [4])
    content = retrieve_checkpoint(checkpoint, data, tmp_path / "retrieve", descriptors=["thumbnail"], k=8)
    assert content["descriptors"]["thumbnail"]["n_queries"] == 4
    assert content["descriptors"]["thumbnail"]["precision@8"] == pytest.approx(0.5)


def test_patches_are_asked_for_both_ways(checkpoint: Path, tmp_path: Path) -> None:
    data = LabelledData("patches", per_class=1)
    content = retrieve_checkpoint(checkpoint, data, tmp_path, descriptors=["colour:mean"], k=2)
    rating = content["descriptors"]["colour:mean:1"]
    assert rating["n_queries"] == 40
    assert 0.05 < rating["precision@1"] < 1, "one picture of twenty is right by chance"


def test_a_picture_that_can_not_be_read(
    checkpoint: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", [f"{kind}/{i}.png" for kind in "ab" for i in range(6)])
    (tmp_path / "data" / "b" / "3.png").write_text("no picture")
    content = probe_checkpoint(
        checkpoint, LabelledData(tmp_path / "data"), tmp_path / "out", descriptors=SOME, repeats=1
    )
    assert content["n_pictures"] == 11
    assert content["n_train"][0] + content["n_test"][0] == 11
    assert "3.png" in capsys.readouterr().err
    assert np.isfinite(content["descriptors"]["thumbnail"]["accuracy"])


def test_a_single_split_has_no_deviation(checkpoint: Path, classes: Path, tmp_path: Path) -> None:
    probe_checkpoint(checkpoint, LabelledData(classes), tmp_path, descriptors=["thumbnail"] * 2, repeats=1)
    table = (tmp_path / "metrics.md").read_text()
    assert "| thumbnail  |       192 |  100.0 % |" in table
    assert "4 test pictures, 1 split. Always predicting the largest class is right for 50.0 %." in table
    assert not {"±", "nan"} & set(table.split())


@pytest.mark.parametrize("command", ["retrieve", "retrieve --query", "probe"])
def test_files_that_can_not_be_read_are_named_once(
    command: str, checkpoint: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [tmp_path / "data" / kind / f"{index}.png" for kind in "ab" for index in range(5)]
    for path in broken:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no picture")
    query = ["--query", str(classes / "red" / "0.png")] if "--query" in command else []
    common = ["--checkpoint", str(checkpoint), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    common += ["--descriptors", *SOME, *query]
    assert cli.main([command.split()[0], *common]) == cli.FAILED
    *skipped, last = capsys.readouterr().err.splitlines()
    assert skipped == [f"skipped: {path}: not a picture of a known format" for path in broken]
    assert last.endswith(f"{tmp_path / 'data'}: no picture could be read")
    for path in broken[1:]:
        path.write_bytes((classes / "red" / path.name).read_bytes())
    assert cli.main([command.split()[0], *common, *([] if command == "probe" else ["--k", "8"])]) == 0
    assert capsys.readouterr().err == f"skipped: {broken[0]}: not a picture of a known format\n"
    if command == "probe":
        return
    assert cli.main([command.split()[0], *common, "--k", "10" if query else "9"]) == cli.FAILED
    assert f"--k must be at most {9 if query else 8}, the number of pictures" in capsys.readouterr().err


def test_errors_come_before_the_work_and_leave_older_results(
    checkpoint: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text("older")
    write_pictures(tmp_path / "one", ["a/x.png", "a/y.png"])
    write_pictures(tmp_path / "flat", ["x.png", "y.png"])
    write_pictures(tmp_path / "single", ["a/x.png", "b/y.png", "c/z.png"])
    write_pictures(tmp_path / "apart", ["train/a/x.png", "val/b/y.png"])
    write_pictures(tmp_path / "alone", ["x.png"])
    (tmp_path / "empty").mkdir()
    own, hidden = str(tmp_path / "flat" / "x.png"), tmp_path / "flat" / ".hidden.png"
    hidden.write_bytes((tmp_path / "flat" / "x.png").read_bytes())

    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("pictures were described")

    monkeypatch.setattr("scvae_fast.commands.probe.describe", work)
    monkeypatch.setattr("scvae_fast.commands.retrieve.describe", work)
    wrong = {
        ("probe", "one"): "one: pictures must belong to two classes or more, got 1",
        ("probe", "classes", "--folds", "7"): f"{classes}: each class must have at least as many training pictures as "
        "there are folds, 7; class blue has 6",
        ("probe", "single"): "class a has 0",
        ("probe", "classes", "--folds", "1"): "folds must be 2 or more",
        ("probe", "flat"): "must have a folder for each class",
        ("probe", "empty"): "no pictures in this folder",
        ("probe", "classes", "--descriptors", "edges"): "kind must be one of",
        ("retrieve", "one"): "one: pictures must belong to two classes or more, got 1",
        ("retrieve", "classes", "--k", "16"): "--k must be at most 15",
        ("retrieve", "flat", "--k", "3", "--query", str(classes / "red" / "0.png")): "--k must be at most 2",
        ("retrieve", "flat", "--k", "2", "--query", own): "--k must be at most 1, the number of pictures to search "
        "apart from the query, got 2",
        ("retrieve", "flat", "--k", "2", "--query", str(classes / "red" / "0.png"), own): "--k must be at most 1",
        ("retrieve", "flat", "--k", "3", "--query", str(hidden)): "--k must be at most 2",
        ("retrieve", "alone", "--query", str(tmp_path / "alone" / "x.png")): "must contain pictures other than the",
        ("retrieve", "single"): "single: at least one class must have two pictures or more",
        ("retrieve", "classes", "--per-class", "1"): "--per-class must be 2 or more",
        ("retrieve", "apart"): "apart: at least one class must have pictures in both parts",
        ("retrieve", "classes", "--descriptors", "thumbnail:max:2"): '--descriptors: text must be "thumbnail" alone',
        ("retrieve", "flat", "--query", str(tmp_path / "missing.png")): "missing.png: no such file",
        ("retrieve", "empty", "--query", str(classes / "red" / "0.png")): "no pictures in this folder",
    }
    for (command, data, *options), message in wrong.items():
        folder = classes if data == "classes" else tmp_path / data
        common = ["--checkpoint", str(checkpoint), "--data", str(folder), "--out", str(out)]
        in_itself = "--folds 1" in " ".join(options) or "--descriptors" in options  # whatever lies on the disk
        assert cli.main([command, *common, *options]) == (cli.WRONG if in_itself else cli.FAILED)
        assert message in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["metrics.json"]
    assert (out / "metrics.json").read_text() == "older"
    with pytest.raises(UsageError, match="can't be written to"):
        probe_checkpoint(checkpoint, LabelledData(classes), out / "metrics.json")
