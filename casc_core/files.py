"""Files and folders written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from casc_core.errors import StorageError


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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
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


def read_whole(path: Path) -> str:
    """The text of `path`.

    Raises:
        StorageError: no such file, or it cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


@contextlib.contextmanager
def whole_folder(folder: Path, marker: str) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends without an error.

    A folder that is there already is replaced only if it is empty or one that we wrote: it holds a file named `marker`,
    and nothing that the new one does not have.

    Raises:
        StorageError: the place cannot be written, or holds something else. What was there is left as it was.
    """
    staging, folder = None, folder.resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"cannot write {folder}: it is a file; choose a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
            raise StorageError(
                f"cannot write {folder}: it holds other files (no {marker}); choose a new or an empty folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        yield staging
        staging.chmod(0o755)
        if folder.exists():
            others = sorted({file.name for file in folder.iterdir()} - {file.name for file in staging.iterdir()})
            if others:
                raise StorageError(
                    f"cannot replace {folder}: it also holds {', '.join(others)}; move them elsewhere first"
                )
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            try:
                os.replace(folder, old / "was")
                os.replace(staging, folder)
            except OSError:
                with contextlib.suppress(OSError):  # put what was there back
                    os.replace(old / "was", folder)
                with contextlib.suppress(OSError):
                    old.rmdir()  # never more than an empty folder
                raise
            shutil.rmtree(old)
        else:
            os.replace(staging, folder)
        staging = None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise cannot_write(folder, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


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


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a place that cannot be written."""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; choose a place that can be written and has room"
    )
