"""Atomic file writes, and folders that only one process at a time may use."""

import contextlib
import errno
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scvae_fast.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: no locks, so leftovers of killed processes are not removed
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = ".writing-"
_LOCK = ".lock"
# A temporary folder without a lock is a leftover after so many seconds; a living process locks its own at once.
_ABANDONED = 3600.0
# The same for a folder of another machine: on some network file systems its locks are not visible here.
_ABANDONED_ELSEWHERE = 7 * 24 * 3600.0
# Errors of processes and memory, which are not caused by a disk.
_NO_FILES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_tidied: set[Path] = set()


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[Path], object], *, before: str | None = None
) -> None:
    """Have `write` make a file under a temporary name in the same folder, then move it to `path`.

    Readers of `path` see the old file or the new one, even after a power cut: file and folder are flushed to the disk.
    Missing folders are created. Leftovers of killed processes in the folder are removed.

    Args:
        path: the file; an existing one is replaced. Symbolic links are followed.
        write: gets the temporary path, which has the suffix of `path`, and writes the whole file.
        before: name in the same folder under which the replaced file is kept.

    Raises:
        OSError: the folder can't be written to, or `path` is a folder, a device, a pipe or similar.
    """
    path = _plain_file(Path(path))
    make_folder(path.parent)
    with temporary_folder(path.parent) as folder:
        # In a folder of its own the file gets the permissions that the user's umask allows.
        temporary = folder / path.name
        write(temporary)
        _flush(temporary)
        if before is not None and path.exists():
            _keep(path, folder, path.with_name(before))
        os.replace(temporary, path)
        _flush(path.parent)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent`, removed at the end; if this process is killed, the next one that writes here removes it.

    Raises:
        OSError: `parent` can't be written to.
    """
    _tidy(parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_TEMPORARY))
        try:
            lock = try_lock(folder / _LOCK)
        except BlockingIOError:  # another process took it for a leftover before it was locked
            continue
        if folder.exists():
            if lock is not None:
                with contextlib.suppress(OSError):  # a full disk shows at the next write
                    os.write(lock, os.fsencode(platform.node()))
                    os.fsync(lock)  # so that other machines see it now
            break
        unlock(lock)
    try:
        yield folder
    finally:
        unlock(lock)  # first: network file systems keep a file that is open
        shutil.rmtree(folder, ignore_errors=True)  # the next process removes the rest


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder against other processes. The lock ends with the process, however that ends.

    Args:
        folder: an existing folder.
        patience: seconds to wait for another process that holds it.

    Raises:
        UsageError: another process holds the folder.
        OSError: it can't be written to.
    """
    path, end = folder / _LOCK, time.monotonic() + patience
    while True:
        try:
            lock = try_lock(path)
        except BlockingIOError as error:
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            raise UsageError(f"another process is using {folder}: wait for it, or choose another folder") from error
        if lock is None or _is_at(lock, path):
            break
        unlock(lock)  # the file was removed by its holder meanwhile
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        unlock(lock)


def _is_at(lock: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), path.stat())
    return False


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and flush them to the disk.

    Raises:
        OSError: it can't be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush(each.parent)


def cache_folder() -> Path:
    """The folder for results about this machine: SCVAE_FAST_CACHE, or scvae_fast under XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SCVAE_FAST_CACHE") or Path(base, "scvae_fast"))


def claim_folder(folder: Path, *, empty: bool = False) -> None:
    """Check before hours of work that a folder can be written to.

    Args:
        folder: created if it doesn't exist.
        empty: whether it must be empty, so that nothing is overwritten or mixed with the results.

    Raises:
        UsageError: it can't be written to, or it must be empty and is not.
    """
    with writing_to(folder):
        if empty and folder.is_dir() and any(entry.name != _LOCK for entry in folder.iterdir()):
            raise UsageError(f"{folder} is not empty: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Wrap work that writes its results to a folder.

    Raises:
        UsageError: an OSError of the folder or its disk occurred; the message names the folder in one line. Others,
            such as that of a process that can't be started, are not changed.
    """
    try:
        yield
    except OSError as error:
        if _is_elsewhere(error, folder):
            raise
        raise UsageError(f"{folder} can't be written to: {error}") from error


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Whether an error names a file that is neither in the folder nor above it, or comes from no file at all."""
    if isinstance(error.filename, (str, bytes)):
        named = Path(os.path.realpath(os.fsdecode(error.filename)))
        place = Path(os.path.realpath(folder))
        return not (named.is_relative_to(place) or place.is_relative_to(named))
    return isinstance(error, (ConnectionError, ChildProcessError, TimeoutError)) or error.errno in _NO_FILES


class FreeNames:
    """Returns `name.png` for that path, or the first of `name-2.png`, `name-3.png` … that is free.

    No name is returned twice. The time per name does not grow with the number of names.
    """

    def __init__(self, is_taken: Callable[[Path], bool]) -> None:
        self._is_taken = is_taken
        self._given: dict[Path, int] = {}

    def __call__(self, path: Path) -> Path:
        """The name for a path."""
        n = self._given.get(path, 0) + 1
        while self._is_taken(candidate := path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}")):
            n += 1
        self._given[path] = n
        return candidate


def printable(name: str) -> str:
    """A file name with escapes for bytes that are not UTF-8, which only file systems accept."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, atomically; parts of file names that are not UTF-8 become escapes.

    Raises:
        OSError: see `write_atomically`.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write content as indented JSON, atomically.

    Raises:
        OSError: see `write_atomically`.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _plain_file(path: Path) -> Path:
    """The target of symbolic links; raises OSError if it must not be replaced by a file."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise OSError(errno.EINVAL, f"{path} is {kind}, and must not be replaced by a file")
    return path


def _keep(path: Path, folder: Path, before: Path) -> None:
    """A second name for the file, so that `path` exists at every moment."""
    try:
        os.link(path, folder / "before")
    except OSError:  # a file system without hard links
        shutil.copyfile(path, folder / "before")
        _flush(folder / "before")
    os.replace(folder / "before", before)


def _flush(path: Path) -> None:
    """Flush the contents of a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system does not support it
            raise
    finally:
        os.close(file)


def try_lock(path: Path) -> int | None:
    """Lock a file; returns a descriptor for `unlock`, or None where there are no locks. The lock ends with the process.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file can't be made.
    """
    if fcntl is None:
        return None
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return None
        raise
    return file


def unlock(lock: int | None) -> None:
    """Release a lock of `try_lock`."""
    if lock is not None:
        os.close(lock)


def _tidy(parent: Path) -> None:
    """Remove temporary folders that no process holds; once per folder, since listing may take long."""
    parent = parent.resolve()
    if parent in _tidied or fcntl is None:
        return
    _tidied.add(parent)
    for folder in parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process was faster, it holds the folder, or it is not ours
            if _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    lock, here = folder / _LOCK, os.fsencode(platform.node())
    if not lock.exists():
        return time.time() - folder.stat().st_mtime > _ABANDONED
    owner = lock.read_bytes()
    if not owner and time.time() - folder.stat().st_mtime <= _ABANDONED:
        return False  # its machine may not have written its name yet
    if owner not in (b"", here):
        newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        return time.time() - newest > _ABANDONED_ELSEWHERE
    held = try_lock(lock)
    unlock(held)
    return held is not None
