"""Files and folders written whole or not at all, and found again where a write was cut short."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from casc_core.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]  # a system that has none

# What is being written has a hidden name beside the name that it will have, and is locked while it is.
_UNFINISHED, _REPLACED = "casc-new-", "casc-old-"
_RANDOM = re.compile(r"[a-z0-9_]{8}")
_WAS = "was"
# What is empty and younger than this may not be locked yet.
_YOUNG_SECONDS = 60.0
LOCK = ".casc-lock"
_BEGINNINGS = frozenset(("README.md", "LICENSE", ".git", ".gitattributes", ".gitignore"))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, making its folder: a reader sees the old file or the new one, never a part of one.

    Raises:
        StorageError: the folder cannot be made or written, or the disk is full. An earlier file is left as it was.

    >>> folder = Path(tempfile.mkdtemp())
    >>> write_whole(folder / "new" / "notes.txt", "ready")
    >>> read_whole(folder / "new" / "notes.txt")
    'ready'
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary, lock = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        prefix = f".{path.name}.{_UNFINISHED}"
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=prefix, delete=False) as file:
            temporary = Path(file.name)
            lock = os.dup(file.fileno()) if _lock(file.fileno()) else None
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # temporary files are made readable by their owner alone
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise cannot_write(path, error) from error
    finally:
        if lock is not None:
            os.close(lock)


def read_whole(path: Path) -> str:
    """The text of `path`.

    Raises:
        StorageError: no such file, or it cannot be read as UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read {path}: {error}") from error


# Larger than any network that one machine runs; what a sparse file claims costs nothing.
LARGEST_FILE = 4 * 2**30
"""Bytes of a file that is read."""


def read_bytes(path: Path) -> bytes:
    """What `path` holds, if it is a file: a device or a pipe would be read for ever.

    Raises:
        StorageError: no such file, or it cannot be read, or has more bytes than there is memory for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise StorageError(f"cannot read {path}: it is no regular file")
            if about.st_size > LARGEST_FILE:
                raise StorageError(f"cannot read {path}: {about.st_size:,} bytes are too many")
            return file.read()
    except StorageError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise _cannot_read(path, error) from error


def has_file(path: Path) -> bool:
    """Whether there is a file `path`; a folder of ours that a write was about to put back is put back first.

    Raises:
        StorageError: it cannot be told: a folder on the way cannot be read, or leads in a circle.
    """
    try:
        if not path.parent.exists():
            _put_back(path.parent, path.name)
        return path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_read(path, error) from error


@contextlib.contextmanager
def whole_folder(folder: Path, marker: str, keeps_others: bool = False) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends without an error.

    A folder that is there already is replaced only if it is empty or one that we wrote: it holds a file named `marker`,
    and nothing that the new one does not have.

    Args:
        keeps_others: what else it holds is in the new one, too; one of nothing but what a repository begins with (a
            README, a licence, git's own files) counts as empty.

    Raises:
        StorageError: the place cannot be written, or holds something else. What was there is left as it was.
    """
    staging, lock = None, None
    try:
        folder = Path(os.path.realpath(folder))
        _put_back(folder, marker)
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"cannot write {folder}: it is a file; choose a folder")
        kept = _BEGINNINGS if keeps_others else frozenset[str]()
        there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
        if there - kept and not (folder / marker).is_file():
            raise StorageError(
                f"cannot write {folder}: it holds other files (no {marker}); choose a new or an empty folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.{_UNFINISHED}"))
        lock = _locked(staging)
        yield staging
        staging.chmod(0o755)
        if folder.exists():
            others = sorted({file.name for file in folder.iterdir()} - {file.name for file in staging.iterdir()})
            for name in others if keeps_others else ():
                _link(folder / name, staging / name)
            if others and not keeps_others:
                raise StorageError(
                    f"cannot replace {folder}: it also holds {', '.join(others)}; move them elsewhere first"
                )
            _take_the_place(staging, folder)
        else:
            os.replace(staging, folder)
            staging = None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise cannot_write(folder, error) from error
    finally:
        if lock is not None:
            os.close(lock)
        if staging is not None:  # what was not finished, or what it has replaced
            shutil.rmtree(staging, ignore_errors=True)


