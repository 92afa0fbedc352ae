"""The geometry of a convolution, and its sums taken directly, patch by patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import InputError

# Patches are made for this many bytes at a time; on a GPU for so many times as many, which keep it busy for longer than it
# takes to start.
PATCH_BYTES = 32 * 2**20
ON_GPU = 8


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over two spatial dimensions; each pair is (height, width).

    Attributes:
        kernel, stride, dilation: as those of `torch.nn.Conv2d`.
        padding: zeros before and after: (top, bottom, left, right).
        groups: outputs and inputs fall into this many groups, each with a map of its own.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output.

        Raises:
            InputError: the input is smaller than the kernel.

        >>> Geometry((3, 3), stride=(2, 2), padding=(1, 1, 1, 1)).output_size(32, 32)
        (16, 16)
        """
        top, bottom, left, right = self.padding
        sizes = []
        for size, kernel, stride, dilation in zip(
            (height + top + bottom, width + left + right), self.kernel, self.stride, self.dilation, strict=True
        ):
            reach = dilation * (kernel - 1) + 1
            if size < reach:
                raise InputError(f"a padded size of {size} is too small for a kernel that spans {reach}")
            sizes.append((size - reach) // stride + 1)
        return sizes[0], sizes[1]

    def padded(self, x: Tensor) -> Tensor:
        """`[..., H, W]` with the zeros around it."""
        top, bottom, left, right = self.padding
        return F.pad(x, (left, right, top, bottom)) if any(self.padding) else x

    def fan_out(self, height: int, width: int) -> Tensor:
        """`[height, width]`: how many output positions each input position reaches; fewer at the borders.

        It is kept, and not to be edited.

        >>> Geometry((3, 3), padding=(1, 1, 1, 1)).fan_out(3, 3)
        tensor([[4., 6., 4.],
                [6., 9., 6.],
                [4., 6., 4.]], dtype=torch.float64)
        """
        return _fan_out(self, height, width)


@lru_cache(maxsize=256)
def _fan_out(geometry: Geometry, height: int, width: int) -> Tensor:
    """That of a geometry."""
    out = geometry.output_size(height, width)
    reached = []
    for axis, size in enumerate((height, width)):
        taps = torch.arange(geometry.kernel[axis], device="cpu") * geometry.dilation[axis] - geometry.padding[2 * axis]
        read = (torch.arange(out[axis], device="cpu") * geometry.stride[axis])[:, None] + taps
        read = read[(read >= 0) & (read < size)]
        reached.append(torch.bincount(read, minlength=size).double())
    return reached[0][:, None] * reached[1]


def patch_bytes(device: torch.device) -> int:
    """For how many bytes patches are made at a time."""
    return PATCH_BYTES if device.type == "cpu" else ON_GPU * PATCH_BYTES


def patches(x: Tensor, geometry: Geometry) -> Tensor:
    """`[N, OH, OW, C, kh, kw]`: for each output position the inputs `[N, C, H, W]` that it reads, as a view."""
    out = geometry.output_size(*x.shape[2:])
    x = geometry.padded(x)
    n, c, y, z = x.stride()
    (sy, sx), (dy, dx) = geometry.stride, geometry.dilation
    shape = (len(x), *out, x.shape[1], *geometry.kernel)
    return x.as_strided(shape, (n, sy * y, sx * z, c, dy * y, dx * z))


def convolve(
    x: Tensor, weight: Tensor, geometry: Geometry, multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul
) -> Tensor:
    """`x` `[N, C, H, W]` convolved with `weight` `[O, C/groups, kh, kw]`: `[N, O, OH, OW]`, channels last in memory.

    Each output is a plain sum of products. `torch.nn.functional.conv2d` may take transforms in between (Winograd,
    Fourier), which round even where no sum does. `multiply` takes the products of matrices.

    >>> x, weight = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    >>> convolve(x, weight, Geometry((3, 3), padding=(1, 1, 1, 1)))[0, 0]
    tensor([[ 8., 12.,  8.],
            [12., 18., 12.],
            [ 8., 12.,  8.]])
    """
    height, width = geometry.output_size(*x.shape[2:])
    groups, outputs = geometry.groups, len(weight)
    each = weight.reshape(groups, outputs // groups, -1)
    taps = geometry.kernel[0] * geometry.kernel[1]
    at_once = max(1, patch_bytes(x.device) // max(1, height * width * x.shape[1] * taps * x.element_size()))
    parts = []
    for some in x.split(at_once):
        read = patches(some, geometry).reshape(-1, groups, x.shape[1] // groups * taps)
        summed = multiply(read.transpose(0, 1), each.transpose(1, 2))  # [groups, positions, outputs of each]
        parts.append(summed.transpose(0, 1).reshape(len(some), height, width, outputs))
    result = parts[0] if len(parts) == 1 else torch.cat(parts)
    return result.permute(0, 3, 1, 2)
