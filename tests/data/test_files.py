import os
from pathlib import Path
from typing import Any

import pytest
from trees import write_ffhq, write_imagenet, write_pictures

from scvae_fast.data import list_classes, list_ffhq, list_folder, list_imagenet, load_picture
from scvae_fast.data.files import Files, Names, looks_like_ffhq, looks_like_imagenet
from scvae_fast.errors import UsageError


def names(files: Files) -> list[str]:
    return [files.name(index) for index in range(len(files))]


def test_pictures_of_a_folder_in_order(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b.png", "a/ü.JPG", "a/d/c.webp", ".hidden/x.png", "._b.png"])
    (tmp_path / "notes.txt").touch()
    (tmp_path / "data.h5").touch()
    (tmp_path / "folder.png").mkdir()
    files = list_folder(tmp_path)
    assert names(files) == ["a/d/c.webp", "a/ü.JPG", "b.png"]
    assert load_picture(files.source(1)).shape == (3, 40, 40)
    assert names(list_folder(tmp_path, recursive=False)) == ["b.png"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", ["a.png"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "self").symlink_to(root)
    (root / "lost.png").symlink_to(tmp_path / "nowhere.png")
    assert names(list_folder(root)) == ["link/a.png", "lost.png"], "a dangling link is a broken file, not none"


def test_unreadable_folders_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, ["a/x.png", "lost+found/y.png", "z.png"])
    (tmp_path / "loop").symlink_to("loop")
    scandir = os.scandir

    def denied(folder: Any) -> Any:
        if Path(os.fsdecode(folder)).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    assert names(list_folder(tmp_path)) == ["a/x.png", "z.png"]
    assert capsys.readouterr().err == f"skipped: {tmp_path / 'lost+found'}: can't be listed: Permission denied\n"
    with pytest.raises(UsageError, match=r"lost\+found: can't be listed: "):
        list_folder(tmp_path / "lost+found")
    assert not looks_like_imagenet(tmp_path)


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")
    files = list_folder(tmp_path)
    assert names(files) == ["caf\\udce9.png"]
    assert load_picture(files.source(0)).shape == (3, 40, 40)


@pytest.mark.parametrize("prefix", ["", "images1024x1024/"])
def test_ffhq_is_split_by_number(tmp_path: Path, prefix: str) -> None:
    write_ffhq(tmp_path / prefix, [59_999, 3, 60_000, 1000, 69_999])
    write_pictures(tmp_path / prefix, ["LICENSE.png"])
    assert names(list_ffhq(tmp_path, "train")) == ["00000/00003.png", "01000/01000.png", "59000/59999.png"]
    assert names(list_ffhq(tmp_path, "val")) == ["60000/60000.png", "69000/69999.png"]
    assert names(list_ffhq(tmp_path, "all")) == names(list_ffhq(tmp_path, "train")) + names(list_ffhq(tmp_path, "val"))


def test_ffhq_without_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["00002.jpg", "00001.jpg"])
    assert names(list_ffhq(tmp_path, "train")) == ["00001.jpg", "00002.jpg"]
    with pytest.raises(UsageError, match=r"none of the 2 pictures of FFHQ here has a number of 60000 or more \(val\)"):
        list_ffhq(tmp_path, "val")


