"""Divided work: parts of a folder of codes, and two or three joined processes, compared with a single one."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_work
import torch
from pictures import TINY, scene
from processes import TESTS, run

from scvae_fast import cli
from scvae_fast._shares import Processes, Share
from scvae_fast.codes import storage
from scvae_fast.codes.storage import CodeFile, CodeFileError
from scvae_fast.commands._inputs import InferenceOptions
from scvae_fast.commands.encode import encode_data
from scvae_fast.data import save_picture
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.models import SCVAE

# Two names lead to one path; sizes go whole and in tiles; 3.png is broken.
SIZES = {
    "0.png": (16, 16),
    "1.jpg": (16, 16),
    "1.png": (16, 12),
    "2.png": (9, 20),
    "4.png": (16, 16),
    "5.png": (16, 16),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, size) in enumerate(SIZES.items()):
        save_picture(folder / name, scene(*size, seed=seed))
    (folder / "3.png").write_text("no picture")
    return folder


def encode(checkpoint: Path, data: Path, out: Path, part: str | None = None, **options: Any) -> Any:
    """In blocks of two pictures."""
    share = None if part is None else Share.parse(part)
    settings = InferenceOptions(device="cpu", batch_size=2)
    return encode_data(checkpoint, data, out, values="float32", inference=settings, part=share, **options)


def assert_same(one: Path, other: Path) -> None:
    for found, expected in zip(CodeFile(one), CodeFile(other), strict=True):
        assert found[:2] == expected[:2]
        for name in ("counts", "atoms", "values"):
            assert np.array_equal(getattr(found.codes, name), getattr(expected.codes, name)), found.name


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_in_their_order_are_the_file(parts: int, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    size = encode(checkpoint, data, tmp_path / "one.parquet")
    folder = tmp_path / "parts"
    for part in reversed(range(1, parts + 1)):
        whole = encode(checkpoint, data, folder, f"{part}/{parts}")
    assert (whole.pictures, whole.pixels, whole.cells, whole.entries) == (
        (size.pictures, size.pixels, size.cells, size.entries)
    )
    assert whole.n_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert_same(folder, tmp_path / "one.parquet")
    file = CodeFile(folder)
    assert (len(file), file.skipped, list(file.names())) == (6, 1, list(SIZES))
    assert len(list(folder.glob("part-*.parquet"))) == parts, "parts without pictures as well"
    for share in (Share(1, 2), Share(2, 2), Share(3, 4)):
        own = file.part(share)
        assert [each.name for each in own] == list(SIZES)[own.first :][: len(own)]
        assert list(own.grids()) == [(each.codes.h, each.codes.w) for each in own]


def test_complete_parts_are_kept_and_killed_ones_are_repeated(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    encode(checkpoint, data, folder, "1/3")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    columns = storage._table

    def killed(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_table", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(checkpoint, data, folder, "2/3")
    encode(checkpoint, data, folder, "1/3")
    assert "part 1/3 of" in capsys.readouterr().out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    with pytest.raises(CodeFileError, match=r"parts lacks parts: 2, 3; repeat the scvae-fast encode command"):
        CodeFile(folder)
    assert cli.main(["decode", "--checkpoint", str(checkpoint), str(folder), "--out", str(tmp_path / "out")]) == 1
    monkeypatch.setattr(storage, "_table", columns)
    assert encode(checkpoint, data, folder, "2/3") is None
    assert encode(checkpoint, data, folder, "3/3").pictures == 6


def test_parts_of_something_else_are_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "parts", tmp_path / "other"
    torch.manual_seed(1)
    SCVAE(TINY).save_pretrained(other)
    encode(checkpoint, data, folder, "1/2")
    shutil.copytree(data, tmp_path / "more")
    save_picture(tmp_path / "more" / "6.png", scene(16, 16))
    for part in ("1/2", "2/2"):
        with pytest.raises(
            CodeFileError, match=r"00001-of-00002.parquet: its codes were made by another model; choose"
        ):
            encode(other, data, folder, part)
        with pytest.raises(CodeFileError, match="its pictures come from another listing"):
            encode(checkpoint, tmp_path / "more", folder, part)
        with pytest.raises(CodeFileError, match="its codes were made with other settings: resize"):
            encode(checkpoint, data, folder, part, resize=8)
    with pytest.raises(CodeFileError, match="it is one of 2 parts, not of 3"):
        encode(checkpoint, data, folder, "1/3")
    # A reader looks at all parts.
    encode(other, data, tmp_path / "others", "2/2")
    second = folder / "part-00002-of-00002.parquet"
    shutil.copy(tmp_path / "others" / second.name, second)
    with pytest.raises(CodeFileError, match=r"00002.parquet does not belong to part-00001.*: .* made by another model"):
        CodeFile(folder)
    shutil.copy(folder / "part-00001-of-00002.parquet", second)
    with pytest.raises(CodeFileError, match=r"is part 1 of 2 and must be named part-00001-of-00002\.parquet"):
        CodeFile(folder)
    second.rename(folder / "part-00002-of-00003.parquet")
    with pytest.raises(CodeFileError, match="mixes parts of divisions into 2 and 3 parts"):
        CodeFile(folder)
    encode(checkpoint, data, folder / "codes.parquet")
    with pytest.raises(CodeFileError, match=r"holds codes.parquet, which is not a part"):
        CodeFile(folder)


def test_part_is_refused_under_torchrun(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ArgumentError, match="--part 1/2 can't be used under torchrun"):
        encode(checkpoint, data, tmp_path / "parts", "1/2")
    assert not (tmp_path / "parts").exists()
    encode(checkpoint, data, tmp_path / "parts")
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["part-00001-of-00001.parquet"]
    with pytest.raises(SystemExit):
        cli.main(["encode", "--checkpoint", "x", "--data", "y", "--out", "z", "--part", "3/2"])
    assert "argument --part: must be I/N, the I-th of N parts" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be written to"):
        encode(checkpoint, data, tmp_path / "file")


def commands(checkpoint: Path, data: Path, few: Path, out: Path) -> list[list[str]]:
    """Each command, with {N} where the number of processes goes."""
    common = ["--checkpoint", str(checkpoint), "--batch-size", "2", "--device", "cpu"]
    evaluate = ["evaluate", *common, "--metrics", "psnr", "ssim", "codes", "block-means", "--resize"]
    return [
        ["encode", *common, "--data", str(data), "--dtype", "float32", "--out", f"{out}/codes-{{N}}"],
        ["encode", *common, "--data", str(few), "--dtype", "float32", "--out", f"{out}/few-codes-{{N}}"],
        ["decode", *common, f"{out}/codes-{{N}}", "--out", f"{out}/decoded-{{N}}"],
        [*evaluate, "none", "--data", str(data), "--out", f"{out}/rated-{{N}}"],
        [*evaluate, "model", "--data", str(few), "--out", f"{out}/few-rated-{{N}}"],
        ["evaluate", *common, "--codes", f"{out}/codes-{{N}}", "--out", f"{out}/rated-codes-{{N}}"],
        ["cluster", *common, "--data", str(data), "--clusters", "2,3", "--out", f"{out}/clusters-{{N}}"],
        ["cluster", *common, "--codes", f"{out}/codes-{{N}}", "--clusters", "3", "--out", f"{out}/of-codes-{{N}}"],
    ]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def out(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one, two and three processes; "few" is a folder with a single picture."""
    folder, few = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("few")
    shutil.copy(data / "0.png", few)
    wanted = commands(checkpoint, data, few, folder)
    for arguments in wanted:
        assert cli.main([each.replace("{N}", "1") for each in arguments]) == 0
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS / "support")])
    ports = json.dumps(free_ports(2 * (1 + len(wanted))))
    script = [
        sys.executable,
        str(TESTS / "support" / "shared_work.py"),
        "[2, 3]",
        json.dumps(wanted),
        ports,
        str(folder),
    ]
    run(*script, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, timeout=300)
    return folder


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


