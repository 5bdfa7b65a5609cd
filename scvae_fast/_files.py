"""Files that appear whole, or not at all; folders that one process at a time works in."""

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
except ImportError:  # Windows: nothing is locked there, and what a killed process left stays
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = ".writing-"
_LOCK = ".lock"
# Seconds after which a temporary folder without a lock is left over; a living process locks its own at once.
_ABANDONED = 3600.0
# The same of one that another machine made, whose locks can't be seen here on every network file system.
_ABANDONED_ELSEWHERE = 7 * 24 * 3600.0
# Errors of processes and memory, which no disk causes.
_NO_FILES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_tidied: set[Path] = set()


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[Path], object], *, before: str | None = None
) -> None:
    """Have `write` make a file under a temporary name in the same folder, then move it to `path`.

    Whoever looks at `path`, even after a power cut, finds the old file or the new one: file and folder are flushed to
    the disk. Missing folders are made. What killed processes left of their writing in the folder is removed.

    Args:
        path: where the file is to be; what is there is replaced. Symbolic links are followed.
        write: gets the temporary path, which has the suffix of `path`, and writes the whole file.
        before: under which name in the same folder the file that is replaced is kept.

    Raises:
        OSError: the folder can't be written to, or `path` is a folder, a device, a pipe or the like.
    """
    path = _plain_file(Path(path))
    make_folder(path.parent)
    with temporary_folder(path.parent) as folder:
        # In a folder of its own the file gets the permissions that the user's umask asks for.
        temporary = folder / path.name
        write(temporary)
        _flush(temporary)
        if before is not None and path.exists():
            _keep(path, folder, path.with_name(before))
        os.replace(temporary, path)
        _flush(path.parent)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that is removed at the end, or, if this process is killed, by the next one that comes here.

    Raises:
        OSError: `parent` can't be written to.
    """
    _tidy(parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_TEMPORARY))
        try:
            lock = try_lock(folder / _LOCK)
        except BlockingIOError:  # another process takes it for left over, before this one has locked it
            continue
        if folder.exists():
            if lock is not None:
                with contextlib.suppress(OSError):  # on a full disk, whoever writes next says so
                    os.write(lock, os.fsencode(platform.node()))
                    os.fsync(lock)  # other machines are to see it now
            break
        unlock(lock)
    try:
        yield folder
    finally:
        unlock(lock)  # first: network file systems keep a file that is open
        shutil.rmtree(folder, ignore_errors=True)  # what can't be removed is left to the next one


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes from working in a folder meanwhile. A process that ends, however it ends, holds nothing.

    Args:
        folder: it exists.
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
            raise UsageError(f"another process works in {folder}: wait for it, or choose another folder") from error
        if lock is None or _is_at(lock, path):
            break
        unlock(lock)  # of a file that its holder has just removed
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
    """Make a folder and those above it that are missing, and flush that to the disk.

    Raises:
        OSError: it can't be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush(each.parent)


def cache_folder() -> Path:
    """Where what was found out about this machine is kept: SCVAE_FAST_CACHE, or scvae_fast under XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SCVAE_FAST_CACHE") or Path(base, "scvae_fast"))


def claim_folder(folder: Path, *, empty: bool = False) -> None:
    """Find out whether a folder can be written to before hours of work.

    Args:
        folder: made if it doesn't exist.
        empty: whether it must hold nothing, so that nothing is overwritten or mixed up with the results.

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
    """Work that leaves its results in a folder.

    Raises:
        UsageError: instead of an OSError of the folder or its disk, in one line that names the folder. Other errors,
            such as that of a process that can't be started, remain what they are.
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
    """`name.png` for that path, or the first of `name-2.png`, `name-3.png` … that is not taken.

    A name is not given twice. How many were given before makes no difference to the time that one takes.
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
    """A file's name with escapes for bytes that are no UTF-8, which nothing but a file system takes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, whole or not at all; parts of file names that are no UTF-8 become escapes.

    Raises:
        OSError: see `write_atomically`.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write content as JSON that people can read too, whole or not at all.

    Raises:
        OSError: see `write_atomically`.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _plain_file(path: Path) -> Path:
    """Where symbolic links lead to; an error for what a file must not take the place of."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise OSError(errno.EINVAL, f"{path} is {kind}, which no file is put in the place of")
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
    """To the disk, what was written to a file or which files a folder has."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(file)


def try_lock(path: Path) -> int | None:
    """A file descriptor that keeps the lock until `unlock` or the end of the process; None where there are no locks.

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
    """Gives back what `try_lock` gave."""
    if lock is not None:
        os.close(lock)


def _tidy(parent: Path) -> None:
    """Remove temporary folders that no process holds; once for each folder, since listing one may take long."""
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
        return False  # its machine may be about to write its name
    if owner not in (b"", here):
        newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        return time.time() - newest > _ABANDONED_ELSEWHERE
    held = try_lock(lock)
    unlock(held)
    return held is not None
