import errno
import os
import platform
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scvae_fast import _files
from scvae_fast._files import (
    claim_folder,
    locked,
    printable,
    temporary_folder,
    write_atomically,
    write_json,
    writing_to,
)
from scvae_fast.errors import UsageError


def new(temporary: Path) -> None:
    temporary.write_text("new")


def test_file_and_missing_folders_appear(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_atomically(path, new)
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


def test_file_and_folders_are_flushed_around_the_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[object] = []
    fsync, replace = os.fsync, os.replace

    def flush(file: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda old, new: (happened.append("moved"), replace(old, new)))
    monkeypatch.setattr(platform, "node", lambda: "a machine")  # whose name the lock holds
    write_atomically(tmp_path / "made" / "text.txt", new)
    assert happened == ["folder", len("a machine"), 3, "moved", "folder"]


def test_the_file_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = tmp_path / "text.txt", tmp_path / "before.txt"
    for text in ("1", "2", "3"):
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text), before=before.name)  # type: ignore[misc]
    assert (path.read_text(), before.read_text()) == ("3", "2")

    def no_links(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(path, new, before=before.name)
    assert (path.read_text(), before.read_text()) == ("new", "3")


def test_links_are_followed(tmp_path: Path) -> None:
    target, link, loose = tmp_path / "there" / "file", tmp_path / "link", tmp_path / "loose"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    loose.symlink_to("there/made")
    write_atomically(link, new)
    write_atomically(loose, new)
    assert link.is_symlink()
    assert loose.is_symlink()
    assert target.read_text() == (target.parent / "made").read_text() == "new"


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a pipe"])
def test_only_files_are_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(tmp_path / "there")
        if kind == "link to a pipe":
            path = tmp_path / "link"
            path.symlink_to("there")
    before = path.stat()

    def asked(temporary: Path) -> None:
        raise AssertionError("work was begun")

    with pytest.raises(OSError, match="must not be replaced by a file"):
        write_atomically(path, asked)
    assert path.stat() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from scvae_fast import _files

def write(path):
    path.write_bytes(b"x" * 1000)
    print(flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()

if sys.argv[2] == "lock":
    with _files.locked(Path(sys.argv[1])):
        print(flush=True)
        sys.stdin.read()
else:
    _files.write_atomically(Path(sys.argv[1], "file"), write)
"""


def start(folder: Path, what: str) -> "subprocess.Popen[str]":
    """A process that has begun to write into a folder, or holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return process


@pytest.mark.processes
def test_the_next_write_removes_only_leftovers_of_killed_processes(tmp_path: Path) -> None:
    writes = start(tmp_path, "stay")
    killed = start(tmp_path, "die")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".writing-*"))) == 2
    write_json(tmp_path / "other.json", {})
    assert len(list(tmp_path.glob(".writing-*"))) == 1
    writes.communicate()
    assert writes.returncode == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"other.json", "file"}


def test_files_of_another_machine_are_kept_for_a_week(tmp_path: Path) -> None:
    for name in ("writes", "dead"):
        (tmp_path / f".writing-{name}").mkdir()
        (tmp_path / f".writing-{name}" / ".lock").write_text("another.machine")  # its lock can't be seen from here
        (tmp_path / f".writing-{name}" / "file").touch()
    for path in ((tmp_path / ".writing-dead"), *(tmp_path / ".writing-dead").iterdir(), tmp_path / ".writing-writes"):
        os.utime(path, (0, 0))
    with temporary_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".writing-writes", folder.name}


def test_a_lock_that_names_no_machine_yet_is_left_alone(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / f".writing-{name}").mkdir()
        (tmp_path / f".writing-{name}" / ".lock").touch()
    os.utime(tmp_path / ".writing-old", (0, 0))
    with temporary_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".writing-new", folder.name}


def test_an_old_folder_without_a_lock_is_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "old"):
        (tmp_path / f".writing-{name}").mkdir()
    os.utime(tmp_path / ".writing-old", (0, 0))
    with temporary_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {".writing-new", folder.name}


@pytest.mark.processes
def test_a_folder_is_held_by_one_process_that_lives(tmp_path: Path) -> None:
    holds = start(tmp_path, "lock")
    with pytest.raises(UsageError, match="another process is using"), locked(tmp_path):
        pass
    begin = time.monotonic()
    with pytest.raises(UsageError, match="another process is using"), locked(tmp_path, patience=0.3):
        pass
    assert time.monotonic() - begin >= 0.3
    threading.Timer(0.3, holds.kill).start()
    with locked(tmp_path, patience=60):
        pass
    holds.communicate()
    for _ in range(2):
        with locked(tmp_path):
            claim_folder(tmp_path, empty=True)  # the lock itself is no content


def test_files_are_written_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "fcntl", None)
    (tmp_path / ".writing-old").mkdir()
    os.utime(tmp_path / ".writing-old", (0, 0))
    with locked(tmp_path):
        write_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {".writing-old", "a.json"}


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert printable(name) == "caf\\udce9.png"
    assert printable("café.png") == "café.png"
    write_json(tmp_path / "a.json", {"picture": name})
    assert (tmp_path / "a.json").read_text(encoding="utf-8").count("udce9") == 1


@pytest.mark.parametrize(
    ("number", "name", "of_the_folder"),
    [
        (errno.ENOSPC, None, True),
        (errno.EIO, "out/pictures/x.png", True),
        (errno.ENOTDIR, ".", True),  # above the folder
        (errno.ENOENT, "data/x.png", False),
        (errno.EAGAIN, None, False),  # no more processes
        (errno.ENOMEM, None, False),
        (errno.ECONNRESET, None, False),
        (errno.EPIPE, None, False),
    ],
)
def test_only_errors_of_the_folder_are_reported_as_such(
    number: int, name: str | None, of_the_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = OSError(number, os.strerror(number), name)
    with pytest.raises((OSError, UsageError)) as raised, writing_to(Path("out")):
        raise error
    if of_the_folder:
        assert str(raised.value).startswith("out can't be written to: ")
    else:
        assert raised.value is error
