"""Annotated images: the boxes on each, their classes, and what had to be left out."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from image_recipes.folders import open_image
from PIL import Image
from torch import Tensor

from casc_core.errors import DataError
from detection_recipes.files import Files


class Picture(Protocol):
    """Where an image comes from."""

    def open(self) -> Image.Image:
        """It, as RGB.

        Raises:
            DataError: it is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class FilePicture:
    """An image in a file."""

    files: Files
    path: str

    def open(self) -> Image.Image:
        return open_image(io.BytesIO(self.files.read(self.path)), self.files.at(self.path))


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the objects on it.

    Attributes:
        name: what a message calls it.
        picture: where the image comes from.
        size: width and height, as the annotation has them.
        boxes: float32 `[N, 4]`: left, top, right and bottom edge in pixels, within the image.
        labels: int64 `[N]`, classes counted from 0.
        difficult: bool `[N]`. Such an object need not be found, and to find it is no mistake.
        crowd: bool `[N]`. Such a box holds several objects; whatever is found within it is no mistake.
    """

    name: str
    picture: Picture
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor

    def open(self) -> Image.Image:
        """The image, as RGB.

        Raises:
            DataError: it is missing, damaged, or of another size than the annotation says.
        """
        image = self.picture.open()
        if image.size != self.size:
            wide, high = self.size
            raise DataError(
                f"{self.name}: the image is {image.width}x{image.height}, but its annotation is for {wide}x{high}; mend "
                "the annotation, or fetch the image again"
            )
        return image

    @property
    def certain(self) -> tuple[Tensor, Tensor]:
        """Boxes and labels of the objects that are to be found: what a network is trained on."""
        counted = ~(self.difficult | self.crowd)
        return self.boxes[counted], self.labels[counted]


@dataclass
class LeftOut:
    """What a data set holds that cannot be used as it stands, counted by reason.

    >>> left_out = LeftOut()
    >>> left_out.note("degenerate", "a.xml, object 2")
    >>> str(left_out)
    '1 box degenerate (a.xml, object 2)'
    """

    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, reason: str, where: str) -> None:
        """Count one, at this place."""
        self.places.setdefault(reason, []).append(where)

    def join(self, other: LeftOut) -> None:
        """Count what another has counted."""
        for reason, places in other.places.items():
            self.places.setdefault(reason, []).extend(places)

    @property
    def counts(self) -> dict[str, int]:
        """How many, by reason."""
        return {reason: len(places) for reason, places in sorted(self.places.items())}

    def __str__(self) -> str:
        parts = []
        for reason, places in sorted(self.places.items()):
            more = ", ..." if len(places) > 3 else ""
            parts.append(
                f"{len(places):,} {'box' if len(places) == 1 else 'boxes'} {reason} ({'; '.join(places[:3])}{more})"
            )
        return ", ".join(parts)


class Objects:
    """The objects on an image, added one by one as a file lists them, those that cannot be used left out."""

    def __init__(self, size: tuple[int, int], left_out: LeftOut) -> None:
        self.size, self.left_out = size, left_out
        self._rows: list[tuple[float, float, float, float]] = []
        self._labels: list[int] = []
        self._flags: list[tuple[bool, bool]] = []

    def add(self, box: Sequence[float], label: int, where: str, difficult: bool = False, crowd: bool = False) -> None:
        """Add an object; a box that has no area or lies outside of the image is left out, one that juts out is cut.

        Args:
            box: left, top, right and bottom edge in pixels.
            label: its class.
            where: file and object.

        Raises:
            DataError: an edge is no finite number.
        """
        if not all(math.isfinite(edge) for edge in box):
            raise DataError(f"{where}: the edges of a box must be finite numbers; got {list(box)}")
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            self.left_out.note("degenerate", where)
            return
        wide, high = self.size
        cut = (max(left, 0.0), max(top, 0.0), min(right, float(wide)), min(bottom, float(high)))
        if cut[2] <= cut[0] or cut[3] <= cut[1]:
            self.left_out.note("outside of the image", where)
            return
        if cut != (left, top, right, bottom):
            self.left_out.note("cut at the border", where)
        self._rows.append(cut)
        self._labels.append(label)
        self._flags.append((difficult, crowd))

    def image(self, name: str, picture: Picture) -> AnnotatedImage:
        """The image with these objects."""
        flags = torch.tensor(self._flags, dtype=torch.bool).reshape(-1, 2)
        return AnnotatedImage(
            name, picture, self.size, torch.tensor(self._rows, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(self._labels, dtype=torch.int64), flags[:, 0], flags[:, 1],
        )  # fmt: skip


@dataclass(frozen=True)
class Detections:
    """A data set for detection.

    Attributes:
        train, test: the two splits.
        classes: names of the classes; a label is a position here.
        source: one line on what this is, without paths of this machine.
        notices: what the user should be told of it.
        name: "voc", "coco", or another; finds the paper's figures.
    """

    train: tuple[AnnotatedImage, ...]
    test: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    source: str
    notices: tuple[str, ...] = ()
    name: str = ""


def summary(images: Iterable[AnnotatedImage]) -> str:
    """How many images, and boxes on them.

    >>> summary([Objects((8, 8), LeftOut()).image("a.png", FilePicture(None, "a.png"))])
    '1 (1 without boxes)'
    """
    counts = Counter(len(image.boxes) == 0 for image in images)
    empty = f" ({counts[True]:,} without boxes)" if counts[True] else ""
    return f"{counts.total():,}{empty}"
