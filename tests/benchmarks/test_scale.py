"""The data and the measurements of docs/scale.md."""

from pathlib import Path

from benchmarks import scale
from scvae_fast.data import PictureStream


def test_crops_are_those_of_the_photographs_and_begin_again(tmp_path: Path) -> None:
    n_bytes = scale.write_crops(tmp_path, 400, 256)
    assert [named.size for named in PictureStream(tmp_path, limit=2)] == [(256, 256)] * 2
    files = [path.read_bytes() for path in sorted(tmp_path.rglob("*.jpg"))]
    assert n_bytes == sum(map(len, files))
    again = files.index(files[0], 1)
    assert 20 < again < 400
    assert files[again:] == files[: 400 - again]


def test_names_and_stages(checkpoint: Path, tmp_path: Path) -> None:
    assert 30 < scale.names(5000)["bytes"] < scale.names(5000)["of strings"] - 40
    assert scale.listing(50)["seconds"] > 0
    scale.write_crops(tmp_path, 20, 16)
    found = scale.stages(str(checkpoint), tmp_path, 20)
    assert {"reading and decoding JPEG", "LISTA", "Parquet"} <= found.keys()
    assert all(milliseconds > 0 for milliseconds in found.values())
