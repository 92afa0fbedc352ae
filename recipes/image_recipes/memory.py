"""Images in memory as batches: shuffled and augmented for training, in order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.storage.checksum import sha256
from casc_lab.distributed import Share
from casc_lab.evaluation.accuracy import Batch, Batches
from casc_lab.progress import followed
from casc_lab.seeds import digest, mixed
from casc_lab.training.task import Part
from image_recipes.augment import Augmentation, normalise
from image_recipes.image_set import ImageSet


@dataclass(frozen=True)
class MemoryImages:
    """Images to train on, in memory; made for `image_recipes.training.train`.

    Args:
        images: uint8 `[N, 3, H, W]` and their labels.
        augmentation: what is done to each batch; None: nothing.

    >>> images = ImageSet(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.arange(5))
    >>> [batch.batch[1].tolist() for batch in MemoryImages(images).batches(0, seed=0, batch_size=2, start=0, share=Share())]
    [[0, 1], [4, 2]]
    """

    images: ImageSet
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """Differs where the images, their labels or the augmentation differ."""
        return digest(_digest(self.images), repr(self.augmentation))

    def batches(
        self, epoch: int, seed: int, batch_size: int, start: int, share: Share
    ) -> Iterator[Part[tuple[Tensor, Tensor]]]:
        """A process's parts of the whole batches of an epoch from number `start` on; one batch, if there are few images."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mixed(seed, epoch)))
        for number in range(start, max(1, len(self) // batch_size)):
            index, samples = share.of_batch(order[number * batch_size : (number + 1) * batch_size])
            images = self.images.images[index]
            if self.augmentation is not None:
                drawn = torch.Generator().manual_seed(mixed(seed, epoch, number, share.rank))
                images = self.augmentation(images, drawn)
            yield Part((images, self.images.labels[index]), samples)


def _digest(images: ImageSet) -> str:
    parts = (part.contiguous().numpy().tobytes() for part in (images.images, images.labels))
    return sha256([repr(tuple(images.images.shape)).encode(), *parts])


def evaluation_batches(
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Batches:
    """Images as `casc_lab.evaluation.accuracy` reads them: normalised, float32 `[B, 3, H, W]` on `device`.

    >>> images = ImageSet(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.arange(5))
    >>> batches = evaluation_batches(images, (0.5,) * 3, (0.5,) * 3, batch_size=2)
    >>> [batch.index.tolist() for batch in batches(Share(0, 2))]
    [[0, 1], [4]]
    """

    def of(share: Share) -> Iterator[Batch]:
        parts = share.of(torch.arange(len(images)).split(batch_size))
        for index in followed(parts, shown=progress and share.rank == 0):
            pixels = normalise(images.images[index].to(device), mean, std)
            yield Batch((pixels,), images.labels[index], index)

    return of
