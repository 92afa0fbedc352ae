"""Mean average precision against a plain count over random boxes, and how detections differ."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from detection_recipes.annotations import AnnotatedImage, LeftOut, Objects
from detection_recipes.detections import Detected
from detection_recipes.metrics import OVERLAPS, Differing, differing, precision
from detection_recipes.shapes import DrawnPicture

from casc_core.errors import ConfigError, InputError

CLASSES = 3


def image(rows: list[tuple[list[float], int, bool, bool]]) -> AnnotatedImage:
    objects = Objects((100, 80), LeftOut())
    for box, label, difficult, crowd in rows:
        objects.add(box, label, "", difficult, crowd)
    return objects.image("", DrawnPicture(0, ()))


def detected(rows: list[tuple[list[float], float, int]]) -> Detected:
    rows = sorted(rows, key=lambda row: -row[1])
    boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    return Detected(boxes, torch.tensor([row[1] for row in rows], dtype=torch.float32), labels)


def random_case(seed: int) -> tuple[list[Detected], list[AnnotatedImage]]:
    """Images with objects, some difficult, some crowds; detections near them and elsewhere, some of equal scores."""
    draw = np.random.default_rng(seed)

    def box() -> list[float]:
        left, top = draw.uniform(0, 70), draw.uniform(0, 50)
        return [left, top, left + draw.uniform(8, 30), top + draw.uniform(8, 30)]

    found, images = [], []
    for _ in range(int(draw.integers(2, 9))):
        here = image(
            [
                (box(), int(draw.integers(CLASSES)), draw.random() < 0.2, draw.random() < 0.1)
                for _ in range(draw.integers(6))
            ]
        )
        near = [
            (np.add(each, draw.normal(0, 2.5, 4)).tolist(), label)
            for each, label in zip(here.boxes.tolist(), here.labels.tolist(), strict=True)
            for _ in range(draw.integers(3))
        ]
        far = [(box(), int(draw.integers(CLASSES))) for _ in range(draw.integers(4))]
        found.append(detected([(each, float(draw.integers(1, 8)) / 8, label) for each, label in near + far]))
        images.append(here)
    return found, images


def counted(found: list[Detected], images: list[AnnotatedImage], label: int, overlap: float) -> tuple[list[float], int]:
    """The largest precision at the recall of each further object, and how many objects there are to be found."""

    def share(one: list[float], other: list[float], crowd: bool) -> float:
        wide, high = (min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis]) for axis in (0, 1))
        both = max(0.0, wide) * max(0.0, high)
        first, second = ((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
        return both / (first if crowd else first + second - both)

    objects = 0
    right: list[tuple[float, bool]] = []
    for here, shown in zip(images, found, strict=True):
        facts = zip(
            here.boxes.tolist(), here.labels.tolist(), here.difficult.tolist(), here.crowd.tolist(), strict=True
        )
        # Those that are to be found come first, because only what meets none of them may meet another.
        boxes = sorted((each for each in facts if each[1] == label), key=lambda each: each[2] or each[3])
        objects += sum(not (difficult or crowd) for _, _, difficult, crowd in boxes)
        taken: set[int] = set()
        for place in range(len(shown)):
            if int(shown.labels[place]) != label:
                continue
            best, most = -1, overlap - 1e-10
            for number, (box, _, difficult, crowd) in enumerate(boxes):
                if best >= 0 and not (boxes[best][2] or boxes[best][3]) and (difficult or crowd):
                    break
                value = share(shown.boxes[place].tolist(), box, crowd)
                if value >= most and (crowd or number not in taken):
                    best, most = number, value
            if best >= 0:
                taken.add(best)
            if best < 0 or not (boxes[best][2] or boxes[best][3]):
                right.append((float(shown.scores[place]), best >= 0))
    right.sort(key=lambda each: -each[0])  # stable: of equal scores, in the order of the images
    hits = np.cumsum([hit for _, hit in right])
    precisions = hits / np.arange(1, len(hits) + 1)
    return [
        max((p for p, h in zip(precisions, hits, strict=True) if h >= n), default=0.0) for n in range(1, objects + 1)
    ], objects


@pytest.mark.parametrize("seed", range(25))
def test_precision_is_that_of_a_plain_count(seed: int) -> None:
    found, images = random_case(seed)
    there = [label for label in range(CLASSES) if counted(found, images, label, 0.5)[1]]
    if not there:
        with pytest.raises(InputError, match="there is no object on any image"):
            precision(found, images, CLASSES)
        return
    result = precision(found, images, CLASSES)

    def at(recalls: list[float], overlap: float) -> float:
        values = []
        for label in there:
            rising, objects = counted(found, images, label, overlap)
            needed = [next(n for n in range(1, objects + 1) if n / objects >= recall) for recall in recalls]
            values.append(np.mean([rising[number - 1] for number in needed]))
        return 100 * float(np.mean(values))

    areas = [np.mean(counted(found, images, label, 0.5)[0]) for label in there]
    assert result.at_50 == pytest.approx(100 * float(np.mean(areas)))
    assert [value for value in result.by_class if value is not None] == pytest.approx([100 * each for each in areas])
    assert [number for number, value in enumerate(result.by_class) if value is not None] == there
    assert result.at_50_11 == pytest.approx(at(np.linspace(0, 1, 11).tolist(), 0.5))
    hundred = np.linspace(0, 1, 101).tolist()
    assert result.at_50_95 == pytest.approx(np.mean([at(hundred, overlap) for overlap in OVERLAPS]))


def test_all_found_is_everything_and_nothing_found_is_nothing() -> None:
    box = [10.0, 10.0, 30.0, 30.0]
    images = [image([(box, 1, False, False)]), image([])]
    all_found = precision([detected([(box, 0.9, 1)]), detected([])], images, 2)
    assert (all_found.at_50, all_found.at_50_11, all_found.at_50_95) == (100.0, 100.0, 100.0)
    assert all_found.by_class == (None, 100.0)
    nothing = precision([detected([]), detected([])], images, 2)
    assert (nothing.at_50, nothing.at_50_11, nothing.at_50_95) == (0.0, 0.0, 0.0)


def test_what_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image([([10.0, 10.0, 30.0, 30.0], 1, False, False)])]
    with pytest.raises(InputError, match="expected detections for each of 1 images; got 0"):
        precision([], images, 2)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'casc\[detection\]'"):
        precision([detected([])], images, 2)


ONE: list[Any] = [([0.0, 0.0, 20.0, 20.0], 0.9, 0), ([50.0, 0.0, 70.0, 20.0], 0.8, 1)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ONE, Differing()),
        (ONE[::-1], Differing()),
        ([*ONE, ([0.0, 50.0, 9.0, 60.0], 0.2, 0)], Differing()),  # too small a score to be shown
        ([*ONE, ([0.0, 50.0, 9.0, 60.0], 0.4, 0)], Differing(added=1)),
        (ONE[:1], Differing(missing=1)),
        ([ONE[0], ([50.0, 0.0, 70.9, 20.0], 0.5, 1)], Differing()),
        ([ONE[0], ([50.0, 0.0, 71.5, 20.0], 0.8, 1)], Differing(moved=1)),
        ([ONE[0], ([50.0, 0.0, 70.0, 20.0], 0.8, 0)], Differing(missing=1, added=1)),
        ([*ONE, ([0.5, 0.0, 20.0, 20.0], 0.7, 0)], Differing(added=1)),  # one for each object
        ([], Differing(missing=2)),
    ],
)
def test_differing_detections(found: list[Any], expected: Differing) -> None:
    assert differing(detected(found), detected(ONE)) == expected
    back = differing(detected(ONE), detected(found))
    assert (back.missing, back.added, back.moved) == (expected.added, expected.missing, expected.moved)
    assert bool(expected) is (expected.total > 0)
