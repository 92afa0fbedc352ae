"""Annotated images of the Hugging Face hub: a column of images, and one of objects with their boxes and categories."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from image_recipes.folders import open_image
from PIL import Image

from casc_core.errors import DataError
from casc_lab import hub
from detection_recipes.annotations import AnnotatedImage, LeftOut, Objects

BOXES = ("sizes", "corners")
"""What follows left and top in a box: width and height, or right and bottom."""
_BOX_FIELDS, _CATEGORY_FIELDS = (
    ("bbox", "bboxes", "boxes"),
    ("category", "categories", "category_id", "label", "labels"),
)
_CROWD_FIELDS = ("iscrowd", "is_crowd")
_MOST_UNFIT = 0.1  # of the boxes, where these are what they are said to be


@dataclass(frozen=True)
class HubPicture:
    """An image in a row of a split, whose images are not decoded by `datasets`."""

    split: Any
    row: int
    column: str
    name: str

    def open(self) -> Image.Image:
        return open_image(io.BytesIO(self.content()), self.name)

    def content(self) -> bytes:
        """The file."""
        value = self.split[self.row][self.column]
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        try:
            with open(value["path"], "rb") as file:
                return file.read()
        except (OSError, TypeError) as error:
            raise DataError(f"{self.name}: the image is missing ({error}); fetch the data set again") from error

    def size(self) -> tuple[int, int]:
        """Width and height, from the head of the file."""
        try:
            with Image.open(io.BytesIO(self.content())) as image:
                return image.size
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.name}: damaged or not an image ({error}); fetch the data set again") from error


class HubData:
    """A data set of the hub, its splits read when they are asked for.

    Args:
        repository: its name.
        boxes: one of `BOXES`.

    Attributes:
        what: what it is called.
        splits: the names of its splits.
        classes: the names of its categories; a label is a position here.

    Raises:
        casc_lab.hub.UnreachableError: it is neither cached nor to be had now. DataError: it has no such columns.
    """

    name = ""

    def __init__(self, repository: str, boxes: str = BOXES[0]) -> None:
        self.what, self.boxes = f"hub data set {repository}", boxes
        self._splits = hub.load(repository)
        self.splits = list(self._splits)
        features = self._splits[self.splits[0]].features
        image = next((name for name in features if type(features[name]).__name__ == "Image"), None)
        objects = next((name for name in features if _first(_BOX_FIELDS, _fields(features[name]))), None)
        if image is None or objects is None:
            missing = "images" if image is None else f"objects with a field {' or '.join(_BOX_FIELDS)}"
            raise DataError(f"{self.what}: it has no column of {missing}; its columns are {', '.join(features)}")
        fields = _fields(features[objects])
        box, category = _first(_BOX_FIELDS, fields), _first(_CATEGORY_FIELDS, fields)
        names = getattr(_innermost(fields[category]), "names", None) if category else None
        if box is None or category is None or names is None:
            raise DataError(f"{self.what}: its objects have no named categories; their fields are {', '.join(fields)}")
        self.image, self.objects, self.box, self.category = image, objects, box, category
        self.crowd = _first(_CROWD_FIELDS, fields)
        self.classes = tuple(names)

    def read(self, split: str, left_out: LeftOut) -> list[AnnotatedImage]:
        """The images of a split; `left_out` counts what cannot be used.

        Raises:
            DataError: an image is damaged, an object malformed, or many boxes do not fit their images.
        """
        import datasets

        rows = self._splits[split]
        pictures = rows.cast_column(self.image, datasets.Image(decode=False))
        sized = {"width", "height"} <= set(rows.column_names)
        found, unfit, count = [], LeftOut(), 0
        for number, row in enumerate(rows.select_columns([self.objects, *(("width", "height") if sized else ())])):
            where = f"{self.what}, {split} row {number}"
            picture = HubPicture(pictures, number, self.image, where)
            objects = Objects(_size(row, where) if sized else picture.size(), unfit)
            for place, each in enumerate(_records(row[self.objects], where), 1):
                self._add(each, objects, f"{where}, object {place}")
                count += 1
            found.append(objects.image(where, picture))
        total = sum(unfit.counts.values())
        if total > _MOST_UNFIT * count:
            other = BOXES[1 - BOXES.index(self.boxes)]
            raise DataError(
                f"{self.what}: {total:,} of {count:,} boxes do not fit their images if they are read as {self.boxes} "
                f"({unfit}); they may be {other}: pass --hub-boxes {other}"
            )
        left_out.join(unfit)
        return found

    def _add(self, each: Mapping[str, Any], objects: Objects, where: str) -> None:
        """Add one object."""
        box, label = each[self.box], each[self.category]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(edge, (int, float)) for edge in box):
            raise DataError(f"{where}: {self.box} must be four numbers; got {box!r:.80}")
        if not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise DataError(f"{where}: there is no category {label!r:.40}; there are {len(self.classes)}")
        left, top, third, fourth = map(float, box)
        edges = (left, top, third, fourth) if self.boxes == "corners" else (left, top, left + third, top + fourth)
        objects.add(edges, label, where, crowd=bool(self.crowd and each[self.crowd]))


def _first(names: Sequence[str], there: Any) -> str | None:
    return next((name for name in names if name in there), None)


def _innermost(feature: Any) -> Any:
    """A feature, or that of the items of a list."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature


def _fields(feature: Any) -> Mapping[str, Any]:
    """The fields of objects, which are a list of records or a record of lists; empty if the feature is neither."""
    inner = _innermost(feature)
    return inner if isinstance(inner, Mapping) else {}


def _size(row: Mapping[str, Any], where: str) -> tuple[int, int]:
    wide, high = row["width"], row["height"]
    if not all(isinstance(side, int) and side >= 1 for side in (wide, high)):
        raise DataError(f"{where}: width and height must be whole numbers of at least 1; got {wide!r} and {high!r}")
    return wide, high


def _records(value: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a row, one by one."""
    if isinstance(value, list):
        yield from value
        return
    lengths = {len(each) for each in value.values() if isinstance(each, list)}
    if len(lengths) > 1:
        raise DataError(f"{where}: its objects have fields of {' and '.join(map(str, sorted(lengths)))} entries")
    for place in range(lengths.pop() if lengths else 0):
        yield {name: each[place] for name, each in value.items() if isinstance(each, list)}
