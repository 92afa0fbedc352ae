"""Images in memory, and how they are brought to one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from casc_core.errors import ConfigError, DataError


@dataclass(frozen=True)
class ImageSet:
    """Images and their labels.

    Attributes:
        images: uint8 `[N, 3, H, W]`.
        labels: int64 `[N]`, numbers of classes counted from 0.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            shape = list(self.images.shape)
            raise DataError(f"images must be uint8 [N, 3, height, width]; got {self.images.dtype} {shape}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            shape = list(self.labels.shape)
            raise DataError(f"labels must be int64 [{len(self.images)}]; got {self.labels.dtype} {shape}")

    def __len__(self) -> int:
        return len(self.images)

    def balanced(self, limit: int | None) -> ImageSet:
        """The first `limit` images, taken from the classes in turn, in their original order; all if None or too few.

        >>> few = ImageSet(torch.zeros(5, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1]))
        >>> few.balanced(4).labels.tolist()
        [0, 0, 1, 1]
        """
        if limit is None or limit >= len(self):
            return self
        chosen = torch.from_numpy(first_of_each_class(self.labels.numpy(), limit))
        return ImageSet(self.images[chosen], self.labels[chosen])

    def resized(self, size: int | None) -> ImageSet:
        """Stretched to `size` by `size`, bilinear with antialiasing; unchanged if None."""
        if size is None or tuple(self.images.shape[2:]) == (size, size):
            return self
        parts = [
            F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
            for part in self.images.split(1_000)
        ]
        return ImageSet(torch.cat(parts), self.labels)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in units of 0..1, exact whatever the number of images."""
        counts = np.zeros((3, 256))
        for part in self.images.split(4_000):
            counts += np.stack([np.bincount(part[:, channel].numpy().ravel(), minlength=256) for channel in range(3)])
        shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        std = np.sqrt(((values - mean[:, None]) ** 2 * shares).sum(axis=1))
        return tuple(mean.tolist()), tuple(std.tolist())


def first_of_each_class(labels: np.ndarray[Any, np.dtype[np.int64]], limit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions of `limit` labels, taken from the classes in turn, each class's first ones; in ascending order."""
    if limit < 1:
        raise ConfigError(f"the number of images must be at least 1; got {limit}")
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.empty_like(labels)  # how many of its class come before each
    turn[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.argsort(turn, kind="stable")[:limit])


class Splits(NamedTuple):
    """What a source of images yields: both splits, the names of the classes, and what it calls itself."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    what: str
