from pathlib import Path

import pytest
from pictures import scene

from scvae_fast.commands.reconstruct import reconstruct_files, result_paths
from scvae_fast.data import load_picture, save_picture
from scvae_fast.errors import UsageError


def test_pictures_of_any_size_and_kind(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"dot.png": (1, 1), "strip.png": (7, 300), "photograph.jpg": (33, 50)}
    for name, size in sizes.items():
        save_picture(tmp_path / name, scene(*size))
    unread = reconstruct_files(checkpoint, [tmp_path / name for name in sizes], tmp_path / "out")
    assert unread == []
    for name, size in sizes.items():
        assert load_picture(tmp_path / "out" / f"{Path(name).stem}.png").shape == (3, *size)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("dB" in line and "% of the code entries" in line for line in lines)


def test_unreadable_files_are_named_and_the_others_are_rebuilt(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_picture(tmp_path / "good.png", scene(20, 20))
    (tmp_path / "bad.png").write_text("no picture")
    files = [tmp_path / "bad.png", tmp_path / "missing.png", tmp_path / "good.png"]
    assert reconstruct_files(checkpoint, files, tmp_path / "out") == files[:2]
    errors = capsys.readouterr().err
    assert "bad.png" in errors
    assert "missing.png" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_results_never_collide() -> None:
    pictures = [Path("a/x.png"), Path("b/x.jpg"), Path("b/X.png"), Path("y.png"), Path("out/z.png")]
    results = result_paths(pictures, Path("out"))
    names = ["x.png", "x-2.png", "X-3.png", "y.png", "z-2.png"]
    assert results == [Path("out") / name for name in names]


def test_an_original_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "x.png", scene(20, 20))
    before = (tmp_path / "x.png").read_bytes()
    reconstruct_files(checkpoint, [tmp_path / "x.png"], tmp_path)
    assert (tmp_path / "x.png").read_bytes() == before
    assert (tmp_path / "x-2.png").exists()


def test_nothing_is_overwritten_in_a_folder_of_pictures(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "x.jpg", scene(20, 20))
    save_picture(tmp_path / "x.png", scene(10, 10))  # which is another picture
    before = (tmp_path / "x.png").read_bytes()
    reconstruct_files(checkpoint, [tmp_path / "x.jpg"], tmp_path)
    assert (tmp_path / "x.png").read_bytes() == before
    assert load_picture(tmp_path / "x-2.png").shape == (3, 20, 20)


def test_only_own_results_are_replaced(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "sub" / "a.jpg", scene(20, 20))
    for name in ("a.png", "A-2.png"):
        save_picture(tmp_path / name, scene(10, 10))
    (tmp_path / "a-3.png").mkdir()
    (tmp_path / "a-4.png").symlink_to(tmp_path / "nowhere.png")
    before = {name: (tmp_path / name).read_bytes() for name in ("a.png", "A-2.png")}
    for _ in range(2):  # the second run replaces the result of the first
        reconstruct_files(checkpoint, [tmp_path / "sub"], tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"sub", "a.png", "A-2.png", "a-3.png", "a-4.png", "a-5.png"}
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        save_picture(tmp_path / "sub" / "a.jpg", scene(12, 14))
    assert load_picture(tmp_path / "a-5.png").shape == (3, 12, 14)


def test_earlier_results_are_no_pictures_of_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", scene(20, 20))
    for _ in range(2):
        reconstruct_files(checkpoint, [tmp_path], tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.png", "a.png"]
    reconstruct_files(checkpoint, [tmp_path], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png"]
    with pytest.raises(UsageError, match=r"out contains only earlier results .*: choose another --out"):
        reconstruct_files(checkpoint, [tmp_path / "out"], tmp_path / "out")
    # An earlier result that is named is a picture like any other.
    before = (tmp_path / "out" / "a.png").read_bytes()
    reconstruct_files(checkpoint, [tmp_path / "out" / "a.png"], tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == before


def test_a_link_to_itself_is_skipped(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "in" / "a.png", scene(20, 20))
    loop = tmp_path / "in" / "loop.png"
    loop.symlink_to(loop)
    assert reconstruct_files(checkpoint, [tmp_path / "in"], tmp_path / "out") == [loop]
    assert "skipped: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_errors_that_leave_nothing_to_do(checkpoint: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "x.png", scene(20, 20))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"checkpoint .*empty can't be loaded"):
        reconstruct_files(tmp_path / "empty", [tmp_path / "x.png"], tmp_path / "out")
    with pytest.raises(UsageError, match="can't be written"):
        reconstruct_files(checkpoint, [tmp_path / "x.png"], tmp_path / "x.png" / "out")
