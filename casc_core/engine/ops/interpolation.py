"""Linear interpolation: sums of neighbours with whole weights, whose common denominator is carried beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.functions import check_room
from casc_core.engine.ops.declared import NAME, WINDOW, Flag, OneOf, OrNone, Several, settings
from casc_core.engine.ops.op import Op, entries, room_for_drive
from casc_core.engine.products.exact_sums import whole_sums
from casc_core.engine.products.pooling_windows import per_dimension
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal
from casc_core.errors import InputError
from casc_core.numerics import whole_type


@dataclass(frozen=True)
class Line:
    """How the entries of one dimension are put together: `(below * x[low] + above * x[high]) / parts`.

    Attributes:
        low, high: `[outputs]` int64. below, above: `[outputs]` int64, which add up to `parts`.
    """

    low: Tensor
    high: Tensor
    below: Tensor
    above: Tensor
    parts: int

    def apply(self, x: Tensor, dim: int) -> Tensor:
        """Dimension `dim` of `x`, counted from the end, interpolated, times `parts`."""
        shape = [-1] + [1] * (-dim - 1)
        low, high, below, above = (
            each.to(x.device) for each in (self.low, self.high, self.below.to(x.dtype), self.above.to(x.dtype))
        )
        return x.index_select(dim, low) * below.reshape(shape) + x.index_select(dim, high) * above.reshape(shape)

    def reading(self) -> Line:
        """The same with a weight of 1 for every entry that is read at all."""
        return Line(self.low, self.high, (self.below > 0).long(), (self.above > 0).long(), self.parts)


def line(size: int, outputs: int, align_corners: bool, parts: int | None = None) -> Line:
    """Interpolation from `size` entries to `outputs`, as torch places them; `parts`: of which the weights are multiples.

    >>> line(2, 4, False).below, line(2, 4, False).parts
    (tensor([4, 3, 1, 4]), 4)
    """
    at = [_place(index, size, outputs, align_corners) for index in range(outputs)]
    low = [min(math.floor(place), size - 1) for place in at]
    shares = [place - below if below + 1 < size else Fraction(0) for place, below in zip(at, low, strict=True)]
    parts = parts or math.lcm(*(share.denominator for share in shares))
    above = [int(share * parts) for share in shares]
    return Line(
        torch.tensor(low), torch.tensor([min(each + 1, size - 1) for each in low]),
        torch.tensor([parts - each for each in above]), torch.tensor(above), parts,
    )  # fmt: skip


def _place(index: int, size: int, outputs: int, align_corners: bool) -> Fraction:
    if align_corners:
        return Fraction(index * (size - 1), outputs - 1) if outputs > 1 else Fraction(0)
    return max(Fraction((2 * index + 1) * size, 2 * outputs) - Fraction(1, 2), Fraction(0))


def constant_parts(factor: int) -> int:
    """The denominator of the weights by which one entry becomes `factor`, whatever the size.

    >>> constant_parts(2), constant_parts(3)
    (4, 3)
    """
    return factor if factor % 2 else 2 * factor


class Interpolate(Op):
    """Linear interpolation of `[batch, channels, ...]`, as `torch.nn.functional.interpolate` places its entries.

    It gives sums in whole numbers. Where `factors` say how many entries one becomes and corners are not aligned, their
    denominators are constants, which whatever follows takes in; else they are the divisor.
    """

    SETTINGS = settings(name=NAME, dims=OneOf((1, 2, 3)), factors=OrNone(Several(WINDOW, 1, 3)), align_corners=Flag())

    def check(self) -> None:
        factors = self.settings["factors"]
        self.require(
            factors is None or len(factors) == self.settings["dims"], "one factor for each dimension is needed"
        )

    def forward(self, run: Run, signal: Signal, size: Any = None) -> Signal:
        dims, name = self.settings["dims"], self.settings["name"]
        if len(signal.shape) != dims + 2:
            wanted = ("length", "height, width", "depth, height, width")[dims - 1]
            raise InputError(f"{name}: expected an input [batch, channels, {wanted}]; got {list(signal.shape)}")
        signal = signal.with_uniform_divisor(tuple(range(-dims, 0)))
        outputs = self.outputs(signal.shape[2:], size)
        check_room(name, math.prod(signal.shape[:2]) * math.prod(outputs), run.room + signal.shape.numel())
        lines = self.lines(signal.shape[2:], outputs)
        most = float(math.prod(each.parts for each in lines))
        train, drive, divisor = signal.train, signal.drive, signal.divisor
        kind = torch.float64 if train.dtype.is_floating_point else whole_type(signal.bound * run.peak * most)
        if self.divides:
            by = torch.tensor(most, dtype=torch.float64, device=signal.device)
            divisor = by if divisor is None else divisor * by
        summed = _along(lines, train.to(kind))
        if drive is not None:
            drive = whole_sums(run.numerics, drive, partial(_along, lines), by_row=True)
        return Signal(summed, drive, divisor, signal.bound * most)

    def provenance(self, run: Run, result: Signal, signal: Provenance, size: Any = None) -> Provenance:
        lines = [each.reading() for each in self.lines(signal.shape[2:], result.shape[2:])]
        return signal.put_together(result, lambda counts: _along(lines, counts))

    def follow(self, follower: Follower, signal: Abstract, size: Any = None) -> Abstract:
        dims, train = self.settings["dims"], signal.train or Train()
        outputs = self.outputs(signal.shape[2:], size)
        follower.note(outputs)
        samples = follower.apart(signal, range(-dims, 0))
        return follower.signal([*signal.shape[:2], *outputs], samples, train.steps, 8, train.real)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        return 24 * entries(given) + room_for_drive(follower, read, given)  # two products and their sum

    @property
    def divides(self) -> bool:
        return self.settings["factors"] is None or self.settings["align_corners"]

    def outputs(self, sizes: Sequence[int], wanted: Any) -> list[int]:
        factors = self.settings["factors"]
        if factors is not None:
            return [each * by for each, by in zip(sizes, factors, strict=True)]
        outputs = per_dimension(wanted, len(sizes))
        if len(outputs) != len(sizes) or min(outputs) < 1:
            raise InputError(f"{self.settings['name']}: {len(sizes)} sizes of at least 1 are needed; got {wanted}")
        return outputs

    def lines(self, sizes: Sequence[int], outputs: Sequence[int]) -> list[Line]:
        """How each dimension, from these sizes to so many outputs, is put together."""
        align = self.settings["align_corners"]
        parts = [None] * len(sizes) if self.divides else [constant_parts(by) for by in self.settings["factors"]]
        return [line(each, count, align, part) for each, count, part in zip(sizes, outputs, parts, strict=True)]


def _along(lines: Sequence[Line], x: Tensor) -> Tensor:
    for dim, each in enumerate(lines, -len(lines)):
        x = each.apply(x, dim)
    return x
