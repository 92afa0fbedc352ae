"""Augmentation of batches of small images: crop, flip, Cutout, AutoAugment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from casc_core.errors import ConfigError, DataError
from image_recipes.auto_augment import auto_augment

__all__ = ["Augmentation", "mean_colour", "normalise"]


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a training batch, in this order: AutoAugment, crop, flip, Cutout.

    Attributes:
        auto_augment: apply AutoAugment's policy for CIFAR-10 (Cubuk et al., 2019).
        crop_padding: pad by this many pixels on each side and crop to the old size at random; 0 for none.
        flip: mirror left to right with probability one half.
        cutout: side of the square that is painted over (DeVries and Taylor, 2017: 16 for CIFAR-10, 8 for CIFAR-100). Its
            centre is any pixel, so it may reach beyond the edge; 0 for none.
        fill: the colour of padding, of Cutout's square and of what AutoAugment's operations uncover. `mean_colour` makes it
            about zero after `normalise`, as in both papers.

    >>> batch = torch.full((4, 3, 32, 32), 200, dtype=torch.uint8)
    >>> augmented = Augmentation(crop_padding=4, flip=True, cutout=16)(batch, torch.Generator().manual_seed(0))
    >>> augmented.shape, augmented.dtype, augmented.unique().tolist()
    (torch.Size([4, 3, 32, 32]), torch.uint8, [0, 200])
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    auto_augment: bool = False
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"{name} must be a whole number of pixels from 0 on; got {value!r}")
        for name in ("flip", "auto_augment"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} must be True or False; got {getattr(self, name)!r}")
        colours = self.fill if isinstance(self.fill, (tuple, list)) else ()
        if len(colours) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in colours):
            raise ConfigError(f"fill must be three whole numbers 0..255; got {self.fill!r}")

    def __call__(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment uint8 `[B, 3, H, W]`; the same state of `generator` gives the same, on any device of `batch`.

        Raises:
            DataError: `batch` is of another type or shape.
        """
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise DataError(f"expected a batch of images, uint8 [B, 3, H, W]; got {batch.dtype} {list(batch.shape)}")
        if self.auto_augment:
            batch = auto_augment(batch, generator, self.fill)
        if self.crop_padding:
            batch = _crop(batch, self.crop_padding, self._colour(batch), generator)
        if self.flip:
            batch = _flip(batch, generator)
        if self.cutout:
            batch = _cutout(batch, self.cutout, self._colour(batch), generator)
        return batch

    def _colour(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.fill, dtype=torch.uint8, device=batch.device)[:, None, None]


def mean_colour(mean: Sequence[float]) -> tuple[int, int, int]:
    """A mean in units of 0..1 as a colour for `Augmentation.fill`.

    >>> mean_colour((0.4914, 0.4822, 0.4465))
    (125, 123, 114)
    """
    red, green, blue = (round(255 * value) for value in mean)
    return red, green, blue


def normalise(batch: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 `[B, 3, H, W]` to float32, each channel scaled to 0..1, less its mean, over its standard deviation.

    >>> normalise(torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1), (0, 0, 0.5), (1, 1, 0.25)).flatten()
    tensor([0.0000, 0.5020, 2.0000])
    """
    if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != len(mean) or len(mean) != len(std):
        raise DataError(
            f"expected a batch of images, uint8 [B, {len(mean)}, H, W], and as many deviations; got {batch.dtype} "
            f"{list(batch.shape)} and {len(std)}"
        )
    if not all(value > 0 for value in std):
        raise ConfigError(f"standard deviations must be above 0; got {tuple(std)}: is a channel the same everywhere?")
    scaled = torch.tensor([list(mean), list(std)], dtype=torch.float64).mul_(255).float().to(batch.device)
    return batch.float().sub_(scaled[0, :, None, None]).div_(scaled[1, :, None, None])


def _draw(high: int, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Whole numbers 0..high-1, drawn where the generator is, whatever the device of the batch."""
    return torch.randint(high, (count,), generator=generator, device=generator.device).to(device)


def _crop(batch: torch.Tensor, padding: int, colour: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, _, height, width = batch.shape
    down, right = (_draw(2 * padding + 1, count, generator, batch.device) for _ in range(2))
    padded = colour.expand(count, 3, height + 2 * padding, width + 2 * padding).clone()
    padded[:, :, padding:-padding, padding:-padding] = batch
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, 3, places down, places right, H, W], a view
    return windows[torch.arange(count, device=batch.device), :, down, right]


def _flip(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    mirrored = _draw(2, len(batch), generator, batch.device).bool()
    return torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)


def _cutout(batch: torch.Tensor, side: int, colour: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    def covered(length: int) -> torch.Tensor:  # [B, length]
        first = _draw(length, len(batch), generator, batch.device)[:, None] - side // 2
        place = torch.arange(length, device=batch.device)
        return (place >= first) & (place < first + side)

    rows, columns = covered(batch.shape[2]), covered(batch.shape[3])
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], colour, batch)
