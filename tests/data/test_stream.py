import tarfile
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch
from trees import write_ffhq, write_imagenet, write_pictures, write_shard

from scvae_fast._shares import Share
from scvae_fast.data import PictureStream, held_out_photographs, load_picture
from scvae_fast.data import stream as stream_module
from scvae_fast.data.square_crops import load_centre
from scvae_fast.errors import UsageError


def names(stream: PictureStream) -> list[str]:
    return [picture.name for picture in stream]


def test_photographs() -> None:
    stream = PictureStream("photographs")
    assert stream.describe() == {"data": "photographs", "layout": "photographs", "split": "val", "resize": None}
    for _ in range(2):
        for (name, picture), photograph in zip(stream, held_out_photographs(), strict=True):
            assert name == photograph.name
            assert torch.equal(picture, photograph.picture)
    assert stream.length == 2
    assert PictureStream("photographs", split="train").length == 19
    assert all(picture.shape == (3, 32, 32) for _, picture in PictureStream("photographs", resize=32))


def test_a_folder_in_order_whole_and_resized(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{i % 3}/{i:02}.png" for i in range(30)], width=50)
    (tmp_path / "notes.txt").touch()
    stream = PictureStream(tmp_path, threads=3)
    expected = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert names(stream) == expected
    assert (stream.length, stream.describe()["layout"], stream.skipped) == (30, "folder", [])
    for name, picture in stream:
        assert torch.equal(picture, load_picture(tmp_path / name))
    for name, picture in PictureStream(tmp_path, resize=16):
        assert torch.equal(picture, load_centre(tmp_path / name, name, 16))


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_some_of_the_pictures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{name}.png" for name in "abcd"]
    data = write_pictures(tmp_path / "x", names)
    if kind == "shard":
        data = tmp_path / "x.tar"
        with tarfile.open(data, "w") as tar:
            for name in names:
                tar.add(tmp_path / "x" / name, name)
        names = [f"x/{name}" for name in names]
    decoded: list[str] = []
    load = stream_module.load_centre

    def count(source: Path | bytes, name: str, side: int) -> torch.Tensor:
        decoded.append(name)
        return load(source, name, side)

    monkeypatch.setattr(stream_module, "load_centre", count)
    whole = PictureStream(data, resize=8)
    some = whole.some([names[2], names[0]], 12)
    assert (some.length, whole.length) == (2, 4)
    found = list(some)
    assert [(each.name, each.size) for each in found] == [(names[0], (12, 12)), (names[2], (12, 12))]
    assert len(decoded) == 2, "no others are decoded"
    assert torch.equal(found[1].picture, load(tmp_path / "x" / "c.png", "", 12))
    assert [each.size for each in whole] == [(8, 8)] * 4


def test_auto_recognises_the_layouts(tmp_path: Path) -> None:
    write_ffhq(tmp_path / "ffhq", [5, 60_001, 60_000])
    write_imagenet(tmp_path / "imagenet")
    write_pictures(tmp_path / "folder", ["a.png"])
    write_shard(tmp_path / "shards" / "a.tar", 0, 2)
    write_shard(tmp_path / "shards" / "b.tar", 2, 1)
    expected = {
        "ffhq": ("ffhq", ["60000/60000.png", "60000/60001.png"]),
        "imagenet": ("imagenet", ["n01/0.JPEG", "n01/1.JPEG", "n02/0.JPEG", "n02/1.JPEG"]),
        "folder": ("folder", ["a.png"]),
        "folder/a.png": ("picture", ["a.png"]),
        "shards": ("shards", ["a/0000.png", "a/0001.png", "b/0002.png"]),
        "shards/{a,b}.tar": ("shards", ["a/0000.png", "a/0001.png", "b/0002.png"]),
    }
    for path, (layout, pictures) in expected.items():
        stream = PictureStream(tmp_path / path)
        assert (stream.describe()["layout"], names(stream)) == (layout, pictures), path
        assert stream.length == len(pictures)
    assert names(PictureStream(tmp_path / "ffhq", split="train")) == ["00000/00005.png"]
    assert len(names(PictureStream(tmp_path / "ffhq", split="all"))) == 3
    assert len(names(PictureStream(tmp_path / "ffhq", layout="folder"))) == 3
    pipe = PictureStream(f"pipe:cat {tmp_path}/shards/a.tar", resize=8)
    assert pipe.length is None
    assert [(name, picture.shape) for name, picture in pipe] == [
        ("shard-00000/0000.png", (3, 8, 8)),
        ("shard-00000/0001.png", (3, 8, 8)),
    ]


def test_a_message_says_that_pictures_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ffhq(tmp_path / "ffhq" / "images1024x1024", [5, 60_001])
    write_imagenet(tmp_path / "imagenet")
    for name, layout in (("FFHQ", "ffhq"), ("ImageNet", "imagenet")):
        PictureStream(tmp_path / layout)
        assert f"{layout} is laid out like {name}: only its split val is used" in capsys.readouterr().err
        PictureStream(tmp_path / layout, split="val")
        PictureStream(tmp_path / layout, split="all")
        PictureStream(tmp_path / layout, layout="folder")
        assert capsys.readouterr().err == ""
        write_pictures(tmp_path / layout, ["test/a.png"])
        assert PictureStream(tmp_path / layout, split="all").describe()["layout"] == layout
        assert "pictures outside its parts are left out (--layout folder takes all)" in capsys.readouterr().err


def test_formats_that_are_not_read_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, ["a.png"])
    for name in ("b.HEIC", "inner/c.heic", "inner/d.nef", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert PictureStream(tmp_path).length == 1
    assert "3 files in unsupported formats are left out: .heic, .nef" in capsys.readouterr().err


def test_parts_are_chosen_only_where_there_are_any(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["train/a.png", "val/b.png"])
    stream = PictureStream(tmp_path)
    assert (stream.length, stream.describe()["layout"], stream.describe()["split"]) == (2, "folder", None)
    with pytest.raises(UsageError, match="pictures of layout folder have no parts to choose by split val"):
        PictureStream(tmp_path, split="val")


def test_a_folder_named_like_embedded_data_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert names(PictureStream("photographs", resize=8)) == ["astronaut", "china"]
    write_pictures(tmp_path / "photographs", ["a.png"])
    assert names(PictureStream("photographs")) == ["a.png"]
    assert "using photographs in this folder, not the data of this name" in capsys.readouterr().err
    assert names(PictureStream("photographs", layout="photographs", resize=8)) == ["astronaut", "china"]
    with pytest.raises(UsageError, match="layout photographs is that of the data called photographs, got other"):
        PictureStream("other", layout="photographs")
    with pytest.raises(UsageError, match="the name of the data is empty"):
        PictureStream("")


def test_names_are_relative_to_a_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images1024x1024/60001.png", "shards/a.png"])
    write_imagenet(tmp_path / "imagenet")
    write_shard(tmp_path / "tars" / "a.tar", 0, 1)
    for stream in (
        PictureStream(tmp_path, layout="ffhq"),
        PictureStream(tmp_path / "imagenet"),
        PictureStream(tmp_path / "imagenet", split="all"),
        PictureStream(tmp_path / "shards" / "a.png"),
    ):
        assert stream.folder is not None
        assert all((stream.folder / name).is_file() for name in names(stream))
    assert PictureStream(tmp_path / "tars").folder is None
    assert PictureStream("photographs").folder is None
    assert [len(names(PictureStream("photographs", split=split, resize=8))) for split in ("train", "val", "all")] == [
        19,
        2,
        21,
    ]


def test_arguments_out_of_range(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    for arguments in ({"layout": "tree"}, {"split": "test"}, {"resize": 0}):
        with pytest.raises(ValueError, match=f"PictureStream: {next(iter(arguments))} must be"):
            PictureStream(tmp_path, **arguments)  # type: ignore[arg-type]


def test_names_stay_in_their_folder_and_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_shard(tmp_path / folder / "a.tar", 0, 1)
    assert names(PictureStream(f"{tmp_path}/{{x,y}}/a.tar")) == ["shard-00000/0000.png", "shard-00001/0000.png"]


def test_broken_files_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, [f"{i}.png" for i in range(9)])
    for i in (0, 4, 8):
        (tmp_path / f"{i}.png").write_text("no picture")
    stream = PictureStream(tmp_path, most_broken=3)
    for _ in range(2):
        assert names(stream) == [f"{i}.png" for i in (1, 2, 3, 5, 6, 7)]
        assert stream.skipped == [f"{tmp_path / f'{i}.png'}: not a picture of a known format" for i in (0, 4, 8)]
        assert capsys.readouterr().err.splitlines() == [f"skipped: {message}" for message in stream.skipped]
    with pytest.raises(UsageError, match=r"more files can't be read than most_broken = 2 allows.*8\.png"):
        names(PictureStream(tmp_path, most_broken=2))


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", 0, 4, broken=[1])
    with tarfile.open(shard) as tar:
        begin = tar.getmember("0003.png").offset_data
    shard.write_bytes(shard.read_bytes()[: begin + 100])
    stream = PictureStream(shard)
    assert names(stream) == ["a/0000.png", "a/0002.png"]
    cut, damaged = sorted(stream.skipped, reverse=True, key=lambda message: message.startswith(str(shard)))
    assert cut == f"{shard}: this shard can't be read to its end: unexpected end of data"
    assert damaged.startswith(f"0001.png in {shard}: can't be read: ")


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path, [f"{i:02}.png" for i in range(40)])
    lock, decoded = threading.Lock(), []
    decode = stream_module.decode_picture

    def note(*args: object) -> torch.Tensor:
        with lock:
            decoded.append(1)
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stream_module, "decode_picture", note)
    running = threading.active_count()
    for taken, _ in enumerate(PictureStream(tmp_path, threads=2)):
        with lock:
            assert len(decoded) <= taken + 1 + 2 * 2 + 1
    assert len(decoded) == 40
    list(islice(PictureStream(tmp_path, threads=2), 3))
    assert threading.active_count() == running, "left in the midst, it ends its threads"


