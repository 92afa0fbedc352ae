"""Places of entries in a flattened tensor, as arrays: of which entries a reduction or a window is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from casc_core.engine.products.pooling_windows import Window, adaptive
from casc_core.export.integers.numbers import Array


def reduced(shape: torch.Size, dims: Sequence[int]) -> Array:
    """`[..., entries]`: for each entry of a reduction over these dimensions, the places of those that it is of.

    >>> reduced(torch.Size([2, 3]), [-2]).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    numbers = np.arange(shape.numel()).reshape(tuple(shape))
    kept = [dim for dim in range(-len(shape), 0) if dim not in dims]
    moved = numbers.transpose([dim % len(shape) for dim in (*kept, *dims)])
    return moved.reshape(*(shape[dim] for dim in kept), -1)


def along(shape: torch.Size, lines: Sequence[Array]) -> Array:
    """`[*outer, *windows, entries]`: the places that windows of the last dimensions are of, -1 for padding.

    Args:
        lines: for each of these dimensions `[windows, entries]`, likewise.

    >>> along(torch.Size([2, 3]), [np.asarray([[-1, 0], [1, 2]])]).tolist()
    [[[-1, 0], [1, 2]], [[-1, 3], [4, 5]]]
    """
    outer = shape[: len(shape) - len(lines)]
    places: Array = np.zeros((1,), dtype=np.int64)
    known: Array = np.ones((1,), dtype=bool)
    for size, line in zip(shape[len(outer) :], lines, strict=True):
        places = (places[..., None, :, None] * size + line[:, None, :]).reshape(*places.shape[:-1], len(line), -1)
        known = (known[..., None, :, None] & (line >= 0)[:, None, :]).reshape(places.shape)
    inner = math.prod(shape[len(outer) :])
    starts = (np.arange(outer.numel()) * inner).reshape(*outer, *[1] * places.ndim)
    return np.where(known, places + starts, -1)


def windows(window: Window, size: int) -> Array:
    """`[windows, kernel]`: the places of each window, -1 for padding.

    >>> windows(Window(3, 2, padding=1), 4).tolist()
    [[-1, 0, 1], [1, 2, 3]]
    """
    first = np.arange(window.outputs(size))[:, None] * window.stride - window.padding
    read = first + np.arange(window.kernel) * window.dilation
    return np.where((read >= 0) & (read < size), read, -1)


def parts(size: int, count: int) -> Array:
    """`[count, longest]`: the places of each part of adaptive pooling, -1 behind its end.

    >>> parts(5, 3).tolist()
    [[0, 1, -1], [1, 2, 3], [3, 4, -1]]
    """
    spans = adaptive(size, count)
    longest = max(last - first for first, last in spans)
    return np.asarray([[first + k if first + k < last else -1 for k in range(longest)] for first, last in spans])