@pytest.mark.processes
@pytest.mark.parametrize("size", [2, 3])
def test_processes_under_torchrun_write_what_one_process_writes(size: int, out: Path) -> None:
    for name in ("codes", "few-codes"):
        assert_same(out / f"{name}-{size}", out / f"{name}-1")
        assert len(list((out / f"{name}-{size}").iterdir())) == size
    decoded = {path.name: path.read_bytes() for path in (out / f"decoded-{size}").iterdir()}
    assert decoded == {path.name: path.read_bytes() for path in (out / "decoded-1").iterdir()}
    assert set(decoded) == {"0.png", "1.png", "1-2.png", "2.png", "4.png", "5.png"}
    for name in ("rated", "few-rated", "rated-codes"):
        found, expected = result(out / f"{name}-{size}"), result(out / f"{name}-1")
        assert (found["processes"], expected["processes"]) == (size, 1)
        for key in ("n_pictures", "n_tiled", "skipped", "unavailable"):
            assert found[key] == expected[key], key
        assert found["figures"].keys() == expected["figures"].keys()
        for metric, figures in expected["figures"].items():
            assert flat(found["figures"][metric]) == pytest.approx(flat(figures), rel=1e-6), metric
    assert flat(found["figures"]["codes"]) == pytest.approx(flat(result(out / "rated-1")["figures"]["codes"]), rel=1e-6)
    for picture in ("best", "worst"):
        path = Path("pictures", f"{picture}.png")
        assert (out / f"rated-{size}" / path).stat().st_size == (out / "rated-1" / path).stat().st_size
    for name in ("clusters", "of-codes"):
        found, expected = result(out / f"{name}-{size}"), result(out / f"{name}-1")
        for key in ("pictures", "patches", "clusters"):
            assert found[key] == expected[key]
        for one, other in zip(found["quality"], expected["quality"], strict=True):
            assert one == pytest.approx(other, rel=1e-4)
        assert {path.name for path in (out / f"{name}-{size}").iterdir()} == {
            path.name for path in (out / f"{name}-1").iterdir()
        }


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    inner = {
        f"{name}.{key}": v for name, value in figures.items() if isinstance(value, dict) for key, v in value.items()
    }
    return inner | {name: value for name, value in figures.items() if not isinstance(value, (dict, list))}


@pytest.mark.processes
@pytest.mark.parametrize("size", [2, 3])
def test_distances_and_clusters_are_those_of_one_process(size: int, out: Path) -> None:
    found = json.loads((out / f"found-{size}.json").read_text(encoding="utf-8"))
    alone = Processes()
    assert found["distances"] == pytest.approx(shared_work.distances(alone), rel=1e-9)
    assert found["few"] == pytest.approx(shared_work.distances(alone, 2), rel=1e-9)
    assert found["perceptual"] == pytest.approx(shared_work.perceptual(alone), rel=1e-12)
    assert found["perceptual"][1:] == [4, 1]
    expected = shared_work.clusters(alone)
    for name in ("counts", "examples"):
        assert found["clusters"][name] == expected[name]
    for name in ("centres", "means", "inertia"):
        for one, other in zip(found["clusters"][name], expected[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    for one, other in zip(found["clusters"]["quality"], expected["quality"], strict=True):
        assert one == pytest.approx(other, rel=1e-6)
