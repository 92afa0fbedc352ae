"""Products of real numbers on their way to a grid."""

from __future__ import annotations

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
    (c_int64, "positions outputs rounded two_parts"),
    (c_double, "scale error"),
    (ReadsTask, "reads"),
    (c_void_p, "whole upper lower high low"),
    (c_double, "splitter rest_error limit"),
    (c_void_p, "near"),
    (c_int64, "room found"),
)
# Positions that are taken together, and outputs.
_PLACES, _OUTPUTS = 8, 8


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


def in_blocks(weight: Tensor, groups: int) -> Tensor:
    """Weights `[outputs, terms]` as products with them are summed: float64 `[groups, blocks of 8 outputs, terms, 8]`."""
    outputs, terms = weight.shape
    each = outputs // groups
    blocks = -(-each // _OUTPUTS)
    padded = torch.zeros(groups, blocks * _OUTPUTS, terms, dtype=torch.float64, device="cpu")
    padded[:, :each] = weight.view(groups, each, terms)
    by_block: Tensor = padded.unflatten(1, (blocks, _OUTPUTS))
    return by_block.transpose(2, 3).contiguous()


@dataclass(frozen=True)
class Rounds:
    """How sums become multiples of `2**exponent`, half to even, and what tells whether that is decided.

    Attributes:
        bias: `[outputs]` float64, added before; or None.
        error: that sums may have. Those that it may change are taken again; None: all are taken in two parts, one exact.
        weights: of the two parts.
        split: inputs are rounded to `2**split` there, so that sums with the upper parts of weights are exact.
        rest_error: that the sums of the small rest may have.
        most: in two parts, sums beyond it need not be decided.
        room: for so many places of sums that are not decided.
    """

    exponent: int
    bias: Tensor | None
    error: float | None
    weights: SplitWeights
    split: int
    rest_error: float
    most: float
    room: int


def products(reads: Reads, positions: int, whole: Tensor, outputs: int) -> Tensor:
    """`[positions, outputs]` float64: products of what is read with weights by `in_blocks`, summed in float64."""
    values = empty((positions, outputs), torch.float64)
    _run(values, reads, None, (whole,))
    return values


def rounded_products(
    reads: Reads, positions: int, blocks: tuple[Tensor, ...], outputs: int, rounds: Rounds
) -> tuple[Tensor, Tensor | None]:
    """`[positions, outputs]` float64: products of what is read with weights, rounded; and the places of those left open.

    Args:
        blocks: by `in_blocks`, the weights; in two parts, also the upper and the lower part.

    Returns:
        Places in any order; None: there are more than there is room for.
    """
    values = empty((positions, outputs), torch.float64)
    return values, _run(values, reads, rounds, blocks)


def round_sums(sums: Tensor, reads: Reads, rounds: Rounds) -> Tensor | None:
    """Rounds sums `[..., outputs]` of what is read in place, as by `rounded_products`, whose places it gives."""
    return _run(sums, reads, rounds, ())


def _run(values: Tensor, reads: Reads, rounds: Rounds | None, blocks: tuple[Tensor, ...]) -> Tensor | None:
    outputs, terms = values.shape[-1], len(reads.offsets)
    positions = values.numel() // max(1, outputs)
    checked(values, "the sums", torch.float64, values.shape)
    require(positions > 0, f"sums {list(values.shape)}")
    read = reads.structure(positions)
    require(outputs % reads.groups == 0, f"{outputs} outputs of {reads.groups} groups")
    each = outputs // reads.groups
    for part in blocks:
        shape = (reads.groups, -(-each // _OUTPUTS), terms, _OUTPUTS)
        checked(part, "the weights", torch.float64, shape)
    whole, upper, lower = (address(part) for part in (*blocks, None, None, None)[:3])
    if rounds is None:
        task = _Task(values.data_ptr(), None, positions, outputs, reads=read, whole=whole)
        run("round", task, -(-positions // _PLACES), values.numel())
        return None
    error, weights, two_parts = rounds.error, rounds.weights, rounds.error is None
    good = rounds.rest_error >= 0 and rounds.room >= 0 and (error is None or error >= 0)
    require(good, f"sums off by {error}, in parts by {rounds.rest_error}")
    require(len(blocks) == 3 if two_parts else len(blocks) <= 1, f"weights in {len(blocks)} parts")
    if rounds.bias is not None:
        checked(rounds.bias, "the bias", torch.float64, (outputs,))
    for part in (weights.high, weights.low):
        checked(part, "the weights", torch.float64, (outputs, terms))
    near = empty((rounds.room,), torch.int64)
    scale = 2.0**-rounds.exponent
    task = _Task(
        values.data_ptr(), address(rounds.bias), positions, outputs, True, two_parts, scale, (error or 0.0) * scale,
        read, whole, upper, lower, weights.high.data_ptr(), weights.low.data_ptr(),
        1.5 * 2.0 ** (52 + rounds.split), rounds.rest_error, rounds.most * scale, near.data_ptr(), rounds.room, 0,
    )  # fmt: skip
    run("round", task, -(-positions // _PLACES), values.numel())
    return near[: task.found] if task.found <= rounds.room else None
