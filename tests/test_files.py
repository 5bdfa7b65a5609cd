from pathlib import Path

import pytest

from scvae_fast._files import write_atomically


def test_file_and_missing_folders_appear(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["text.txt"]


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.txt"]


def test_temporary_file_has_the_same_suffix_and_folder(tmp_path: Path) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.touch()

    write_atomically(tmp_path / "picture.png", write)
    assert seen[0].suffix == ".png"
    assert seen[0].parent.parent == tmp_path