def test_ffhq_prefers_the_larger_pictures_and_wants_each_once(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images1024x1024/00000.png", "thumbnails128x128/00000.png"])
    assert list_ffhq(tmp_path, "train").source(0) == tmp_path / "images1024x1024" / "00000.png"
    write_pictures(tmp_path, ["images1024x1024/00000/00000.png"])
    with pytest.raises(UsageError, match="00000 of FFHQ is there twice"):
        list_ffhq(tmp_path, "train")


def test_imagenet_has_classes(tmp_path: Path) -> None:
    write_imagenet(tmp_path, training=2, validation=1)
    write_pictures(tmp_path / "val", ["n03/x.png"])
    training, validation = list_imagenet(tmp_path, "train"), list_imagenet(tmp_path, "val")
    assert names(training) == ["n01/0.JPEG", "n01/1.JPEG", "n02/0.JPEG", "n02/1.JPEG"]
    assert training.classes == validation.classes == ("n01", "n02", "n03")
    assert training.labels is not None
    assert validation.labels is not None
    assert training.labels.tolist() == [0, 0, 1, 1]
    assert validation.labels.tolist() == [0, 1, 2]
    both = list_imagenet(tmp_path, "all")
    assert names(both) == [f"train/{name}" for name in names(training)] + [f"val/{name}" for name in names(validation)]
    assert both.labels is not None
    assert both.labels.tolist() == [0, 0, 1, 1, 0, 1, 2]
    assert (both.classes, both.source(6)) == (training.classes, tmp_path / "val" / "n03" / "x.png")
    part = training.subset([3, 0])
    assert (names(part), part.labels.tolist()) == (["n02/1.JPEG", "n01/0.JPEG"], [1, 0])


def test_errors_say_what_is_missing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").touch()
    write_pictures(tmp_path, ["flat/val/a.png", "flat/train/n01/a.png"])
    with pytest.raises(UsageError, match="missing: no such folder"):
        list_folder(tmp_path / "missing")
    with pytest.raises(UsageError, match="file: must be a folder"):
        list_ffhq(tmp_path / "file", "train")
    with pytest.raises(UsageError, match=r"empty: no pictures in this folder$"):
        list_folder(empty)
    with pytest.raises(UsageError, match=r"called 00000\.png"):
        list_ffhq(empty, "train")
    with pytest.raises(UsageError, match="missing: no such folder"):
        list_imagenet(tmp_path / "missing", "train")
    with pytest.raises(UsageError, match="contains no folder train/ with train/CLASS/…, as ImageNet has"):
        list_imagenet(empty, "train")
    with pytest.raises(UsageError, match="contains no pictures in train/CLASS/… or val/CLASS/…, as ImageNet has"):
        list_imagenet(empty, "all")
    for listing in (list_ffhq, list_imagenet):
        with pytest.raises(ValueError, match=f"{listing.__name__}: split must be one of train, val, all, got 'test'"):
            listing(tmp_path, "test")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a folder for each class, but a\.png lies in none"):
        list_imagenet(tmp_path / "flat", "val")


def test_layouts_are_recognised(tmp_path: Path) -> None:
    assert looks_like_ffhq(write_ffhq(tmp_path / "ffhq", [1, 60_001]))
    assert not looks_like_ffhq(write_ffhq(tmp_path / "frames", [1, 2])), "numbered, but nothing of it for validation"
    assert not looks_like_ffhq(write_pictures(tmp_path / "mixed", ["60001.png", "a.png"]))
    assert looks_like_ffhq(write_pictures(tmp_path / "released", ["thumbnails128x128/00000.png"]))
    assert not looks_like_ffhq(write_pictures(tmp_path / "own", ["a.png", "thumbnails/a.png"]))
    assert not looks_like_ffhq(write_ffhq(tmp_path / "beyond", [60_000, 70_000])), "FFHQ ends at 69999"
    assert looks_like_imagenet(write_imagenet(tmp_path / "imagenet"))
    assert not looks_like_imagenet(tmp_path / "ffhq")


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b/x.png", "a/y.png", "a/deep/er.png", ".hidden/x.png"])
    (tmp_path / "c").mkdir()
    files = list_classes(tmp_path)
    assert names(files) == ["a/deep/er.png", "a/y.png", "b/x.png"]
    assert files.classes == ("a", "b", "c")
    assert files.labels is not None
    assert files.labels.tolist() == [0, 0, 1]
    write_pictures(tmp_path, ["x.png"])
    with pytest.raises(UsageError, match=r"a folder for each class, but x\.png lies in none"):
        list_classes(tmp_path)


def test_a_name_takes_its_bytes_and_eight_more(tmp_path: Path) -> None:
    listed = Names(b"%s/%07d.png" % (b"x" * (number % 3), number) for number in range(1000))
    assert listed.n_bytes == sum(map(len, listed)) + 8 * 1001
    assert (listed[0], listed[999], len(listed)) == (b"/0000000.png", b"/0000999.png", 1000)
    assert listed.digest(7) == Names(list(listed)[:7]).digest(7) != Names([*list(listed)[:6], b"other"]).digest(7)
    # What lies in a folder comes before and after what has its name in front, as paths are sorted.
    write_pictures(tmp_path, ["a/x.png", "a.png", "a-b/y.png", "a/b/z.png", "a/b.png"])
    assert names(list_folder(tmp_path)) == ["a-b/y.png", "a.png", "a/b.png", "a/b/z.png", "a/x.png"]
