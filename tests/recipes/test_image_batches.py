"""Images in memory and streamed, as batches: the same whatever the number of processes, and each image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from image_recipes import memory, streams
from image_recipes.augment import Augmentation
from image_recipes.image_set import ImageSet
from image_recipes.imagenet import ImageStream, Views, load_imagenet
from pictures import write_pictures

from casc_core.errors import ConfigError
from casc_lab.distributed import Share

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def image_set(count: int = 23) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)  # its number
    return ImageSet(images, torch.arange(count) % 3)


def numbers(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_batch_is_the_same_images_whatever_the_number_of_processes(world: int) -> None:
    source = memory.MemoryImages(image_set())
    whole = [numbers(part.batch[0]) for part in source.batches(3, 7, 5, 0, Share())]
    assert [len(batch) for batch in whole] == [5, 5, 5, 5]
    shares = [list(source.batches(3, 7, 5, 0, Share(rank, world))) for rank in range(world)]
    for number, batch in enumerate(whole):
        together = [image for share in shares for image in numbers(share[number].batch[0])]
        assert sorted(together) == sorted(batch)
        assert sum(share[number].samples for share in shares) == 5
    assert [numbers(part.batch[0]) for part in source.batches(3, 7, 5, 2, Share())] == whole[2:]
    assert [numbers(part.batch[0]) for part in source.batches(4, 7, 5, 0, Share())] != whole
    assert [numbers(part.batch[0]) for part in source.batches(3, 8, 5, 0, Share())] != whole


def test_augmentation_repeats_and_differs_by_batch_and_process() -> None:
    one = ImageSet(image_set(1).images.expand(8, 3, 8, 8).contiguous(), torch.zeros(8, dtype=torch.int64))
    source = memory.MemoryImages(one, Augmentation(crop_padding=4, flip=False))

    def first(epoch: int, rank: int, start: int = 0) -> torch.Tensor:
        return next(source.batches(epoch, 0, 4, start, Share(rank, 2))).batch[0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(1, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert torch.equal(first(0, 0, start=1), list(source.batches(0, 0, 4, 0, Share(0, 2)))[1].batch[0])


def test_few_images_are_one_batch_and_digests_tell_sets_apart() -> None:
    few = memory.MemoryImages(image_set(3))
    assert [len(part.batch[1]) for part in few.batches(0, 0, 8, 0, Share())] == [3]
    relabelled = ImageSet(few.images.images, few.images.labels.flip(0))
    others = [
        memory.MemoryImages(image_set(4)),
        memory.MemoryImages(relabelled),
        memory.MemoryImages(few.images, Augmentation()),
    ]
    assert len({few.digest, *(other.digest for other in others)}) == 4
    assert few.digest == memory.MemoryImages(image_set(3)).digest


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_test_image_is_in_one_share(world: int) -> None:
    images = image_set()
    batches = memory.evaluation_batches(images, MEAN, STD, batch_size=4)
    found = [batch for rank in range(world) for batch in batches(Share(rank, world))]
    index = torch.cat([batch.index for batch in found])
    assert sorted(index.tolist()) == list(range(23))
    pixels = torch.cat([batch.inputs[0] for batch in found])
    expected = (images.images[index].double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    torch.testing.assert_close(pixels.double(), expected.double(), atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat([batch.labels for batch in found]), images.labels[index])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"), side=12, train=5, test=3, evaluated="val")


def test_streams_give_shares_of_batches_and_of_the_test_set(folder: Path) -> None:
    data = load_imagenet(folder, Views(8, 9))
    source = streams.StreamedImages(data.train, data.source)
    whole = [part.batch for part in source.batches(2, 0, 4, 0, Share())]
    assert [len(labels) for _, labels in whole] == [4, 4, 4]
    shares = [[part.batch for part in source.batches(2, 0, 4, 0, Share(rank, 2))] for rank in range(2)]
    for number, (images, labels) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(shares[rank][number][0], images[rank::2])
            assert torch.equal(shares[rank][number][1], labels[rank::2])
    left = [part.batch[0] for part in source.batches(2, 0, 4, 2, Share())]
    assert len(left) == 1
    assert torch.equal(left[0], whole[2][0])
    with pytest.raises(ConfigError, match="a batch of 4 images cannot be divided among 3 processes"):
        next(source.batches(0, 0, 4, 0, Share(0, 3)))

    batches = streams.evaluation_batches(data.test, MEAN, STD, batch_size=2)
    alone = list(batches(Share()))
    together = [batch for rank in range(2) for batch in batches(Share(rank, 2))]
    for found in (alone, together):
        index = torch.cat([batch.index for batch in found])
        order = index.argsort()
        assert index[order].tolist() == list(range(9))
        assert torch.cat([batch.labels for batch in found])[order].tolist() == [0] * 3 + [1] * 3 + [2] * 3
        pixels = torch.cat([batch.inputs[0] for batch in found])[order]
        assert torch.equal(pixels, torch.cat([batch.inputs[0] for batch in alone]))
    assert source.digest != streams.StreamedImages(data.test, data.source).digest
    assert source.digest != streams.StreamedImages(load_imagenet(folder, Views(8, 10)).train, data.source).digest


class Endless(ImageStream):
    """A stream that cannot say which images a share would hold, as those of the hub."""

    def __len__(self) -> int:
        return 7

    def _epoch(self, epoch: int | None, rank: int, ranks: int) -> Any:
        assert (rank, ranks) == (0, 1)
        return torch.utils.data.TensorDataset(image_set(7).images, torch.arange(7)), None


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_stream_without_shares_is_divided_by_batch(world: int) -> None:
    batches = streams.evaluation_batches(Endless(), MEAN, STD, batch_size=2)
    shares = [list(batches(Share(rank, world))) for rank in range(world)]
    assert [batch.index.tolist() for batch in shares[0]][:1] == [[0, 1]]
    assert sorted(int(index) for share in shares for batch in share for index in batch.index) == list(range(7))
    assert all(torch.equal(batch.labels, batch.index) for share in shares for batch in share)


def test_some_images_for_calibration(folder: Path) -> None:
    data = load_imagenet(folder, Views(8, 9))
    found = list(streams.some_batches(data.train, MEAN, STD, images=5, batch_size=2, device=torch.device("cpu")))
    assert [batch.shape for batch in found] == [(2, 3, 8, 8)] * 3