def test_missing_data_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_shard(tmp_path / "empty.tar", 0, 0)
    write_ffhq(tmp_path / "ffhq", [1])
    with pytest.raises(UsageError, match="missing: no such file or folder"):
        PictureStream(tmp_path / "missing")
    with pytest.raises(UsageError, match="no pictures in this folder"):
        PictureStream(tmp_path / "empty")
    with pytest.raises(UsageError, match="no pictures in these shards"):
        PictureStream(tmp_path / "empty.tar")
    with pytest.raises(UsageError, match="number of 60000 or more"):
        PictureStream(tmp_path / "ffhq", layout="ffhq")
    with pytest.raises(UsageError, match="contains no folder val/"):
        PictureStream(tmp_path / "ffhq", layout="imagenet")
    with pytest.raises(ValueError, match="layout must be one of auto, photographs"):
        PictureStream(tmp_path / "ffhq", layout="flat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resize must be at least 1"):
        PictureStream(tmp_path / "ffhq", resize=0)


def test_a_name_in_a_folder_runs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipe:touch HERE;.tar").write_bytes(b"")
    for data in (".", "pipe:touch HERE;.tar"):
        with pytest.raises(UsageError, match="no pictures in these shards"):
            PictureStream(data)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_archive_beside_the_pictures_hides_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, ["inside/a.png", "inside/b.png"])
    write_shard(tmp_path / "all.tar", 0, 3)
    stream = PictureStream(tmp_path)
    assert (stream.describe()["layout"], stream.length) == ("folder", 2)
    assert "contains pictures and 1 tar files, such as all.tar: the pictures are used" in capsys.readouterr().err
    assert PictureStream(tmp_path, layout="shards").length == 3


