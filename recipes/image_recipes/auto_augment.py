"""AutoAugment's policy for CIFAR-10 (Cubuk, Zoph, Mane, Vasudevan, Le: AutoAugment, CVPR 2019), on batches.

Each image draws one of 25 sub-policies, two operations each with a probability and a level. The operations are Pillow's,
bit for bit, but applied at once to all images of the batch that drew them, on the device they are on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Fill = tuple[int, int, int]

# Operation, probability, level of 0..9 (0 where it has none): the table "AutoAugment policy found on reduced CIFAR-10".
POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
)


def auto_augment(batch: torch.Tensor, generator: torch.Generator, fill: Fill = (128, 128, 128)) -> torch.Tensor:
    """Apply one sub-policy, drawn for each image, to uint8 `[B, 3, H, W]`.

    Magnitudes are linear in the level, from 0 to the largest at level 9: shear 0.3, translation 150/331 of the size,
    rotation 30 degrees, enhancement 1 -+ 0.9 (each of these with a random sign); posterising from 8 bits to 4, solarising
    from 256 to 0. What a geometric operation uncovers is painted with `fill`.
    """
    drawn = torch.rand(5, len(batch), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    policies = (drawn[0] * len(POLICY)).long().tolist()
    batch = batch.clone()
    for stage in (0, 1):
        by_operation: dict[str, list[int]] = {}
        magnitudes: dict[str, list[float]] = {}
        applied, signs = drawn[1 + stage].tolist(), (drawn[3 + stage] < 0.5).tolist()
        for row, policy in enumerate(policies):
            name, probability, level = POLICY[policy][stage]
            if applied[row] < probability:
                share = level / 9
                by_operation.setdefault(name, []).append(row)
                magnitudes.setdefault(name, []).append(-share if signs[row] else share)
        for name, rows in by_operation.items():
            chosen = torch.tensor(rows, device=batch.device)
            batch[chosen] = apply(name, batch[chosen], magnitudes[name], fill)
    return batch


def apply(name: str, images: torch.Tensor, magnitudes: list[float], fill: Fill = (128, 128, 128)) -> torch.Tensor:
    """One operation on uint8 `[N, 3, H, W]`, with a magnitude of -1..1 for each image, in units of the largest."""
    if name in _MATRICES:
        height, width = images.shape[2:]
        return _affine(images, [_MATRICES[name](magnitude, width, height) for magnitude in magnitudes], fill)
    return _OPERATIONS[name](
        images, torch.tensor(magnitudes, dtype=torch.float64, device=images.device)[:, None, None, None]
    )


# --- geometry: where a pixel (x, y) of the output comes from, x' = a x + b y + c, y' = d x + e y + f ----------------------

Matrix = tuple[float, float, float, float, float, float]


def _rotation(magnitude: float, width: int, height: int) -> Matrix:
    """Counterclockwise about the centre by up to 30 degrees."""
    angle = -math.radians(30 * magnitude)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


_MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "shear_x": lambda magnitude, width, height: (1, 0.3 * magnitude, 0, 0, 1, 0),
    "shear_y": lambda magnitude, width, height: (1, 0, 0, 0.3 * magnitude, 1, 0),
    "translate_x": lambda magnitude, width, height: (1, 0, int(150 / 331 * width * magnitude), 0, 1, 0),
    "translate_y": lambda magnitude, width, height: (1, 0, 0, 0, 1, int(150 / 331 * height * magnitude)),
    "rotate": _rotation,
}


def _affine(images: torch.Tensor, matrices: list[Matrix], fill: Fill) -> torch.Tensor:
    """The nearest pixel, found in the 16-bit fixed point that Pillow uses."""
    height, width = images.shape[2:]
    fixed = [
        [math.floor(value * 65536 + 0.5) for value in (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)]
        for a, b, c, d, e, f in matrices
    ]
    a, b, c, d, e, f = torch.tensor(fixed, device=images.device).T[..., None, None]  # each [N, 1, 1]
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)[:, None]
    from_x, from_y = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    source = torch.where(inside, from_y * width + from_x, 0).flatten(1)[:, None].expand(-1, 3, -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    return torch.where(inside[:, None], moved, _colour(fill, images))


def _colour(fill: Fill, images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(fill, dtype=torch.uint8, device=images.device)[:, None, None]


# --- colour ------------------------------------------------------------------------------------------------------


def _blend(degenerate: torch.Tensor, images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """Away from the degenerate image, or towards it: the factor is 1 + 0.9 times the magnitude."""
    factor = (1 + 0.9 * magnitudes).float()
    start = degenerate.float()
    return (start + factor * (images.float() - start)).clamp_(0, 255).byte()


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma (ITU-R 601-2) in Pillow's fixed point, int32 `[N, 1, H, W]`."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=images.device)[:, None, None]
    return ((images * weights).sum(1, keepdim=True, dtype=torch.int32) + 32768) >> 16


def _color(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    return _blend(_grey(images), images, magnitudes)


def _brightness(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    return _blend(torch.zeros_like(images), images, magnitudes)


def _contrast(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    mean = (_grey(images).double().mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean, images, magnitudes)


def _sharpness(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """The degenerate image is smoothed by 3x3 weights, 5 in the middle and 1 around, its rim left as it is."""
    height, width = images.shape[2:]
    wide = images.short()
    smooth = wide.clone()
    if min(height, width) > 2:
        rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
        total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
        smooth[:, :, 1:-1, 1:-1] = (total + 6) // 13  # rounded: there are no ties
    return _blend(smooth, images, magnitudes)


def _auto_contrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0..255."""
    low, high = (extreme.double() for extreme in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    scale = 255 / (high - low).clamp_(min=1)
    stretched = (images * scale - low * scale).clamp_(0, 255).byte()
    return torch.where(high > low, stretched, images)


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Each channel's histogram made flat."""
    values = images.flatten(2).flatten(0, 1).long()  # [channels, pixels]
    channels = torch.arange(len(values), device=images.device)[:, None]
    counts = (values + 256 * channels).flatten().bincount(minlength=256 * len(values)).view(-1, 256)
    largest = counts.gather(1, values.amax(1, keepdim=True))
    step = (values.shape[1] - largest) // 255
    table = ((step // 2 + counts.cumsum(1) - counts) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, table.gather(1, values), values).byte().view_as(images)


def _posterize(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """All but the leading bits zero."""
    dropped = (4 * magnitudes.abs()).round().byte()
    return (images >> dropped) << dropped


def _solarize(images: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """Values from the threshold on, inverted."""
    return torch.where(images < 256 * (1 - magnitudes.abs()), images, 255 - images)


def _invert(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return 255 - images


_OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "color": _color,
    "brightness": _brightness,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "invert": _invert,
}
