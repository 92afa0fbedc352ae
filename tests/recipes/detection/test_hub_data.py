"""Annotated images of the hub, in data sets made by `datasets` itself; only the network is left out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from detection_recipes.data import load_detections
from PIL import Image

from casc_core.errors import DataError
from casc_lab import hub

datasets = pytest.importorskip("datasets")

ROWS = [[((2, 3, 10, 12), 1), ((5, 5, 20, 20), 0)], [((0, 0, 40, 30), 1)], []]
Publish = Callable[..., None]


def picture(content: bytes | None = None) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 60, 30)).save(buffer, format="png")
    return {"bytes": content or buffer.getvalue(), "path": None}


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    def published(
        rows: Any = ROWS, records: bool = False, sized: bool = True, splits: tuple[str, ...] = ("train", "test"),
        box: str = "bbox", names: Any = ("cat", "dog"), content: bytes | None = None, size: tuple[int, int] = (40, 30),
    ) -> None:  # fmt: skip
        category = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
        fields = {box: datasets.Sequence(datasets.Value("float32")), "category": category}
        features: dict[str, Any] = {"image": datasets.Image()}
        features["objects"] = [fields] if records else datasets.Sequence(fields)
        columns: dict[str, Any] = {"image": [picture(content) for _ in rows]}
        if records:
            columns["objects"] = [[{box: list(each), "category": label} for each, label in row] for row in rows]
        else:
            columns["objects"] = [
                {box: [list(each) for each, _ in row], "category": [label for _, label in row]} for row in rows
            ]
        if sized:
            features |= {"width": datasets.Value("int64"), "height": datasets.Value("int64")}
            columns |= {"width": [size[0]] * len(rows), "height": [size[1]] * len(rows)}
        whole = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        monkeypatch.setattr(hub, "hub_answers", lambda: True)
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(dict.fromkeys(splits, whole)))

    return published


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("records", [True, False])
def test_images_boxes_and_classes(records: bool, sized: bool, publish: Publish) -> None:
    publish(records=records, sized=sized)
    data = load_detections("someone/pets")
    expected = "3 (1 without boxes) training and 3 (1 without boxes) test images, 2 classes"
    assert data.source == f"hub data set someone/pets, train and test: {expected}"
    assert data.classes == ("cat", "dog")
    first = data.train[0]
    assert first.boxes.tolist() == [[2.0, 3.0, 12.0, 15.0], [5.0, 5.0, 25.0, 25.0]]
    assert first.labels.tolist() == [1, 0]
    assert first.size == first.open().size == (40, 30)
    assert data.test[1].name == "hub data set someone/pets, test row 1"


def test_boxes_as_corners(publish: Publish) -> None:
    corners = [[((2, 3, 12, 15), 1), ((25, 20, 39, 29), 0)], [((20, 10, 40, 30), 1)]]
    publish(corners)
    with pytest.raises(DataError, match=r"2 of 3 boxes do not fit .* as sizes .*: pass --hub-boxes corners"):
        load_detections("someone/pets")
    data = load_detections("someone/pets", hub_boxes="corners")
    assert data.train[0].boxes.tolist() == [[2.0, 3.0, 12.0, 15.0], [25.0, 20.0, 39.0, 29.0]]
    publish([[((25, 3, 10, 12), 1)]])
    with pytest.raises(DataError, match=r"1 of 1 boxes do not fit .* as corners .*: pass --hub-boxes sizes"):
        load_detections("someone/pets", hub_boxes="corners")


def test_a_few_boxes_that_do_not_fit_are_counted_and_said(publish: Publish) -> None:
    publish([[((2, 3, 10, 12), 1)] * 12, [((2, 3, 0, 12), 1)]])
    (notice,) = load_detections("someone/pets").notices
    assert "2 boxes degenerate (hub data set someone/pets, train row 1, object 1; " in notice


def test_other_splits(publish: Publish) -> None:
    publish(splits=("train", "validation"))
    assert "train and validation" in load_detections("someone/pets").source
    publish([[((2, 3, 10, 12), 1)]] * 10, splits=("train",))
    data = load_detections("someone/pets")
    assert (len(data.train), len(data.test)) == (8, 2)
    publish(splits=("heldout", "other"))
    with pytest.raises(DataError, match="it has no split trainval or train; there are heldout, other"):
        load_detections("someone/pets")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"box": "polygon"}, "it has no column of objects with a field bbox"),
        ({"names": None}, "its objects have no named categories; their fields are bbox, category"),
        ({"rows": [[((2, 3, 10), 1)]]}, "train row 0, object 1: bbox must be four numbers; got [2.0, 3.0, 10.0]"),
        ({"rows": [[((2, 3, 10, 12), -1)]]}, "train row 0, object 1: there is no category -1; there are 2"),
        ({"size": (0, 30)}, "train row 0: width and height must be whole numbers of at least 1; got 0 and 30"),
        ({"content": b"no image", "sized": False}, "train row 0: damaged or not an image"),
    ],
)
def test_what_cannot_be_used_is_named(how: dict[str, Any], message: str, publish: Publish) -> None:
    publish(**how)
    with pytest.raises(DataError, match=re.escape(message)):
        load_detections("someone/pets")


def test_a_damaged_image_and_one_of_another_size_are_refused_when_they_are_opened(publish: Publish) -> None:
    publish(content=b"no image")
    with pytest.raises(DataError, match=r"hub data set someone/pets, train row 0: missing, damaged or not an image"):
        load_detections("someone/pets").train[0].open()
    publish(size=(41, 30))
    with pytest.raises(DataError, match="train row 0: the image is 40x30, but its annotation is for 41x30"):
        load_detections("someone/pets").train[0].open()


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(
        DataError, match="there is no folder 'someone/pets', and hub data set someone/pets is not in the"
    ):
        load_detections("someone/pets")
