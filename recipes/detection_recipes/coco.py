"""Annotated images as COCO describes them: one JSON file for each split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from casc_core.errors import DataError
from casc_core.storage.strict import of
from detection_recipes.annotations import AnnotatedImage, FilePicture, LeftOut, Objects
from detection_recipes.files import Files, file_name

PARTS = ("images", "annotations", "categories")
IMAGE_FOLDERS = ("{split}", "images/{split}", "images", "")
"""Where images may lie, seen from the root of the data, beside the folder of the file that describes them."""


def find(files: Files) -> dict[str, str]:
    """JSON files that may be annotations, by the name of their split.

    >>> _split_of("instances_val2017.json")
    'val2017'
    """
    found: dict[str, str] = {}
    for folder in files.folders():
        for name in sorted(files.names(folder)):
            if name.endswith(".json") and name.startswith(("instances_", "_annotations", "annotations")):
                split = _split_of(name) or folder.rpartition("/")[2]
                found.setdefault(split, f"{folder}/{name}" if folder else name)
    return found


def _split_of(name: str) -> str:
    return name.removesuffix(".json").removeprefix("instances_").removeprefix("_annotations.coco").lstrip("_")


def read(
    files: Files, path: str, left_out: LeftOut, classes: Sequence[str] | None = None
) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """The images that a JSON file describes, in the order of their numbers, and the names of its categories.

    Args:
        files, path: where.
        left_out: counts what cannot be used.
        classes: names that it must have; None: its own, in the order of their numbers.

    Raises:
        DataError: it is no such file, an image is missing, an object of an unknown image or category.
    """
    where = files.at(path)
    try:
        # What is outlined takes far more memory than all else, and is not needed.
        content = of(dict, json.loads(files.read(path), object_hook=_without_outlines), "annotations")
        images, objects, categories = (of(list, content[part], part) for part in PARTS)
        names = {_integer(each, "id"): of(str, each["name"], "a category's name") for each in categories}
        found = {_integer(each, "id"): each for each in images}
        if len(found) < len(images) or len(names) < len(categories) or len(set(names.values())) < len(names):
            raise ValueError("a number or a name stands there twice")
        own = tuple(names[number] for number in sorted(names))
        order = own if classes is None else tuple(classes)
        if sorted(order) != sorted(own):
            other = sorted(set(order) ^ set(own))
            raise ValueError(
                f"its categories are not those of the training images: {other[0]!r} is in one of them only"
            )
        labels = {number: order.index(name) for number, name in names.items()}
        of_image: dict[int, Objects] = {
            number: Objects((_integer(found[number], "width"), _integer(found[number], "height")), left_out)
            for number in sorted(found)
        }
        for place, each in enumerate(objects, 1):
            _add(each, of_image, labels, f"{where}, object {each.get('id', f'number {place} of the file')}")
    except (KeyError, ValueError, RecursionError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where} is not a file of annotations as COCO has them ({reason:.300})") from error
    placed = _placed(files, path, {number: str(found[number].get("file_name", "")) for number in of_image})
    return [
        of_image[number].image(files.at(image), FilePicture(files, image)) for number, image in placed.items()
    ], order


class CocoFiles:
    """Files that describe their images so, one for each split.

    Args:
        files: where.
        what: what they are called.
    """

    def __init__(self, files: Files, what: str) -> None:
        self.files, self.what = files, what
        self._found = find(files)
        self.splits = list(self._found)
        self.name = "coco" if {"train2017", "val2017"} <= set(self.splits) else ""
        self.classes: tuple[str, ...] = ()

    def read(self, split: str, left_out: LeftOut) -> list[AnnotatedImage]:
        images, self.classes = read(self.files, self._found[split], left_out, self.classes or None)
        return images


def _without_outlines(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("segmentation", None)
    return value


def _add(each: dict[str, Any], of_image: dict[int, Objects], labels: dict[int, int], where: str) -> None:
    image, category = each.get("image_id"), each.get("category_id")
    if image not in of_image:
        raise DataError(f"{where}: there is no image {image!r:.40} in the file")
    if category not in labels:
        raise DataError(f"{where}: there is no category {category!r:.40} in the file")
    box = each.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(edge) in (int, float) for edge in box):
        raise DataError(f"{where}: bbox must be four numbers; got {box!r:.80}")
    left, top, wide, high = box
    crowd = bool(each.get("iscrowd", 0))
    of_image[image].add((left, top, left + wide, top + high), labels[category], where, crowd=crowd)


def _integer(value: dict[str, Any], name: str) -> int:
    found = value[name]
    if type(found) is not int or found < 0 or (name != "id" and found < 1):
        raise ValueError(f"{name} must be a whole number; got {found!r:.40}")
    return found


def _placed(files: Files, path: str, names: dict[int, str]) -> dict[int, str]:
    """Where each image lies.

    Raises:
        DataError: nowhere.
    """
    folder, _, name = path.rpartition("/")
    root = folder.removesuffix("annotations").rstrip("/")
    split = _split_of(name)
    usual = (_join(root, each.format(split=split).rstrip("/")) for each in IMAGE_FOLDERS)
    candidates = list(dict.fromkeys([*usual, folder]))
    there = {place: files.names(place) for place in candidates}
    placed = {}
    for number, image in names.items():
        file_name(image, files.at(path))
        inner, _, last = image.rpartition("/")
        place = next((each for each in candidates if last in _names(files, there, _join(each, inner))), None)
        if place is None:
            raise DataError(
                f"{files.at(path)}: there is no image {image!r:.80} (number {number}); looked in "
                f"{', '.join(files.at(each) for each in candidates)}"
            )
        placed[number] = _join(_join(place, inner), last)
    return placed


def _names(files: Files, there: dict[str, frozenset[str]], folder: str) -> frozenset[str]:
    if folder not in there:
        there[folder] = files.names(folder)
    return there[folder]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