def _link(there: Path, here: Path) -> None:
    """What is there, here as well, without a copy of its bytes where the system can."""
    if there.is_dir() and not there.is_symlink():
        shutil.copytree(there, here, symlinks=True, copy_function=_linked)
    else:
        _linked(there, here)


def _linked(there: str | Path, here: str | Path) -> str | Path:
    try:
        os.link(there, here, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(there, here, follow_symlinks=False)
    return here


def _take_the_place(new: Path, folder: Path) -> None:
    """Exchange two folders at once; where the system cannot, one after the other, so that `_put_back` can undo it."""
    if _exchanged(new, folder):
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.{_REPLACED}"))
    lock = _locked(old)
    try:
        os.replace(folder, old / _WAS)
        os.replace(new, folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.replace(old / _WAS, folder)
        raise
    finally:
        if lock is not None:
            os.close(lock)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two have taken each other's place, in one step; False: the system cannot do that here."""
    rename = _renameat2()
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@cache
def _renameat2() -> Callable[..., int] | None:
    """Linux's `renameat2`, if the C library has it."""
    try:
        function = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _put_back(folder: Path, marker: str) -> None:
    """Where a write was killed after it had moved the folder away and before it had moved the new one there: undo it."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for old in _left_behind(folder, _REPLACED):
        if (old / _WAS / marker).is_file() and not _is_locked(old):
            with contextlib.suppress(OSError):  # another process was faster
                os.replace(old / _WAS, folder)
                old.rmdir()
            return


def _sweep(target: Path) -> None:
    """Remove what writes of `target` that were killed have left behind; what is being written now is locked."""
    for part in (_UNFINISHED, *((_REPLACED,) if target.exists() else ())):
        for left in _left_behind(target, part):
            if not _is_beginning(left) and not _is_locked(left):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        left.unlink()


def _left_behind(target: Path, part: str) -> list[Path]:
    prefix = f".{target.name}.{part}"
    names = [name for name in os.listdir(target.parent) if name.startswith(prefix)]
    return [target.parent / name for name in sorted(names) if _RANDOM.fullmatch(name[len(prefix) :])]


def _lock(file: int) -> bool:
    """Lock an open file or folder until it is closed, by whomever; False: another process has, or the system cannot."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _locked(folder: Path) -> int | None:
    """A folder, opened and locked; None: the system cannot."""
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    _lock(file)
    return file


def _is_locked(path: Path) -> bool:
    """Whether a process is writing there; where that cannot be told, one is."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        return not _lock(file)
    finally:
        os.close(file)


def _is_beginning(path: Path) -> bool:
    """Whether a write may have made this and not have locked it yet; it locks before it fills."""
    try:
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
        return empty and time.time() - path.stat().st_mtime < _YOUNG_SECONDS
    except OSError:
        return True


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Within the block, no other process uses the folder so.

    Raises:
        StorageError: one does; the message says which. Or the folder cannot be written.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with sole_use(folder):
    ...     sorted(path.name for path in folder.iterdir())
    ['.casc-lock']
    >>> list(folder.iterdir())
    []
    """
    path = folder / LOCK
    file = _opened_lock(path)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(file)


def _opened_lock(path: Path) -> int | None:
    """The lock file, opened, locked and signed; None: the system has no locks."""
    while fcntl is not None:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.read(file, 200).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise StorageError(
                f"{path.parent} is in use by {who}: wait until it has ended, or choose another folder"
            ) from error
        except OSError:  # a file system without locks
            os.close(file)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):  # else it was removed by whoever had it before
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()}".encode())
                return file
        os.close(file)
    return None


def require_writable(folder: Path) -> None:
    """Make `folder` and try to write there, so that hours of work do not end in an error.

    Raises:
        StorageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def _cannot_read(path: Path, error: Exception) -> StorageError:
    return StorageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a place that cannot be written."""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; choose a place that can be written and has room"
    )
