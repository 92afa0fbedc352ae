"""A small data set for detection, written as PASCAL VOC or as COCO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Box = tuple[str, Sequence[object]]
"""Class, and left, top, right and bottom edge; strings are written as they are."""
SIZE = (40, 30)


def xml(boxes: Sequence[Box], size: tuple[object, object] = SIZE, difficult: int = 0, before: str = "") -> str:
    objects = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(
            f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box in boxes
    ]
    size_of = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"{before}<annotation>{size_of}{''.join(objects)}</annotation>"


def write_voc(folder: Path, images: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Path:
    """Images of `SIZE` by name with their annotations, and lists of names."""
    for place in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / place).mkdir(parents=True)
    for name, text in images.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", SIZE, (90, 60, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
    for name, names in lists.items():
        (folder / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{each}\n" for each in names))
    return folder


def two_splits(folder: Path, broken: str | None = None) -> Path:
    """One image to train on, one to test on; the first one's annotation is `broken`, if given."""
    fine = xml([("cat", (2, 3, 20, 25)), ("dog", (10, 10, 30, 28))])
    return write_voc(folder, {"a": fine if broken is None else broken, "b": fine}, {"train": ["a"], "test": ["b"]})


def coco_description(**changed: Any) -> dict[str, Any]:
    """Two images and three objects, one of them a crowd."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10, 12.5], "segmentation": [[1, 2, 3]]},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [5, 5, 20, 20], "iscrowd": 0},
            {"id": 3, "image_id": 3, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
        **changed,
    }  # fmt: skip


def write_coco(folder: Path, description: Any, name: str = "instances_all.json") -> Path:
    """The description as it is, and its images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(description if isinstance(description, str) else json.dumps(description))
    for image in ("a.png", "b.png"):
        Image.new("RGB", SIZE, (90, 60, 30)).save(folder / "images" / image)
    return folder
