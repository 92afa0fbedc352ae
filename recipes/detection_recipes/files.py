"""Files of a data set, in a folder or in a tar that is not unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from casc_core.errors import DataError

DEPTH = 4
"""As deep as the lists of PASCAL VOC lie: VOCdevkit/VOC2007/ImageSets/Main."""


class Files(Protocol):
    """Files by their path below some root, with `/` between its parts."""

    def read(self, path: str) -> bytes:
        """What a file holds.

        Raises:
            DataError: it is missing or cannot be read.
        """
        ...

    def names(self, folder: str) -> frozenset[str]:
        """Names of what lies in a folder; empty if there is none."""
        ...

    def folders(self) -> list[str]:
        """The root, `""`, and the folders below it that are not deeper than `DEPTH`."""
        ...

    def at(self, path: str) -> str:
        """What a message calls a file."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = (root / "a.txt").write_bytes(b"hello")
    >>> files = FolderFiles(root)
    >>> files.read("a.txt"), sorted(files.names("")), files.folders()
    (b'hello', ['a.txt'], [''])
    """

    root: Path

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.at(path)}: {error.strerror or error}") from error

    def names(self, folder: str) -> frozenset[str]:
        try:
            return frozenset(path.name for path in (self.root / folder).iterdir())
        except OSError:
            return frozenset()

    def folders(self) -> list[str]:
        found, level = [""], [str(self.root)]
        for _ in range(DEPTH):
            level = [below for folder in level for below in _subfolders(folder)]
            found += [Path(folder).relative_to(self.root).as_posix() for folder in level]
        return found

    def at(self, path: str) -> str:
        return str(self.root / path)


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class TarFiles:
    """The files in an uncompressed tar: an index says where each one's bytes are, and nothing is unpacked.

    Links and devices in it are left out.

    Raises:
        DataError: it is no such tar.
    """

    tar: Path
    index: dict[str, tuple[int, int]] = field(init=False, repr=False, compare=False)
    """Where in the tar each file begins, and its bytes."""
    listing: dict[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    """What lies in each folder."""

    def __post_init__(self) -> None:
        try:
            with tarfile.open(self.tar, "r:") as content:
                members = [member for member in content if member.isreg() and not member.issparse()]
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DataError(f"{self.tar} cannot be read as an uncompressed tar ({error})") from error
        index = {PurePosixPath(each.name).as_posix(): (each.offset_data, each.size) for each in members}
        listing: dict[str, set[str]] = {}
        for path in index:
            parts = PurePosixPath(path).parts
            for depth, part in enumerate(parts):
                listing.setdefault("/".join(parts[:depth]), set()).add(part)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "listing", {folder: frozenset(names) for folder, names in listing.items()})

    def read(self, path: str) -> bytes:
        if path not in self.index:
            raise DataError(f"cannot read {self.at(path)}: there is no such file")
        start, size = self.index[path]
        try:
            with self.tar.open("rb") as content:
                content.seek(start)
                return content.read(size)
        except OSError as error:
            raise DataError(f"cannot read {self.at(path)}: {error.strerror or error}") from error

    def names(self, folder: str) -> frozenset[str]:
        return self.listing.get(folder, frozenset())

    def folders(self) -> list[str]:
        return [folder for folder in sorted(self.listing) if folder.count("/") < DEPTH]

    def at(self, path: str) -> str:
        return f"{self.tar}:{path}"


@dataclass(frozen=True)
class JoinedFiles:
    """The files of several places as one: those of PASCAL VOC are published in several tars.

    Args:
        parts: of files of one path, that of the first part is read.
        name: what a message calls them.
    """

    parts: Sequence[Files]
    name: str

    def read(self, path: str) -> bytes:
        return self._part_with(path).read(path)

    def names(self, folder: str) -> frozenset[str]:
        return frozenset().union(*(part.names(folder) for part in self.parts))

    def folders(self) -> list[str]:
        return sorted({folder for part in self.parts for folder in part.folders()})

    def at(self, path: str) -> str:
        return self._part_with(path).at(path) if self._has(path) else f"{self.name}:{path}"

    def _has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self.names(folder)

    def _part_with(self, path: str) -> Files:
        folder, _, name = path.rpartition("/")
        found = next((part for part in self.parts if name in part.names(folder)), None)
        if found is None:
            raise DataError(f"cannot read {self.name}:{path}: there is no such file")
        return found


def file_name(name: str, where: str) -> str:
    """`name`, if it is one of a file in a folder, and of nothing elsewhere.

    Args:
        where: what says so.

    Raises:
        DataError: it leads elsewhere.

    >>> file_name("../secret", "train.txt")
    Traceback (most recent call last):
    casc_core.errors.DataError: train.txt: '../secret' is not the name of a file in its folder
    """
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: {name!r:.80} is not the name of a file in its folder")
    return name
