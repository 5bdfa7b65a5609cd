import os
from pathlib import Path

import pytest
import torch
from pictures import TINY, scene
from trees import write_imagenet

from scvae_fast import cli
from scvae_fast.codes import CodedPicture, SparseCodes
from scvae_fast.codes.storage import CodeFile, write_codes
from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.commands._inputs import InferenceOptions
from scvae_fast.commands.decode import decode_codes
from scvae_fast.commands.encode import encode_data
from scvae_fast.data import load_picture, save_picture
from scvae_fast.data.pictures import to_bytes
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model

FILES = {"a.png": (16, 16), "b.png": (16, 16), "deep/er/c.jpg": (33, 20), "deep/er/c.png": (7, 40)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, size) in enumerate(FILES.items()):
        save_picture(folder / name, scene(*size, seed=seed))
    return folder


def test_there_and_back(checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = tmp_path / "codes.parquet"
    size = encode_data(checkpoint, data, codes, values="float32", inference=InferenceOptions(batch_size=1))
    assert decode_codes(checkpoint, codes, tmp_path / "out", inference=InferenceOptions(batch_size=1)) == 4
    model = load_model(checkpoint)
    results = {"a.png": "a.png", "b.png": "b.png", "deep/er/c.jpg": "deep/er/c.png", "deep/er/c.png": "deep/er/c-2.png"}
    for name, result in results.items():
        expected = reconstruct_tiled(model, load_picture(data / name)).x_hat
        assert (to_bytes(load_picture(tmp_path / "out" / result)) == to_bytes(expected)).all(), name
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")} == set(
        results.values()
    )
    printed = capsys.readouterr().out
    pixels = sum(height * width for height, width in FILES.values())
    cells = sum(-(-height // 2) * -(-width // 2) for height, width in FILES.values())
    assert f"4 pictures, {pixels:,} pixels, {cells:,} codes" in printed
    assert f"{8 * codes.stat().st_size / pixels:.3f} bits per pixel" in printed.splitlines()[2]
    assert f"{size.entries / cells / 24:.2%} of the code entries" in printed
    originals = sum((data / name).stat().st_size for name in FILES)
    assert f"the picture files: {originals:,} bytes, {8 * originals / pixels:.3f} bits per pixel" in printed
    assert printed.splitlines()[-1].endswith(f"{8 * codes.stat().st_size / pixels:.3f} bits per pixel")


def test_files_of_a_data_set_in_two_parts_are_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagenet(tmp_path / "data", training=2, validation=1)
    for split, pattern in (("val", "val/*/*"), ("all", "*/*/*")):
        encode_data(checkpoint, data, tmp_path / "codes.parquet", split=split)  # type: ignore[arg-type]
        originals = sum(path.stat().st_size for path in data.glob(pattern))
        assert f"the picture files: {originals:,} bytes" in capsys.readouterr().out


def test_some_pictures_as_squares(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_data(checkpoint, data, tmp_path / "codes.parquet", limit=3)
    assert [picture.name for picture in CodeFile(tmp_path / "codes.parquet")] == list(FILES)[:3]
    capsys.readouterr()
    seen = []

    class Stream:
        def __init__(self, data: Path, **options: object) -> None:
            seen.append(options)

        length = 1

        def blocks(self, size: int) -> object:
            from scvae_fast.data.stream import NamedPicture

            return iter([[NamedPicture("a.png", scene(8, 8))]])

    monkeypatch.setattr("scvae_fast.commands.encode.PictureStream", Stream)
    encode_data(checkpoint, data, tmp_path / "codes.parquet", layout="folder", split="train", resize=8)
    assert seen == [{"layout": "folder", "split": "train", "resize": 8, "limit": None}]
    assert "the picture files" not in capsys.readouterr().out  # they were not coded whole


@pytest.mark.parametrize(("side", "size"), [("none", (7, 40)), ("8", (8, 8))])
def test_resize_on_the_command_line(
    side: str, size: tuple[int, int], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    codes = str(tmp_path / "codes.parquet")
    picture = str(data / "deep" / "er" / "c.png")
    command = ["encode", "--checkpoint", str(checkpoint), "--data", picture, "--resize", side, "--out", codes]
    assert cli.main(command) == 0
    (coded,) = CodeFile(codes)
    assert coded.size == size


def test_codes_of_another_model(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    SCVAE(TINY).save_pretrained(tmp_path / "other")
    encode_data(checkpoint, data, tmp_path / "codes.parquet")
    with pytest.raises(UsageError, match=r"made by another model.*; --force decodes them anyway"):
        decode_codes(tmp_path / "other", tmp_path / "codes.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert decode_codes(tmp_path / "other", tmp_path / "codes.parquet", tmp_path / "out", force=True) == 4
    SCVAE(TINY.__class__(**{**TINY.to_dict(), "n_atoms": 20})).save_pretrained(tmp_path / "fewer")
    with pytest.raises(UsageError, match=r"has codes over 24 atoms for 2 x 2 pixels, .*fewer over 20 for 2 x 2"):
        decode_codes(tmp_path / "fewer", tmp_path / "codes.parquet", tmp_path / "more", force=True)


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "", ".", "x\0.png"])
def test_no_picture_gets_out_of_the_folder(name: str, checkpoint: Path, tmp_path: Path) -> None:
    fine, blank = "fine.png", SparseCodes.of(torch.zeros(1, 1, 24))
    pictures = [CodedPicture(fine, (2, 2), blank), CodedPicture(name, (1, 2), blank)]
    write_codes(tmp_path / "codes.parquet", load_model(checkpoint), pictures)
    with pytest.raises(UsageError, match="which would be outside the folder"):
        decode_codes(checkpoint, tmp_path / "codes.parquet", tmp_path / "a" / "out")
    assert {path.name for path in tmp_path.rglob("*.png")} <= {fine}


def test_names_without_a_suffix_of_pictures(checkpoint: Path, tmp_path: Path) -> None:
    blank = SparseCodes.of(torch.zeros(1, 1, 24))
    names = ["v1.5", "v1.6", "x.jpeg", "x.JPG"]
    write_codes(
        tmp_path / "codes.parquet", load_model(checkpoint), [CodedPicture(name, (2, 2), blank) for name in names]
    )
    decode_codes(checkpoint, tmp_path / "codes.parquet", tmp_path / "out", suffix="jpg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v1.5.jpg", "v1.6.jpg", "x-2.jpg", "x.jpg"]


def test_equal_names_are_found_without_looking_at_all_that_are_taken(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank, count = SparseCodes.of(torch.zeros(1, 1, 24)), 40
    pictures = [CodedPicture("a.png", (2, 2), blank)] * count
    write_codes(tmp_path / "codes.parquet", load_model(checkpoint), pictures)
    looks = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: looks.append(path) or exists(path))  # type: ignore[func-returns-value]
    decode_codes(checkpoint, tmp_path / "codes.parquet", tmp_path / "out")
    assert sum(path.parent.name == "out" and path.suffix == ".png" for path in looks) <= 3 * count
    assert len(list((tmp_path / "out").iterdir())) == count


def test_a_name_that_is_not_utf_8(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "a.png", scene(8, 8))
    os.rename(os.fsencode(tmp_path / "data" / "a.png"), os.fsencode(tmp_path / "data") + b"/caf\xe9.png")
    encode_data(checkpoint, tmp_path / "data", tmp_path / "codes.parquet")
    decode_codes(checkpoint, tmp_path / "codes.parquet", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["caf\\udce9.png"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(checkpoint: Path, data: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir() if kind == "folder" else os.mkfifo(out)
    with pytest.raises(UsageError, match="must not be replaced by a file"):
        encode_data(checkpoint, data, out)
    assert not out.is_file()


def test_a_folder_with_something_in_it(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    encode_data(checkpoint, data, tmp_path / "codes.parquet")
    with pytest.raises(UsageError, match="is not empty: choose another folder"):
        decode_codes(checkpoint, tmp_path / "codes.parquet", data)
    with pytest.raises(UsageError, match="can't be written to"):
        decode_codes(checkpoint, tmp_path / "codes.parquet", data / "a.png")


def test_unusable_inputs(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.parquet"
    with pytest.raises(UsageError, match=r"checkpoint .* can't be loaded"):
        encode_data(tmp_path / "missing", data, out)
    with pytest.raises(UsageError, match="--layout must be one of auto, photographs"):
        encode_data(checkpoint, data, out, layout="tree")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--split must be one of train, val"):
        encode_data(checkpoint, data, out, split="test")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'gpu' is not a device"):
        encode_data(checkpoint, data, out, inference=InferenceOptions(device="gpu"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_text("no picture")
    with pytest.raises(UsageError, match="broken: no picture could be read"):
        encode_data(checkpoint, tmp_path / "broken", out)
    grey = TINY.__class__(**{**TINY.to_dict(), "in_channels": 1})
    SCVAE(grey).save_pretrained(tmp_path / "grey")
    with pytest.raises(UsageError, match="is for pictures with 1 channels, not 3"):
        encode_data(tmp_path / "grey", data, out)
    assert not out.exists()
