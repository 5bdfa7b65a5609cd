"""Clusterings of the codes of pictures: their files, and the results of the command."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import TINY, scene
from safetensors import safe_open
from safetensors.numpy import save_file
from texts import words

from scvae_fast import cli
from scvae_fast.codes import CodedPicture, SparseCodes
from scvae_fast.codes.storage import CodeFile, write_codes
from scvae_fast.commands.cluster import FILE, Pictures, cluster_codes
from scvae_fast.commands.encode import encode_data
from scvae_fast.data import PictureStream, load_picture, save_picture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model
from scvae_fast.tasks.clustering import Clustering, KMeansSettings
from scvae_fast.tasks.clustering.patches import Place, cut_patch, paint_means, places_of
from scvae_fast.tasks.clustering.sources import FromCodes, FromPictures

SIZES = {"a.png": (16, 16), "b.png": (33, 20), "c/d.png": (16, 24)}
CELLS = 8 * 8 + 17 * 10 + 8 * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model, another one, pictures, and a clustering of them in `out`."""
    folder = tmp_path_factory.mktemp("clustering")
    for seed in (0, 1):
        torch.manual_seed(seed)
        SCVAE(TINY).save_pretrained(folder / f"model{seed}")
    for seed, (name, size) in enumerate(SIZES.items()):
        save_picture(folder / "data" / name, scene(*size, seed=seed))
    arguments = f"cluster --checkpoint {folder}/model0 --data {folder}/data --clusters 3,2 --out {folder}/out"
    assert cli.main(arguments.split()) == 0
    return folder


def test_what_the_command_writes(folder: Path) -> None:
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {
        FILE,
        "metrics.json",
        "metrics.md",
        "patches.png",
        "maps.png",
        "quality.png",
    }
    content = json.loads((out / "metrics.json").read_text())
    assert (content["pictures"], content["patches"], content["stride"]) == (3, CELLS, 2)
    assert [each["clusters"] for each in content["quality"]] == [2, 3]
    assert content["quality"][0]["inertia"] > content["quality"][1]["inertia"] > 0
    best = max(content["quality"], key=lambda each: each["silhouette"])
    assert content["clusters"] == best["clusters"] == Clustering.load(out / FILE).k
    assert sum(content["shares"]) == pytest.approx(1)
    assert f"| **{best['clusters']}** | {best['silhouette']:.3f} |" in words(out / "metrics.md")
    for name in ("patches", "maps", "quality"):
        picture = load_picture(out / f"{name}.png")
        assert min(picture.shape[1:]) > 100
        assert picture.std() > 0.05, f"{name} is nearly blank"


def test_a_map_is_that_of_the_nearest_centres(folder: Path) -> None:
    model, clustering = load_model(folder / "model0"), Clustering.load(folder / "out" / FILE)
    picture = load_picture(folder / "data" / "a.png")
    with torch.no_grad():
        codes = model.encode(picture[None]).codes[0].flatten(0, 1).numpy()
    rows = codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-12)
    expected = np.square(rows[:, None] - clustering.fit.centres).sum(2).argmin(1)
    np.testing.assert_array_equal(clustering.assign(model, picture), expected.reshape(8, 8))
    np.testing.assert_array_equal(clustering.assign_rows(codes), expected)
    assert clustering.assign_rows(codes[:0]).shape == (0,)
    assert clustering.assign(model, scene(33, 19)).shape == (17, 10)
    with pytest.raises(ValueError, match=r"rows must be \(M, 24\), got \(4, 3\)"):
        clustering.assign_rows(np.zeros((4, 3)))


def test_another_models_clustering_is_refused(folder: Path) -> None:
    clustering = Clustering.load(folder / "out" / FILE)
    with pytest.raises(UsageError, match="the codes of another model were clustered"):
        clustering.assign(load_model(folder / "model1"), scene(16, 16))


def test_saving_and_loading(folder: Path, tmp_path: Path) -> None:
    clustering = Clustering.load(folder / "out" / FILE)
    clustering.save(tmp_path / "new" / "x.safetensors")
    again = Clustering.load(tmp_path / "new" / "x.safetensors")
    for name in ("centres", "means", "counts"):
        np.testing.assert_array_equal(getattr(again.fit, name), getattr(clustering.fit, name))
    assert (again.settings, again.stride, again.fit.inertia, again.fingerprint) == (
        KMeansSettings(),
        2,
        clustering.fit.inertia,
        load_model(folder / "model0").fingerprint(),
    )


