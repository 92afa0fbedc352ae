"""CIFAR-10 and CIFAR-100 as published (pickles of Python, read safely), and CIFAR-100 as one `.npz`."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from casc_core.errors import DataError
from image_recipes.image_set import ImageSet, Splits


@dataclass(frozen=True)
class Layout:
    """How one of the two data sets is laid out."""

    title: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    names_key: str
    labels_key: str
    classes: int


LAYOUTS = {
    "cifar10": Layout(
        "CIFAR-10", "cifar-10-batches-py", "cifar-10-python.tar.gz", tuple(f"data_batch_{n}" for n in range(1, 6)),
        ("test_batch",), "batches.meta", "label_names", "labels", 10,
    ),
    "cifar100": Layout(
        "CIFAR-100", "cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "meta", "fine_label_names",
        "fine_labels", 100,
    ),
}  # fmt: skip

# The fine classes of CIFAR-100 in the order of their labels, for files that hold no names.
_CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()
)


def find(place: Path, name: str) -> Callable[[], Splits] | None:
    """A reader of the data set `name` ("cifar10" or "cifar100") if `place`, a folder or a file, holds it."""
    layout = LAYOUTS[name]
    if place.is_file():
        if place.name.endswith((".tar.gz", ".tgz")):
            return partial(_from_archive, place, layout)
        return partial(_from_npz, place) if place.suffix == ".npz" and name == "cifar100" else None
    for folder in (place, place / layout.folder):
        if any((folder / file).is_file() for file in (*layout.train, *layout.test, layout.names)):
            return partial(_from_pickles, partial(_bytes, folder), layout, f"{folder}/")
    for file in (place / layout.archive, place / "cifar100.npz"):
        if file.is_file() and (reader := find(file, name)):
            return reader
    return None


def _from_archive(archive: Path, layout: Layout) -> Splits:
    """The original `.tar.gz`, read in memory: nothing is written."""
    wanted = {*layout.train, *layout.test, layout.names}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                path = PurePosixPath(member.name)
                if member.isfile() and path.name in wanted and path.parent.name == layout.folder:
                    content = members.extractfile(member)
                    files[path.name] = content.read() if content else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: damaged or truncated archive ({error}); fetch it again") from error

    def read(file: str) -> bytes:
        if file not in files:
            raise DataError(f"{archive}: it holds no {layout.folder}/{file}; is it the archive of {layout.title}?")
        return files[file]

    return _from_pickles(read, layout, f"{archive}, ")


def _from_pickles(read: Callable[[str], bytes], layout: Layout, where: str) -> Splits:
    names = _unpickled(read(layout.names), f"{where}{layout.names}").get(layout.names_key)
    if not isinstance(names, list) or len(names) != layout.classes or not all(isinstance(n, str) for n in names):
        raise DataError(
            f"{where}{layout.names}: expected a list of {layout.classes} class names under {layout.names_key!r}; "
            f"got {names!r:.80}"
        )

    def split(files: tuple[str, ...]) -> ImageSet:
        images, labels = [], []
        for file in files:
            content = _unpickled(read(file), f"{where}{file}")
            if layout.labels_key not in content or "data" not in content:
                raise DataError(
                    f"{where}{file}: expected the keys 'data' and {layout.labels_key!r}; it has {sorted(content)!r:.200}"
                )
            images.append(_images(content["data"], f"{where}{file}"))
            labels.append(_labels(content[layout.labels_key], len(images[-1]), layout.classes, f"{where}{file}"))
        return ImageSet(torch.cat(images), torch.cat(labels))

    return Splits(split(layout.train), split(layout.test), tuple(names), layout.title)


def _from_npz(file: Path) -> Splits:
    try:
        # Opened here, because NumPy leaves a file open that turns out to be damaged.
        with file.open("rb") as stream, zipfile.ZipFile(stream):
            arrays = np.load(stream, allow_pickle=False)
            missing = {"x_train", "y_train", "x_test", "y_test"} - set(arrays)
            if missing:
                raise DataError(f"{file}: it holds no {', '.join(sorted(missing))}; it has {', '.join(arrays)}")
            parts = {key: arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    except DataError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: damaged, truncated or not plain arrays ({error})") from error

    def split(which: str) -> ImageSet:
        images = _images(parts[f"x_{which}"], f"{file}, x_{which}")
        labels = _labels(parts[f"y_{which}"], len(images), len(_CIFAR100), f"{file}, y_{which}")
        return ImageSet(images, labels)

    return Splits(split("train"), split("test"), _CIFAR100, LAYOUTS["cifar100"].title)


def _images(array: Any, where: str) -> torch.Tensor:
    """`[N, 3, 32, 32]` of rows of 3,072 (all of red, then green, then blue) or of `[N, 32, 32, 3]`."""
    shape = getattr(array, "shape", None)
    rows = isinstance(array, np.ndarray) and array.ndim == 2 and array.shape[1] == 3 * 32 * 32
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or not (rows or array.shape[1:] == (32, 32, 3)):
        found = f"{array.dtype} {shape}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise DataError(f"{where}: expected images, uint8 [N, 3072] or [N, 32, 32, 3]; got {found}")
    if not len(array):
        raise DataError(f"{where}: it holds no image")
    planes = array.reshape(-1, 3, 32, 32) if rows else array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.array(planes, order="C"))


def _labels(values: Any, count: int, classes: int, where: str) -> torch.Tensor:
    whole = isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1
    if not whole and not (isinstance(values, list) and all(type(value) is int for value in values)):
        raise DataError(f"{where}: expected a list of labels, whole numbers; got {values!r:.80}")
    if len(values) != count:
        raise DataError(f"{where}: {count} images, but {len(values)} labels")
    for row, label in enumerate(values):
        if not 0 <= label < classes:
            raise DataError(f"{where}, image {row}: label {label} is out of range; labels are 0..{classes - 1}")
    return torch.tensor([int(value) for value in values])


# --- pickles, which could run anything, read as data --------------------------------------------------------------


def _bytes(folder: Path, file: str) -> bytes:
    try:
        return (folder / file).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {folder / file}: {error.strerror or error}") from error


def _unpickled(content: bytes, where: str) -> Mapping[str, Any]:
    """The dictionary in a pickle, which may hold numbers, texts, lists, dictionaries and NumPy arrays of bytes alone.

    Raises:
        DataError: it asks for any other object (nothing of it is then run), or is damaged.
    """
    try:
        value = _Reader(io.BytesIO(content), encoding="latin1").load()
    except _ForbiddenError as error:
        raise DataError(
            f"{where}: it asks for {error}, which no file of CIFAR needs and which could run code; nothing was run. "
            "Fetch the file again from its publisher"
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly any kind
        raise DataError(f"{where}: damaged or truncated pickle ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DataError(f"{where}: expected a dictionary; got {value!r:.80}")
    return value


class _ForbiddenError(Exception):
    """A pickle asks for a global that is not on the list."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None


def _blank_array(kind: object, shape: tuple[int, ...], code: object) -> Any:
    """NumPy's `_reconstruct` for plain arrays: empty, to be filled by the state that follows in the pickle."""
    if kind != "ndarray" or shape != (0,):
        raise _ForbiddenError(f"an array of the kind {kind!r} {shape!r}")
    return np.ndarray(0, np.uint8)


def _byte_type(code: str, align: object = False, copy: object = False) -> np.dtype[Any]:
    """`numpy.dtype`, of bytes alone: an array of objects or of records is no image."""
    if code not in ("u1", "|u1"):
        raise _ForbiddenError(f"an array of {code!r}")
    return np.dtype(np.uint8, False, True)  # a copy: the state that follows in the pickle is set on it


def _latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes in an old protocol."""
    if encoding not in ("latin1", "latin-1"):
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return text.encode("latin-1")


# What the pickles of CIFAR name, under both spellings of NumPy's module, and what stands in for it here.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _blank_array,
    ("numpy._core.multiarray", "_reconstruct"): _blank_array,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _byte_type,
    ("_codecs", "encode"): _latin1,
}