def test_squares_too_large_for_memory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"resize to 999999 x 999999 = .*SCVAE_FAST_MAX_MEGAPIXELS raises that"):
        PictureStream("photographs", resize=999_999)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 20])
def test_parts_together_are_the_whole(parts: int, tmp_path: Path) -> None:
    write_pictures(tmp_path / "files", [f"{i:02}.png" for i in range(11)])
    (tmp_path / "files" / "04.png").write_text("no picture")
    for index, (first, count) in enumerate([(0, 4), (4, 0), (4, 1), (5, 6), (11, 0)]):
        write_shard(tmp_path / "shards" / f"{index}.tar", first, count, broken=[4])
    cut = tmp_path / "shards" / "3.tar"
    cut.write_bytes(cut.read_bytes()[:-9000])  # in the last picture, or behind it
    for data in (tmp_path / "files", tmp_path / "shards"):
        whole = PictureStream(data, threads=1)
        numbered, shared = [(number, named.name) for number, named in whole.numbered()], []
        assert numbered
        streams = [whole.part(Share(part, parts), block=2) for part in range(1, parts + 1)]
        for stream in streams:
            shared += [(number, named.name) for number, named in stream.numbered()]
        assert shared == numbered
        assert [message for stream in streams for message in stream.skipped] == whole.skipped
        assert sum(stream.length or 0 for stream in streams) == whole.length
        assert {stream.listing() for stream in streams} == {whole.listing()}


def test_a_limit_counts_what_is_listed(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{i}.png" for i in range(5)])
    (tmp_path / "1.png").write_text("no picture")
    stream = PictureStream(tmp_path, limit=3)
    assert names(stream) == ["0.png", "2.png"]
    assert (stream.length, PictureStream(tmp_path, limit=9).length) == (3, 5)
    assert stream.listing() != PictureStream(tmp_path).listing()
    assert [[named.name for named in block] for block in PictureStream(tmp_path).blocks(2)] == [
        ["0.png"],
        ["2.png", "3.png"],
        ["4.png"],
    ]
    write_shard(tmp_path / "a.tar", 0, 5)
    pipe = PictureStream(f"pipe:cat {tmp_path}/a.tar", limit=2)
    assert names(pipe) == ["shard-00000/0000.png", "shard-00000/0001.png"]
    with pytest.raises(UsageError, match="the number of pictures is unknown, so they can't be divided"):
        pipe.part(Share(1, 2))