def test_files_that_are_no_clusterings(folder: Path, tmp_path: Path) -> None:
    with safe_open(folder / "out" / FILE, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()["scvae_fast.clustering"]
    key, path = "scvae_fast.clustering", tmp_path / "x.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(UsageError, match=match):
            Clustering.load(path)

    refused("can't be read as a clustering")
    path.write_text("nothing")
    refused("can't be read as a clustering")
    save_file(arrays, path)
    refused("can't be read as a clustering")
    save_file(arrays, path, metadata={key: json.dumps(json.loads(about) | {"schema": 2})})
    refused("is a clustering of format 2; this version reads format 1")
    save_file(arrays, path, metadata={key: json.dumps(json.loads(about) | {"settings": {}})})
    refused("is damaged")
    save_file(arrays | {"counts": np.zeros(9, np.int64)}, path, metadata={key: about})
    refused("don't fit together")
    save_file(arrays | {"means": np.full_like(arrays["means"], np.nan)}, path, metadata={key: about})
    refused("are not finite")


def test_a_file_of_codes_gives_the_same(folder: Path, tmp_path: Path) -> None:
    encode_data(folder / "model0", folder / "data", tmp_path / "codes.parquet", values="float32")
    content = cluster_codes(folder / "model0", tmp_path / "codes.parquet", tmp_path / "out", clusters=[2, 3])
    expected = json.loads((folder / "out" / "metrics.json").read_text())
    assert content["quality"] == expected["quality"]
    assert content["shares"] == expected["shares"]
    np.testing.assert_array_equal(
        Clustering.load(tmp_path / "out" / FILE).fit.centres, Clustering.load(folder / "out" / FILE).fit.centres
    )
    assert (tmp_path / "out" / "patches.png").exists()  # of what the decoder makes of the codes


def test_one_cluster_has_no_silhouette(folder: Path, tmp_path: Path) -> None:
    content = cluster_codes(folder / "model0", Pictures(data=folder / "data", limit=1), tmp_path, clusters=[1])
    assert (content["pictures"], content["quality"][0]["silhouette"]) == (1, None)
    assert "| 1 | – | – |" in words(tmp_path / "metrics.md")
    assert not (tmp_path / "quality.png").exists()


def test_a_figure_of_an_earlier_run_is_removed(folder: Path, tmp_path: Path) -> None:
    for clusters, drawn in (([2, 3], True), ([2], False)):
        cluster_codes(folder / "model0", Pictures(data=folder / "data"), tmp_path, clusters=clusters)
        assert (tmp_path / "quality.png").exists() == drawn


def test_figures_that_can_not_be_drawn_leave_the_other_results(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("scvae_fast.commands._results.save", fail)
    with pytest.raises(MemoryError):
        cluster_codes(folder / "model0", Pictures(data=folder / "data"), tmp_path, clusters=[2])
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "metrics.json", "metrics.md"}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_errors_leave_an_earlier_result(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files(folder / "out")
    blank = CodedPicture("x", (16, 16), SparseCodes.of(torch.zeros(8, 8, 24)))
    write_codes(tmp_path / "blank.parquet", load_model(folder / "model0"), [blank])
    broken = CodedPicture("x.png", (2, 2), SparseCodes.of(torch.full((1, 1, 24), torch.nan)))
    write_codes(tmp_path / "nan.parquet", load_model(folder / "model0"), [blank, broken])
    write_codes(tmp_path / "empty.parquet", load_model(folder / "model0"), [])
    save_picture(tmp_path / "data" / "x.png", scene(4, 4))
    (tmp_path / "nothing").mkdir()
    data = f"--data {folder}/data"
    for source, clusters, message in (
        (f"--codes {tmp_path}/blank.parquet", "2", "2 clusters need at least as many distinct patches"),
        (f"--codes {tmp_path}/nan.parquet", "1", "the codes of x.png contain NaN or infinity"),
        (f"--codes {tmp_path}/empty.parquet", "1", "contains no pictures"),
        (f"--data {tmp_path}/data", "5", "5 clusters need as many patches, there are 4"),
        (f"--data {tmp_path}/nothing", "2", "no pictures in this folder"),
    ):
        arguments = f"cluster --checkpoint {folder}/model0 {source} --clusters {clusters} --out {folder}/out"
        assert cli.main(arguments.split()) == 1
        assert message in capsys.readouterr().err
    for source in (f"{data} --codes x", ""):
        assert cli.main(f"cluster --checkpoint {folder}/model0 {source} --clusters 2".split()) == cli.WRONG
        assert "give either --data or --codes" in capsys.readouterr().err
    limited = f"--checkpoint {folder}/model0 --codes {tmp_path}/blank.parquet --limit 1"
    for command in (f"cluster {limited} --clusters 2", f"evaluate {limited}"):
        assert cli.main(command.split()) == cli.WRONG
        assert "--limit can't be used with --codes" in capsys.readouterr().err
    with pytest.raises(UsageError, match="made by another model"):
        cluster_codes(folder / "model1", tmp_path / "blank.parquet", folder / "out", clusters=[2])
    with pytest.raises(UsageError, match="--clusters must be one or more numbers"):
        cluster_codes(folder / "model0", Pictures(data=folder / "data"), folder / "out", clusters=[])
    assert _files(folder / "out") == before


@pytest.mark.parametrize("clusters", ["", "0", "2,x", "-3"])
def test_invalid_numbers_of_clusters(clusters: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["cluster", "--checkpoint", "x", "--data", "y", f"--clusters={clusters}"])
    assert "must be 1 or more" in capsys.readouterr().err


def test_places_and_their_patches() -> None:
    numbers = [Place(0, 0, 0), Place(0, 1, 2), Place(1, 0, 0), Place(2, 0, 0), Place(2, 3, 1)]
    rows = (0, 5, 6, 7, 14)
    assert places_of([(2, 3), (1, 1), (4, 2)], [15, *rows, 99]) == dict(zip(rows, numbers, strict=True))
    picture = scene(7, 12)  # 4 x 6 cells; the last row of pixels of the last cells is repeated
    torch.testing.assert_close(cut_patch(picture, Place(0, 1, 2), 2), picture[:, 0:6, 2:8])
    corner = cut_patch(picture, Place(0, 3, 5), 2)
    torch.testing.assert_close(corner[:, :3, :4], picture[:, 4:7, 8:12])
    torch.testing.assert_close(corner[:, 3:, 4:], picture[:, 6:7, 11:12].expand(3, 3, 2))


@torch.no_grad()
def test_a_mean_code_fills_a_grid(folder: Path) -> None:
    model = load_model(folder / "model0")
    mean = torch.randn(24)
    painted = paint_means(model, mean[None].numpy())
    whole = model.decode_codes(mean.expand(1, 5, 5, 24)).clamp(-1, 1)
    torch.testing.assert_close(painted, whole[:, :, 2:8, 2:8])


def test_pictures_that_stop_being_readable(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(self: object) -> Iterator[object]:
        return iter(())

    monkeypatch.setattr("scvae_fast.data.stream.PictureStream.numbered", none)
    with pytest.raises(UsageError, match="no picture could be read"):
        cluster_codes(folder / "model0", Pictures(data=folder / "data"), tmp_path, clusters=[2])


@torch.no_grad()
def test_patches_are_cut_or_decoded(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "model0")
    encode_data(folder / "model0", folder / "data", tmp_path / "codes.parquet", values="float32")
    file, stream = CodeFile(tmp_path / "codes.parquet"), PictureStream(folder / "data")
    places = {Place(0, 3, 4), Place(2, 5, 6), Place(2, 0, 0)}
    cut = FromPictures(stream.__iter__, 2).patches(places)
    decoded = FromCodes(model, file).patches(places)
    for place in places:
        torch.testing.assert_close(cut[place], cut_patch(list(stream)[place.picture].picture, place, 2))
        codes = list(file)[place.picture].codes.dense()
        block = F.pad(codes.permute(2, 0, 1)[None], (2, 2, 2, 2), mode="replicate")[0].permute(1, 2, 0)
        block = block[place.row : place.row + 5, place.column : place.column + 5]
        torch.testing.assert_close(decoded[place], model.decode_codes(block[None])[0, :, 2:8, 2:8].clamp(-1, 1))
    assert [named.name for named in FromCodes(model, file).first(2)] == ["a.png", "b.png"]
    torch.testing.assert_close(FromPictures(stream.__iter__, 2).first(9)[2].picture, list(stream)[2].picture)
