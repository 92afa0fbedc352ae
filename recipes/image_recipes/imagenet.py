"""ImageNet, or any data set laid out like it, too large for memory: read from disk or from the hub while it is used."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from casc_core.errors import ConfigError, DataError
from casc_lab import hub
from image_recipes import folders
from image_recipes.image_set import first_of_each_class
from image_recipes.views import Views

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageNet", "ImageStream", "Views", "load_imagenet"]

# Of the training images, as published weights assume them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB = "ILSVRC/imagenet-1k"

_PLACES = ("", "imagenet", "imagenet-1k", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
_EVALUATED = ("val", "validation", "valid", "test")  # ImageNet's own test images have no labels
_SHUFFLED = 2_000  # images of a hub stream that are held, as files, to draw from

Sample = tuple[torch.Tensor, int]


class ImageStream(ABC):
    """One split, read while it is used; `len` is the number of its images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _epoch(self, epoch: int | None, rank: int, ranks: int) -> tuple[Dataset[Sample], list[int] | None]:
        """The samples of a process, and the order they are read in if they can be read in any."""

    def loader(
        self, batch_size: int, *, epoch: int | None = None, rank: int = 0, ranks: int = 1, workers: int = 0
    ) -> DataLoader[Any]:
        """Batches of images, uint8 `[B, 3, size, size]`, and labels, int64 `[B]`.

        Args:
            epoch: random views in random order, both decided by seed and epoch, in whole batches if there are any; None:
                central views in order.
            rank, ranks: which share of how many to read. For training all shares are equally long (up to `ranks - 1`
                images are left out, or an image is read twice from the hub); for evaluation each image is in one share.
            workers: processes that read and decode; they change nothing but the speed, save that the order of a hub
                stream depends on their number.

        Raises:
            ConfigError: a number out of its range.
            DataError: while reading: a damaged image, which is named.
        """
        if batch_size < 1 or workers < 0 or ranks < 1 or not 0 <= rank < ranks or (epoch is not None and epoch < 0):
            raise ConfigError(
                "batch_size and ranks must be at least 1, workers and epoch at least 0, rank below ranks; got "
                f"{batch_size=}, {ranks=}, {workers=}, {epoch=}, {rank=}"
            )
        samples, order = self._epoch(epoch, rank, ranks)
        # A last batch of few images would spoil the statistics of batch normalisation.
        whole = epoch is not None and len(self) // ranks // max(workers, 1) >= batch_size
        pin = torch.cuda.is_available()
        return DataLoader(samples, batch_size, sampler=order, num_workers=workers, drop_last=whole, pin_memory=pin)


@dataclass(frozen=True)
class ImageNet:
    """A large data set for image classification.

    Attributes:
        train, test: the two splits; `test` is ImageNet's validation split, whose labels are public.
        classes: folder names (sorted, as torchvision numbers them, so that published weights agree) or names of the hub.
        mean, std: ImageNet's.
        source: one line on what this is, without paths of this machine.
    """

    train: ImageStream
    test: ImageStream
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str


