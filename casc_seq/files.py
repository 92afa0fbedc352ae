"""Small text files, written whole or not at all, and read back with an error that says what is wrong."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from casc_core.errors import StorageError


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, making its folder: a reader sees the old file or the new one, never a part of one.

    Raises:
        StorageError: the folder cannot be made or written, or the disk is full. An earlier file is left as it was.

    >>> folder = Path(tempfile.mkdtemp())
    >>> write_whole(folder / "new" / "notes.txt", "ready")
    >>> read_whole(folder / "new" / "notes.txt")
    'ready'
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # temporary files are made readable by their owner alone
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written and has room"
        ) from error


def read_whole(path: Path) -> str:
    """The text of `path`.

    Raises:
        StorageError: no such file, or it cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
