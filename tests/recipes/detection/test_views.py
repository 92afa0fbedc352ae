"""What the network sees: boxes stay on what they were drawn around, whatever is done to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_recipes.views import Augmentation, Sample, letterbox, letterboxed
from PIL import Image, ImageDraw

from casc_core.errors import ConfigError

FILL = (10, 10, 10)


def sample(size: tuple[int, int] = (120, 90), box: tuple[int, int, int, int] = (40, 20, 90, 60)) -> Sample:
    """A bright rectangle on black."""
    image = Image.new("RGB", size, (0, 0, 0))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(250, 250, 250))
    return image, torch.tensor([box], dtype=torch.float32), torch.tensor([3])


def bright(image: Image.Image) -> list[int]:
    rows, columns = np.nonzero(np.asarray(image).min(axis=2) > 110)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("size", [(120, 90), (90, 120), (64, 64), (31, 200)])
def test_a_letterbox_shows_all_and_goes_back(size: tuple[int, int]) -> None:
    box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
    image, boxes, _ = sample(size, box)
    place = letterbox(size, (96, 64))
    seen = letterboxed(image, (96, 64), FILL)
    assert seen.size == (96, 64)
    assert bright(seen) == pytest.approx(place.boxes(boxes)[0].tolist(), abs=1.1)
    assert torch.allclose(place.back(place.boxes(boxes)), boxes, atol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_follow_their_objects(seed: int) -> None:
    draw = np.random.default_rng(seed)
    augmentation = Augmentation(scale=0.4, stretch=0.3, hue=0.0, saturation=0.0, brightness=0.2)
    image, boxes, labels = augmentation(sample(), sample, (96, 64), FILL, draw)
    assert image.size == (96, 64)
    assert labels.tolist() == [3]
    assert bright(image) == pytest.approx(boxes[0].tolist(), abs=1.6)


@pytest.mark.parametrize("seed", range(10))
def test_a_mosaic_is_of_four_images(seed: int) -> None:
    draw = np.random.default_rng(seed)
    augmentation = Augmentation(scale=0.2, stretch=0.0, flip=False, hue=0.0, saturation=0.0, brightness=0.0, mosaic=1.0)
    image, boxes, labels = augmentation(sample(), sample, (192, 128), FILL, draw)
    assert 1 <= len(boxes) == len(labels) <= 4
    pixels = np.asarray(image).min(axis=2) > 110
    for left, top, right, bottom in boxes.round().int().tolist():
        assert pixels[top + 2 : bottom - 2, left + 2 : right - 2].all()


def test_objects_of_which_little_is_seen_are_not_to_be_found() -> None:
    _, boxes, _ = sample(box=(0, 0, 12, 12))
    seen = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        _, kept, _ = Augmentation(scale=0.9, flip=False)(sample(box=(0, 0, 12, 12)), sample, (96, 64), FILL, draw)
        seen += len(kept)
        assert all((edge >= 0).all() and edge[2] <= 96 and edge[3] <= 64 for edge in kept)
    assert 0 < seen < 60
    assert len(boxes) == 1


def test_nothing_is_done_where_nothing_is_asked() -> None:
    augmentation = Augmentation(0.0, 0.0, False, 0.0, 0.0, 0.0)
    image, boxes, _ = augmentation(sample(), sample, (96, 64), FILL, np.random.default_rng(0))
    # The rest of the canvas lies on both sides by chance; the sizes are those of a letterbox.
    assert (boxes[0, 2:] - boxes[0, :2]).tolist() == pytest.approx([50 * 64 / 90, 40 * 64 / 90])
    assert image.size == (96, 64)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", 1.0, r"scale must lie in \[0, 1\); got 1.0"),
        ("stretch", -0.1, r"stretch must lie in \[0, 1\); got -0.1"),
        ("brightness", float("nan"), r"brightness must lie in \[0, 1\); got nan"),
        ("mosaic", 1.1, r"mosaic must lie in 0..1; got 1.1"),
    ],
)
def test_shares_out_of_range(name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**{name: value})  # type: ignore[arg-type]
