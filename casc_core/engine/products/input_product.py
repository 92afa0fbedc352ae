"""Products with real-valued input that are rounded to a grid, as if the sums behind them had never been rounded.

As in computational geometry, plain sums in float64 come first, with a proven bound on their error. Where it cannot reach
the middle between two multiples of the grid, the nearest one is known; the few others are summed exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.exact_sums import exact_sum, largest_row
from casc_core.engine.products.geometry import Geometry, convolve, patches
from casc_core.engine.signal import without_repeats
from casc_core.numerics import Numerics, largest, on_grid

# Sums are taken of so many products at a time, which bounds how often they round.
_BLOCK = 64
# Rounding of one operation in float64, relative.
_ROUNDING = 2.0**-53
# If more than one of so many results has to be summed exactly, all are.
_RARE = 32

Multiply = Callable[[Tensor, Tensor], Tensor]


class Sums(ABC):
    """A linear map, each of whose results is a sum of products of inputs and weights.

    Attributes:
        output_dim: the dimension of a result that the rows of the weights belong to, from the end.
    """

    output_dim: int

    @abstractmethod
    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        """The results, outputs last in memory; `multiply` takes the products of matrices."""

    @abstractmethod
    def reads(self, x: Tensor, weight: Tensor, positions: Tensor, outputs: Tensor) -> Tensor:
        """`[n, terms]`: the inputs that `n` results are sums of, by where they are but for the output, and their output."""


class LinearSums(Sums):
    """Those of a linear map of the last dimension."""

    output_dim = -1

    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        return multiply(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], len(weight))

    def reads(self, x: Tensor, weight: Tensor, positions: Tensor, outputs: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])[positions]


@dataclass(frozen=True)
class ConvolutionSums(Sums):
    """Those of a convolution in one or two dimensions. An input that is the same for all samples gives one result."""

    geometry: Geometry
    dims: int

    @property
    def output_dim(self) -> int:  # type: ignore[override]
        return -1 - self.dims

    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        result = convolve(self._plane(x), weight, self.geometry, multiply)
        result = result.squeeze(-2) if self.dims == 1 else result
        return result.expand(len(x), *result.shape[1:])

    def reads(self, x: Tensor, weight: Tensor, positions: Tensor, outputs: Tensor) -> Tensor:
        windows = patches(self._plane(x), self.geometry)
        height, width = windows.shape[1:3]
        found = windows[positions // (height * width), positions // width % height, positions % width]
        groups = self.geometry.groups
        by_group: Tensor = found.unflatten(1, (groups, -1)).flatten(2)
        return by_group[torch.arange(len(found), device=x.device), outputs * groups // len(weight)]

    def _plane(self, x: Tensor) -> Tensor:
        same = x.dim() > 0 and x.stride(0) == 0 and len(x) > 1
        x = x[:1] if same else x
        return x.unsqueeze(-2) if self.dims == 1 else x


@dataclass(frozen=True)
class InputProduct:
    """A drive: the product of real-valued input with weights, and a bias, summed where it is known to which grid it goes.

    A `casc_core.engine.signal.LazyDrive`.

    Attributes:
        x: the input, float64. weight: float64, outputs first. limbs: its `weight_limbs`.
        bias: one for each output, or None.
        shape: of the drive.
    """

    x: Tensor
    weight: Tensor
    limbs: Callable[[], Sequence[Tensor]]
    sums: Sums
    bias: Tensor | None
    shape: torch.Size

    def values(self) -> Tensor:
        """`[*shape]` float64."""
        return self._values

    def on_grid(self, numerics: Numerics, exponent: int) -> Tensor:
        """The values, rounded to the grid `2**exponent`."""
        rounded = None if "_values" in self.__dict__ else self._rounded(exponent)
        if rounded is None:
            rounded = numerics.snap(without_repeats(self.values()), exponent)
        return rounded.expand(self.shape)

    @cached_property
    def _values(self) -> Tensor:
        result = exact_sum(self.x, self.limbs(), self.sums)
        if self.bias is not None:
            result = result + self.bias.reshape(-1, *[1] * (-1 - self.sums.output_dim))
        return result.expand(self.shape)

    def _rounded(self, exponent: int) -> Tensor | None:
        """What the filter gives; None: too much is left to be summed exactly."""
        terms = self.weight[0].numel()
        roundings = min(terms, _BLOCK) + -(-terms // _BLOCK) + 4  # and those of adding the bias, in either way
        reach = largest(self.x) * largest_row(self.weight) + (0.0 if self.bias is None else largest(self.bias))
        error = 1.01 * roundings * _ROUNDING * reach
        if not error < 2.0 ** (exponent - 2):
            return None
        result = without_repeats(self.sums(self.x, self.weight, _in_blocks))
        last = result.movedim(self.sums.output_dim, -1).contiguous()
        near = _round_to_grid(last, self.bias, exponent, error, max(_BLOCK, last.numel() // _RARE))
        if near is None:
            return None
        if len(near):
            last.view(-1)[near] = on_grid(self._exactly(near), exponent)
        return last.movedim(-1, self.sums.output_dim)

    def _exactly(self, near: Tensor) -> Tensor:
        """The exact sums at some places of the result, outputs last."""
        positions, outputs = near // len(self.weight), near % len(self.weight)
        reads = self.sums.reads(self.x, self.weight, positions, outputs)
        rows = [limb.flatten(1)[outputs] for limb in self.limbs()]
        sums = exact_sum(reads, rows, lambda x, weight: (x * weight).sum(1), by_row=False)
        return sums if self.bias is None else sums + self.bias[outputs]


def _in_blocks(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`, the products of one result summed block by block."""
    total: Tensor | None = None
    for start in range(0, a.shape[-1], _BLOCK):
        part = torch.matmul(a[..., start : start + _BLOCK], b[..., start : start + _BLOCK, :])
        total = part if total is None else total.add_(part)
    return torch.matmul(a, b) if total is None else total


def _round_to_grid(values: Tensor, bias: Tensor | None, exponent: int, error: float, room: int) -> Tensor | None:
    """`kernels.round_to_grid`, by torch where there is none."""
    if kernels.ready(values, bias):
        return kernels.round_to_grid(values, None if bias is None else bias.contiguous(), exponent, error, room)
    scaled = (values if bias is None else values + bias) * 2.0**-exponent
    rounded = scaled.round()
    near = torch.nonzero(~((scaled - rounded).abs() < 0.5 - math.ldexp(error, -exponent)).flatten()).flatten()
    values.copy_(rounded * 2.0**exponent)
    return near if len(near) <= room else None
