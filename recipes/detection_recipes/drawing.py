"""Boxes drawn on images, and images side by side."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from detection_recipes.detections import Detected
from detection_recipes.metrics import SHOWN

_GAP, _LINE = 6, 14


def colour(number: int) -> tuple[int, int, int]:
    """A bright colour for class `number`: those of small numbers differ most."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + 0.618034 * number) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_on(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black, or on a dark background white.

    >>> readable_on((255, 230, 0)), readable_on((40, 60, 255))
    ((0, 0, 0), (255, 255, 255))
    """
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def with_boxes(
    image: Image.Image, found: Detected, classes: Sequence[str], width: int | None = None, score: float = SHOWN
) -> Image.Image:
    """A copy of the image with the detections of at least this score drawn on it.

    Args:
        width: what to bring the image to, in pixels; None: it stays as it is.
    """
    scale = 1.0 if width is None else width / image.width
    drawn = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BILINEAR)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default()
    line = max(1, round(min(drawn.size) / 150))
    shown = found.above(score)
    # The best last, in front.
    for box, value, label in reversed(
        list(zip(shown.boxes.tolist(), shown.scores.tolist(), shown.labels.tolist(), strict=True))
    ):
        left, top, right, bottom = (scale * edge for edge in box)
        if right - left < 1 or bottom - top < 1:
            continue
        draw.rectangle((left, top, right, bottom), outline=colour(label), width=line)
        text = f"{classes[label]} {100 * value:.0f}"
        place = (left + line + 1, top + line)
        draw.rectangle(draw.textbbox(place, text, font=font), fill=colour(label))
        draw.text(place, text, fill=readable_on(colour(label)), font=font)
    return drawn


def grid(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Images in rows, each with a line of text above."""
    heights = [max(image.height for _, image in row) + _LINE + _GAP for row in rows]
    wide = max(sum(image.width + _GAP for _, image in row) for row in rows) + _GAP
    result = Image.new("RGB", (wide, sum(heights) + _GAP), (255, 255, 255))
    draw, font, top = ImageDraw.Draw(result), ImageFont.load_default(), _GAP
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for text, image in row:
            draw.text((left, top), text, fill=(0, 0, 0), font=font)
            result.paste(image, (left, top + _LINE))
            left += image.width + _GAP
        top += height
    return result


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()
