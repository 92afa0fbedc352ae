"""Products of real numbers on their way to a grid."""

from __future__ import annotations

import math
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, empty, require, run, structure

ReadsTask = structure(
    "Reads",
    (c_void_p, "values offset"),
    (c_int64, "terms height width by_sample by_row by_column by_group groups"),
)
_Task = structure(
    "RoundTask",
    (c_void_p, "values bias"),
    (c_int64, "outputs"),
    (c_double, "scale error"),
    (ReadsTask, "reads"),
    (c_void_p, "high low"),
    (c_double, "splitter rest_error"),
    (c_void_p, "near"),
    (c_int64, "room found"),
)


@dataclass(frozen=True)
class Reads:
    """Where the inputs of the results of a product lie in `values`, float64.

    Attributes:
        height, width: of the positions of results within a sample.
        strides: in `values`, from one sample, row and column of positions, and from one group of outputs, to the next.
        groups: of outputs.
        offsets: `[terms]` int64, from there.
    """

    values: Tensor
    height: int
    width: int
    strides: tuple[int, int, int, int]
    groups: int
    offsets: Tensor

    def at(self, positions: Tensor, groups: Tensor) -> Tensor:
        """`[n, terms]`: what the results at these positions read, in these groups."""
        by_sample, by_row, by_column, by_group = self.strides
        row, column = positions // self.width % self.height, positions % self.width
        start = positions // (self.height * self.width) * by_sample + row * by_row + column * by_column
        return self.values.reshape(-1)[(start + groups * by_group)[:, None] + self.offsets]

    def structure(self, positions: int) -> object:
        """For a kernel that goes over so many positions."""
        checked(self.values, "the inputs", torch.float64, self.values.shape)
        checked(self.offsets, "the offsets", torch.int64, self.offsets.shape)
        require(
            min(self.height, self.width, self.groups) >= 1,
            f"positions {[self.height, self.width]} of {self.groups} groups",
        )
        sizes = (-(-positions // (self.height * self.width)), self.height, self.width, self.groups)
        last = sum((size - 1) * stride for size, stride in zip(sizes, self.strides, strict=True))
        first, furthest = map(int, torch.aminmax(self.offsets)) if len(self.offsets) else (0, 0)
        last += furthest
        inside = min(*self.strides, first) >= 0 and last < self.values.numel()
        require(inside, f"inputs {list(self.values.shape)}, read up to {last}")
        return ReadsTask(
            self.values.data_ptr(), self.offsets.data_ptr(), len(self.offsets), self.height, self.width, *self.strides,
            self.groups,
        )  # fmt: skip


@dataclass(frozen=True)
class SplitWeights:
    """`[outputs, terms]` float64: `high + low`, the first of so few bits that sums with an input's upper bits are exact."""

    high: Tensor
    low: Tensor


def round_sums(
    sums: Tensor,
    bias: Tensor | None,
    exponent: int,
    error: float,
    reads: Reads,
    weights: SplitWeights,
    split: int,
    rest_error: float,
    room: int,
) -> Tensor | None:
    """Adds `bias` `[outputs]` to products `[..., outputs]`; rounds to multiples of `2**exponent`, half to even, in place.

    Args:
        error: that the sums may have. Those that it may change are taken again.
        reads, weights: what they are products of.
        split: inputs are rounded to `2**split` then, so that sums with the upper parts of weights are exact.
        rest_error: that the sums of the small rest may have.

    Returns:
        The places of sums so near to the middle between two multiples that this does not decide either, in any order; None:
        there are more than `room`.
    """
    outputs = sums.shape[-1]
    positions = sums.numel() // max(1, outputs)
    checked(sums, "the sums", torch.float64, sums.shape)
    require(positions > 0 and error >= 0 and rest_error >= 0 and room >= 0, f"sums {list(sums.shape)}, off by {error}")
    if bias is not None:
        checked(bias, "the bias", torch.float64, (outputs,))
    for part in (weights.high, weights.low):
        checked(part, "the weights", torch.float64, (outputs, len(reads.offsets)))
    near = empty((room,), torch.int64)
    task = _Task(
        sums.data_ptr(), address(bias), outputs, 2.0**-exponent, math.ldexp(error, -exponent), reads.structure(positions),
        weights.high.data_ptr(), weights.low.data_ptr(), 1.5 * 2.0 ** (52 + split), rest_error, near.data_ptr(), room, 0,
    )  # fmt: skip
    run("round", task, positions, sums.numel())
    return near[: task.found] if task.found <= room else None
