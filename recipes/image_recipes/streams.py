"""Images streamed from disk or from the hub, as batches for training and for evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.errors import ConfigError
from casc_core.storage.checksum import sha256
from casc_lab.distributed import Share
from casc_lab.evaluation.accuracy import Batch, Batches
from casc_lab.progress import followed
from casc_lab.seeds import digest
from casc_lab.training.task import Part
from image_recipes.augment import normalise
from image_recipes.imagenet import FolderStream, ImageStream


@dataclass(frozen=True)
class StreamedImages:
    """Images to train on, read while they are used; made for `image_recipes.training.train`.

    Args:
        stream: the split.
        source: what it is.
        workers: processes that read and decode.
    """

    stream: ImageStream
    source: str
    workers: int = 0

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def digest(self) -> str:
        """Differs where the names of the files, their labels, or the views of them differ."""
        if not isinstance(self.stream, FolderStream):
            return digest(self.source, len(self))
        files = sha256([self.stream.files.tobytes(), self.stream.labels.tobytes()])
        return digest(files, repr(self.stream.views))

    def batches(
        self, epoch: int, seed: int, batch_size: int, start: int, share: Share
    ) -> Iterator[Part[tuple[Tensor, Tensor]]]:
        """A process's parts of the whole batches of an epoch from number `start` on; the views' seed decides the order.

        Raises:
            ConfigError: a batch cannot be divided among the processes.
        """
        if batch_size % share.world:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be divided among {share.world} processes; choose a multiple"
            )
        steps = max(1, len(self) // batch_size)
        loader = self.stream.loader(
            batch_size // share.world, epoch=epoch, rank=share.rank, ranks=share.world, workers=self.workers
        )
        for images, labels in itertools.islice(loader, start, steps):
            yield Part((images, labels), len(labels))


def evaluation_batches(
    stream: ImageStream,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    batch_size: int = 100,
    workers: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Batches:
    """Central views as `casc_lab.evaluation.accuracy` reads them: normalised, float32 `[B, 3, H, W]` on `device`."""

    def of(share: Share) -> Iterator[Batch]:
        # Only a folder says which images a share holds. A hub stream is read by every process, each using its batches.
        divided = share if isinstance(stream, FolderStream) else Share()
        loader = stream.loader(batch_size, rank=divided.rank, ranks=divided.world, workers=workers)
        position = 0
        for number, (images, labels) in enumerate(followed(loader, shown=progress and share.rank == 0)):
            index = divided.rank + divided.world * torch.arange(position, position + len(labels))
            position += len(labels)
            if divided is share or number % share.world == share.rank:
                yield Batch((normalise(images.to(device), mean, std),), labels, index)

    return of


def some_batches(
    stream: ImageStream,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    images: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """The first images in central view, normalised, in batches."""
    for batch, _ in itertools.islice(stream.loader(batch_size), -(-images // batch_size)):
        yield normalise(batch.to(device), mean, std)
