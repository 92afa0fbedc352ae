"""Windows that slide over a tensor's last dimensions: maxima and sums, dimension by dimension, in whole numbers too."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import InputError

Combine = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """A window over one dimension, as pooling layers have it."""

    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    def outputs(self, size: int) -> int:
        """How many windows there are.

        Raises:
            InputError: not one fits, or torch has no such window.

        >>> Window(3, 2).outputs(8), Window(3, 2, ceil_mode=True).outputs(8), Window(3, 2, ceil_mode=True).outputs(2)
        (3, 4, 1)
        """
        if min(self.kernel, self.stride, self.dilation) < 1 or not 0 <= 2 * self.padding <= self.kernel:
            raise InputError(f"{self} is no window: sizes are at least 1, and padding is at most half of the kernel")
        free = size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        count = (-(-free // self.stride) if self.ceil_mode else free // self.stride) + 1
        # The last window must begin inside the input or the padding before it.
        count -= self.ceil_mode and (count - 1) * self.stride >= size + self.padding
        if count < 1:
            raise InputError(f"a size of {size} is too small for a window of {self.kernel}")
        return count

    def counts(self, size: int, with_padding: bool) -> Tensor:
        """`[outputs]` int64: how many entries each window holds, of the input or of the padded input."""
        first = torch.arange(self.outputs(size))[:, None] * self.stride - self.padding
        read = first + torch.arange(self.kernel) * self.dilation
        low, high = (-self.padding, size + self.padding) if with_padding else (0, size)
        return ((read >= low) & (read < high)).sum(1)

    def reduce(self, x: Tensor, dim: int, fill: float, combine: Combine, repeats: bool) -> Tensor:
        """`x` with dimension `dim` (from the end) reduced window by window; what lies outside counts as `fill`.

        Args:
            repeats: an entry may be combined more than once, as in a maximum.
        """
        size, count = x.shape[dim], self.outputs(x.shape[dim])
        after = (count - 1) * self.stride + self.dilation * (self.kernel - 1) + 1 - size - self.padding
        if self.padding or after > 0:
            around = [0, 0] * (-dim - 1) + [self.padding, max(after, 0)]
            x = F.pad(x, around, value=fill)
        span, step = 1, self.dilation
        if repeats and self.kernel > 2 * self.stride:
            # Windows twice as long from two of half the length, until the next would be too long.
            while 2 * span <= self.kernel:
                x = combine(_from(x, dim, 0, span * step), _from(x, dim, span * step, span * step))
                span *= 2
            if span < self.kernel:
                missing = (self.kernel - span) * step
                x = combine(_from(x, dim, 0, missing), _from(x, dim, missing, missing))
            return _every(x, dim, 0, self.stride, count)
        result = _every(x, dim, 0, self.stride, count)
        for offset in range(step, self.kernel * step, step):
            result = combine(result, _every(x, dim, offset, self.stride, count))
        return result


@lru_cache(256)
def each_reads(window: Window, size: int) -> bool:
    """Whether each window over so many entries holds one of them, and not padding alone.

    >>> each_reads(Window(3, 2, padding=1), 8), each_reads(Window(2, 2, padding=1, dilation=3), 2)
    (True, False)
    """
    return bool(window.counts(size, with_padding=False).all())


def _from(x: Tensor, dim: int, start: int, shorter: int) -> Tensor:
    return x.narrow(dim, start, x.shape[dim] - shorter)


def _every(x: Tensor, dim: int, start: int, stride: int, count: int) -> Tensor:
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(index)]


def maxima(x: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """The largest entry of each window over the last `len(windows)` dimensions.

    >>> maxima(torch.tensor([[1, 5, 2, 0]]), (Window(3, 1, padding=1),))
    tensor([[5, 5, 5, 2]])
    """
    lowest = -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
    for dim, window in enumerate(windows, -len(windows)):
        x = window.reduce(x, dim, lowest, torch.maximum, repeats=True)
    return x


def sums(x: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """The sum of each window over the last `len(windows)` dimensions; what lies outside counts as zero.

    >>> sums(torch.tensor([[1, 5, 2, 0]]), (Window(2, 2),))
    tensor([[6, 2]])
    """
    for dim, window in enumerate(windows, -len(windows)):
        x = window.reduce(x, dim, 0, torch.add, repeats=False)
    return x


def adaptive(size: int, outputs: int) -> list[tuple[int, int]]:
    """First and last entry (exclusive) of the windows of adaptive pooling.

    >>> adaptive(5, 3)
    [(0, 2), (1, 4), (3, 5)]
    """
    return [(index * size // outputs, -(-(index + 1) * size // outputs)) for index in range(outputs)]


def per_dimension(value: Any, dims: int) -> list[int]:
    """One number for each dimension from one for all, or one for each.

    >>> per_dimension(3, 2), per_dimension((1, 2), 2), per_dimension([5], 2)
    ([3, 3], [1, 2], [5, 5])
    """
    values = [int(value)] if isinstance(value, int) else [int(each) for each in value]
    return values * dims if len(values) == 1 else values
