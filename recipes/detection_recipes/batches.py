"""Annotated images as batches: shuffled and augmented for training, letterboxed and in order for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from image_recipes.augment import mean_colour, normalise
from image_recipes.folders import to_tensor
from image_recipes.imagenet import IMAGENET_MEAN, IMAGENET_STD
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from casc_lab.distributed import Share
from casc_lab.evaluation.accuracy import Batch, Batches
from casc_lab.progress import followed
from casc_lab.seeds import digest, mixed
from casc_lab.training.task import Part
from detection_recipes.annotations import AnnotatedImage
from detection_recipes.targets import Objects
from detection_recipes.views import Augmentation, Sample, Size, letterboxed

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
"""As backbones that others trained expect."""
FILL = mean_colour(MEAN)
MEMORY = 1 << 30
"""Bytes of decoded images that are kept."""


@dataclass
class Opened:
    """Annotated images as samples; those decoded stay in memory as long as there is room.

    Args:
        images: them.
        room: bytes.
    """

    images: Sequence[AnnotatedImage]
    room: int = MEMORY
    kept: dict[int, Image.Image] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Sample:
        """Its image, and boxes and labels of the objects that are to be found."""
        image = self.kept.get(number)
        if image is None:
            image = self.images[number].open()
            size = 3 * image.width * image.height
            if size <= self.room:
                self.room -= size
                self.kept[number] = image
        return image, *self.images[number].certain


@dataclass(frozen=True)
class TrainingBatches:
    """Images to train on.

    Args:
        images: them.
        size: width and height of what the network sees.
        augmentation: what is done to each; None: nothing.
        smallest: under multi-scale training each batch has a size of its own, from this share of `size` up to all of it, in
            multiples of `multiple` pixels; 1: none.
        multiple: the stride of the network, which divides `size`.
        workers: processes that read images; 0: none beside this one.
    """

    images: Sequence[AnnotatedImage]
    size: Size
    augmentation: Augmentation | None
    smallest: float = 1.0
    multiple: int = 32
    workers: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def opened(self) -> Opened:
        """The images, decoded; a process that reads for one epoch alone keeps none."""
        return Opened(self.images, 0 if self.workers else MEMORY)

    @cached_property
    def digest(self) -> str:
        """Differs where the images' names, their annotations, or what is done to them differ."""
        annotations = [
            [
                image.name.rpartition("/")[2],
                image.size,
                image.boxes.tolist(),
                image.labels.tolist(),
                image.crowd.tolist(),
            ]
            for image in self.images
        ]
        difficult = [image.difficult.tolist() for image in self.images]
        return digest(annotations, difficult, self.size, repr(self.augmentation), self.smallest, self.multiple)

    def batches(
        self, epoch: int, seed: int, batch_size: int, start: int, share: Share
    ) -> Iterator[Part[tuple[Tensor, Objects]]]:
        """A process's parts, images uint8 `[B, 3, H, W]` and their objects, of the batches of an epoch from `start` on."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mixed(seed, epoch)))
        wanted = []
        for number in range(start, max(1, len(self) // batch_size)):
            index, samples = share.of_batch(order[number * batch_size : (number + 1) * batch_size])
            wanted.append((self._size(mixed(seed, epoch, number)), index, samples, mixed(seed, epoch, number, 1)))
        loader: Iterable[Any] = map(self._batch, wanted)
        if self.workers:
            reader = _Reader(self, wanted)
            loader = DataLoader(reader, batch_size=None, num_workers=self.workers)
        for (_, _, samples, _), (pixels, *objects) in zip(wanted, loader, strict=True):
            yield Part((pixels, Objects(*objects)), samples)

    def _size(self, seed: int) -> Size:
        if self.smallest >= 1.0:
            return self.size
        factor = np.random.default_rng(seed).uniform(self.smallest, 1.0)
        wide, high = (max(1, round(factor * side / self.multiple)) * self.multiple for side in self.size)
        return wide, high

    def _batch(self, wanted: tuple[Size, Tensor, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size, index, _, seed = wanted
        samples = [self._sample(number, size, mixed(seed, number)) for number in index.tolist()]
        image = torch.tensor([len(labels) for _, _, labels in samples])
        return (
            torch.stack([to_tensor(picture) for picture, _, _ in samples]),
            torch.arange(len(samples)).repeat_interleave(image),
            torch.cat([labels for _, _, labels in samples]),
            torch.cat([boxes for _, boxes, _ in samples]),
        )

    def _sample(self, number: int, size: Size, seed: int) -> Sample:
        draw = np.random.default_rng(seed)
        augmentation = self.augmentation or Augmentation(0.0, 0.0, False, 0.0, 0.0, 0.0)
        others = partial(self._other, draw)
        return augmentation(self.opened[number], others, size, FILL, draw)

    def _other(self, draw: np.random.Generator) -> Sample:
        return self.opened[int(draw.integers(len(self)))]


@dataclass
class _Reader(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batches as a loader's processes read them."""

    images: TrainingBatches
    wanted: list[tuple[Size, Tensor, int, int]]

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.images._batch(self.wanted[number])


def seen(images: Sequence[AnnotatedImage], size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Images as the network sees them in evaluation: letterboxed, standardised, float32 `[B, 3, H, W]` on a device."""
    return standardised([letterboxed(image.open(), size, FILL) for image in images], device)


def standardised(images: Sequence[Image.Image], device: torch.device | str = "cpu") -> Tensor:
    """Images of one size as float32 `[B, 3, H, W]` on a device, each channel standardised."""
    return normalise(torch.stack([to_tensor(image) for image in images]).to(device), MEAN, STD)


def evaluation_batches(
    images: Sequence[AnnotatedImage],
    size: Size,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Batches:
    """Images as `casc_lab.evaluation.accuracy` reads them; their labels are their numbers."""

    def of(share: Share) -> Iterator[Batch]:
        parts = share.of(torch.arange(len(images)).split(batch_size))
        for index in followed(parts, shown=progress and share.rank == 0):
            yield Batch((seen([images[number] for number in index.tolist()], size, device),), index, index)

    return of


def calibration_batches(
    images: Sequence[AnnotatedImage], size: Size, count: int, batch_size: int, device: torch.device | str
) -> Callable[[], Iterator[Tensor]]:
    """Gives the first images in batches, as the network sees them."""
    some = images[:count]

    def of() -> Iterator[Tensor]:
        for start in range(0, len(some), batch_size):
            yield seen(some[start : start + batch_size], size, device)

    return of
