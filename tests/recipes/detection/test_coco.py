"""Annotations as COCO has them: what is read of them, and what is refused, by file and object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from detection_recipes.annotations import LeftOut
from detection_recipes.coco import read
from detection_recipes.data import load_detections
from detection_recipes.files import FolderFiles
from voc_files import coco_description, write_coco

from casc_core.errors import DataError


def test_images_boxes_classes_and_crowds(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_description())
    left_out = LeftOut()
    images, classes = read(FolderFiles(tmp_path), "instances_all.json", left_out)
    assert classes == ("cat", "dog")
    assert [image.name.rpartition("/")[2] for image in images] == ["b.png", "a.png"]
    crowded, other = images
    assert other.boxes.tolist() == [[2.0, 3.0, 12.0, 15.5]]
    assert other.labels.tolist() == [1]
    assert crowded.crowd.tolist() == [False, True]
    assert crowded.certain[0].tolist() == [[5.0, 5.0, 25.0, 25.0]]
    assert other.open().size == (40, 30)
    assert not left_out.places


def test_boxes_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    objects = coco_description()["annotations"]
    objects[0]["bbox"], objects[1]["bbox"] = [3, 3, 0, 5], [30, 20, 20, 20]
    write_coco(tmp_path, coco_description(annotations=objects))
    left_out = LeftOut()
    read(FolderFiles(tmp_path), "instances_all.json", left_out)
    assert left_out.counts == {"cut at the border": 1, "degenerate": 1}
    assert left_out.places["degenerate"] == [f"{tmp_path}/instances_all.json, object 1"]


def changed(part: str, number: int, **values: Any) -> dict[str, Any]:
    description = coco_description()
    description[part][number] |= values
    return description


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "is not a file of annotations as COCO has them"),
        ([1], "annotations must be an object; got [1]"),
        ({"images": []}, "'annotations' is missing"),
        (changed("annotations", 1, image_id=99), "all.json, object 2: there is no image 99 in the file"),
        (changed("annotations", 1, category_id=99), "all.json, object 2: there is no category 99 in the file"),
        (changed("annotations", 1, bbox=[1, 2, 3]), "all.json, object 2: bbox must be four numbers; got [1, 2, 3]"),
        (changed("annotations", 1, bbox=None), "all.json, object 2: bbox must be four numbers; got None"),
        (
            changed("annotations", 1, bbox=[1, 2, float("nan"), 4]),
            "all.json, object 2: the edges of a box must be finite",
        ),
        (changed("annotations", 1, image_id=[3]), "is not a file of annotations as COCO has them"),
        (changed("images", 0, id=3), "a number or a name stands there twice"),
        (changed("images", 0, width=0), "width must be a whole number; got 0"),
        (changed("images", 0, width=None), "width must be a whole number; got None"),
        (changed("images", 0, file_name="../a.png"), "'../a.png' is not the name of a file in its folder"),
        (changed("images", 0, file_name="c.png"), "there is no image 'c.png' (number 7); looked in"),
        (changed("categories", 0, name="cat"), "a number or a name stands there twice"),
        ("[" * 100_000, "is not a file of annotations as COCO has them"),
    ],
)
def test_malformed_descriptions_are_refused_by_name(description: Any, message: str, tmp_path: Path) -> None:
    text = description if isinstance(description, str) else json.dumps(description)
    write_coco(tmp_path, text)
    with pytest.raises(DataError, match=re.escape(message)):
        load_detections(tmp_path)


def test_categories_of_the_test_images_are_those_of_the_training_images(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_description(), "instances_train2017.json")
    (tmp_path / "images").rename(tmp_path / "train2017")
    # Other numbers, the same names.
    other = coco_description(categories=[{"id": 2, "name": "dog"}, {"id": 18, "name": "cat"}])
    write_coco(tmp_path, other, "instances_val2017.json")
    (tmp_path / "images").rename(tmp_path / "val2017")
    data = load_detections(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [image.labels.tolist() for image in data.train] == [[0, 0], [1]]
    assert [image.labels.tolist() for image in data.test] == [[1, 1], [0]]
    write_coco(tmp_path, coco_description(categories=[{"id": 2, "name": "dog"}]), "instances_val2017.json")
    with pytest.raises(DataError, match=r"instances_val2017\.json .*'cat' is in one of them only"):
        load_detections(tmp_path)


def test_splits_in_folders_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_coco(tmp_path / split, coco_description(), "_annotations.coco.json")
        for image in ("a.png", "b.png"):
            (tmp_path / split / "images" / image).rename(tmp_path / split / image)
    data = load_detections(tmp_path)
    assert "train and valid" in data.source
    assert data.train[1].name == str(tmp_path / "train/a.png")
    assert data.test[1].name == str(tmp_path / "valid/a.png")