def load_imagenet(
    data: str | Path | None = None,
    views: Views | None = None,
    *,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> ImageNet:
    """Find a data set laid out like ImageNet; images are read later, by `ImageStream.loader`.

    Args:
        data: a folder with `train/CLASS/IMAGE` and `val/CLASS/IMAGE` (or whose subfolder `imagenet` has them), or "hub" for
            `ILSVRC/imagenet-1k`, streamed. None: the folder that the environment variable CASC_DATA names, else the hub.
        views: sizes and seed of what is cut out of an image.
        limit_train, limit_test: this many images: from a folder the first ones of the classes in turn, from the hub the
            first ones.

    Raises:
        DataError: a folder of another layout, splits with different classes, an unreachable hub data set.
        ConfigError: a limit below 1.
    """
    views = views or Views()
    for what, value in (("limit_train", limit_train), ("limit_test", limit_test)):
        if value is not None and value < 1:
            raise ConfigError(f"{what} must be at least 1; got {value}")
    limits = limit_train, limit_test
    if data == "hub":
        return _from_hub(views, limits)
    if data is not None:
        return _from_folder(Path(data), views, limits, "")
    if folder := os.environ.get("CASC_DATA"):
        return _from_folder(Path(folder), views, limits, "the environment variable CASC_DATA names ")
    return _from_hub(views, limits)


def _imagenet(train: ImageStream, test: ImageStream, classes: tuple[str, ...], what: str, size: int) -> ImageNet:
    counts = f"{len(train):,} training and {len(test):,} test images, seen at {size}x{size}, {len(classes):,} classes"
    return ImageNet(train, test, classes, IMAGENET_MEAN, IMAGENET_STD, f"{what}: {counts}")


# --- a folder ----------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, views: Views, limits: tuple[int | None, int | None], origin: str) -> ImageNet:
    found = next((both for place in _PLACES if (both := folders.find(folder / place, _EVALUATED))), None)
    if found is None:
        if not folder.is_dir():
            raise DataError(f"{origin}{folder}: there is no such folder")
        raise DataError(f"{origin}{folder}: expected train/CLASS/IMAGE and val/CLASS/IMAGE in it")
    (classes, train_files), (others, test_files) = (folders.list_images(split) for split in found)
    folders.same_classes(found[0], classes, found[1], others)
    train, test = (
        FolderStream.of(split, classes, files, views, limit)
        for split, files, limit in zip(found, (train_files, test_files), limits, strict=True)
    )
    return _imagenet(train, test, classes, f"folder {found[0].parent.resolve().name}", views.size)


@dataclass(frozen=True, eq=False)
class FolderStream(ImageStream):
    """Image files; names are held in one array, so that worker processes share its memory."""

    folder: Path
    classes: tuple[str, ...]
    files: np.ndarray[Any, np.dtype[np.bytes_]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    views: Views

    @staticmethod
    def of(
        folder: Path, classes: tuple[str, ...], files: list[list[str]], views: Views, limit: int | None
    ) -> FolderStream:
        """From the files of each class."""
        labels = np.repeat(np.arange(len(classes)), [len(names) for names in files])
        names = np.array([os.fsencode(name) for of_class in files for name in of_class])
        if limit is not None:
            chosen = first_of_each_class(labels, limit)
            names, labels = names[chosen], labels[chosen]
        return FolderStream(folder, classes, names, labels, views)

    def __len__(self) -> int:
        return len(self.labels)

    def _epoch(self, epoch: int | None, rank: int, ranks: int) -> tuple[Dataset[Sample], list[int] | None]:
        if epoch is None:
            return _FolderEpoch(self, None), list(range(rank, len(self), ranks))
        order = np.random.default_rng((self.views.seed, epoch, len(self))).permutation(len(self))  # no image's key
        return _FolderEpoch(self, epoch), order[rank : len(self) // ranks * ranks : ranks].tolist()


@dataclass(frozen=True, eq=False)
class _FolderEpoch(Dataset[Sample]):
    stream: FolderStream
    epoch: int | None

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> Sample:
        stream, label = self.stream, int(self.stream.labels[index])
        image = folders.open_image(stream.folder / stream.classes[label] / os.fsdecode(stream.files[index]))
        views = stream.views
        view = views.central(image) if self.epoch is None else views.random(image, self.epoch, index)
        return folders.to_tensor(view), label


# --- the hub -----------------------------------------------------------------------------------------------------


def _from_hub(views: Views, limits: tuple[int | None, int | None]) -> ImageNet:
    try:
        train, test = (hub.stream(HUB, split) for split in ("train", "validation"))
    except hub.UnreachableError as error:
        raise DataError(
            f"{error}; pass a folder with train/CLASS/IMAGE and val/CLASS/IMAGE, or accept the conditions of {HUB} on the "
            "hub and log in (hf auth login)"
        ) from error
    classes = tuple(train.features["label"].names)
    streams = [
        HubStream.of(split, name, views, limit)
        for split, name, limit in zip((train, test), ("train", "validation"), limits, strict=True)
    ]
    return _imagenet(streams[0], streams[1], classes, f"hub data set {HUB}", views.size)


@dataclass(frozen=True, eq=False)
class HubStream(ImageStream):
    """A split of a hub data set as `datasets` streams it (columns `image` and `label`)."""

    source: Any
    split: str
    count: int
    views: Views

    @staticmethod
    def of(source: Any, split: str, views: Views, limit: int | None) -> HubStream:
        """From a `datasets.IterableDataset`; how many images it has is part of its description."""
        import datasets

        described = (source.info.splits or {}).get(split)
        if described is None:
            raise DataError(f"hub data set {HUB}: it does not say how many images its split {split} has")
        source = source.cast_column("image", datasets.Image(decode=False))
        if limit is not None:
            source = source.take(limit)
        return HubStream(source, split, min(limit or described.num_examples, described.num_examples), views)

    def __len__(self) -> int:
        return self.count

    def _epoch(self, epoch: int | None, rank: int, ranks: int) -> tuple[Dataset[Sample], list[int] | None]:
        from datasets.distributed import split_dataset_by_node

        source = self.source
        if epoch is not None:
            source = source.shuffle(seed=self.views.seed, buffer_size=_SHUFFLED)
            source.set_epoch(epoch)
        share = split_dataset_by_node(source, rank, ranks)
        return _HubEpoch(self, share, epoch, None if epoch is None else len(self) // ranks), None


@dataclass(frozen=True, eq=False)
class _HubEpoch(IterableDataset[Sample]):
    stream: HubStream
    share: Any
    epoch: int | None
    count: int | None

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        left = None if self.count is None else self.count // workers + (number < self.count % workers)
        # Shards differ a little in size. Training processes must not differ in length, or the longer would wait for ever.
        while left is None or left > 0:
            seen = 0
            for row in self.share:  # `datasets` itself gives each worker its own shards
                yield self._sample(row)
                seen += 1
                if left is not None:
                    left -= 1
                    if not left:
                        break
            if left is None or not seen:
                return

    def _sample(self, row: dict[str, Any]) -> Sample:
        content, views = row["image"]["bytes"], self.stream.views
        name = f"hub data set {HUB}, {self.stream.split}, {row['image'].get('path') or 'an image without name'}"
        image = folders.open_image(io.BytesIO(content), name)
        if self.epoch is None:
            return folders.to_tensor(views.central(image)), row["label"]
        # A stream has no positions: what is drawn depends on the image itself.
        mark = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
        return folders.to_tensor(views.random(image, self.epoch, mark)), row["label"]
