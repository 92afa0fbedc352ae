"""Products of spike trains by adding the weights of the neurons that spike."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import TYPES, address, call, checked, empty, isa, require, run, structure
from casc_core.numerics import Exact

INT32_UNITS = 2.0**31 - 1
INT16_UNITS = 2.0**15 - 1
# Sums of rounded numbers are to take so many bits: their differences, and margins beside them, still fit int32.
SUM_BITS = 30
# A train's counts are int8.
LARGEST_COUNT = 127
SUMS16, SUMS32, WIDE = range(3)
# Rounding to int16 is cheaper than to int32 while it leaves sums nearer to the truth than this part of a threshold.
NEAR = 2.0**-3
# What rounding to whole numbers leaves out is at most a half: so many bits of it fit int16.
_LOW_BITS = 15

Weights = structure("Weights", (c_void_p, "values"), (c_int64, "kind rows rows_padded stride outputs"))
LeftOutTask = structure("LeftOut", (c_void_p, "low exact"), (c_double, "unit finer"), (c_int64, "reads error"))
_Task = structure(
    "RowsTask",
    (Weights, "weights"),
    (c_void_p, "peaks peak_product train"),
    (c_int64, "steps samples outputs"),
    (c_void_p, "out"),
    (c_int64, "out_type"),
    (c_double, "unit"),
)


@dataclass(frozen=True)
class LeftOut:
    """What the rounding of weights to whole units of `2**exponent` has left out, output by output.

    Attributes:
        low: `[..., outputs, reads]` int16, their next bits, in units of `2**(exponent - bits)`.
        exact: the weights as they are, float64, in units of `2**finest`, laid out likewise.
        largest: the largest row of what has been left out, in units of `2**exponent`; 0: nothing has.
        peak: the largest magnitude of a train that they meet.
    """

    low: Tensor
    exact: Tensor
    exponent: int
    bits: int
    finest: int
    largest: float
    peak: int

    def structure(self, exponent: int) -> ctypes.Structure:
        """For a kernel whose population counts in units of `2**exponent`."""
        error = self.peak << (self.exponent - exponent) if self.largest else 0
        unit, finer = 2.0 ** (self.exponent - self.bits - self.finest), 2.0**-self.bits if self.largest else 0.0
        return LeftOutTask(address(self.low), address(self.exact), unit, finer, self.low.shape[-1], error)


NOTHING_LEFT_OUT = LeftOutTask(None, None, 0.0, 0.0, 0, 0)


class Rounded(NamedTuple):
    """Weights rounded to a grid, their next bits and the weights themselves: float64, each in units of its own grid.

    `bits` is how many the next bits are, `largest` the largest row of what rounding has left out, in units of the grid.
    """

    units: Tensor
    low: Tensor
    exact: Tensor
    bits: int
    largest: float


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded, and for which sums what that leaves out is kept.

    Attributes:
        exponent: of the grid that they are rounded to.
        finest: of the grid that they are on.
        counts: the largest magnitude that the running sum of an input reaches.
    """

    exponent: int
    finest: int
    counts: int

    def fits(self, weight: Tensor) -> bool:
        """Whether the running sums of inputs are counted in int16, and there is room in int32 for next bits of each."""
        return self.counts <= INT16_UNITS and 2 * self.counts * weight[0].numel() <= INT32_UNITS

    def apply(self, weight: Tensor) -> Rounded:
        """Of `weight` `[outputs, ...]`.

        >>> Rounding(0, -4, 1).apply(torch.tensor([[1.25, -3.0], [0.5, 0.25]])).units
        tensor([[ 1., -3.],
                [ 0.,  0.]], dtype=torch.float64)
        """
        exact = weight.detach().double().cpu() * 2.0**-self.exponent
        units = exact.round()
        rest = exact - units
        largest = float(rest.abs().flatten(1).sum(1).max())
        # Each of the next bits fits int16, and their sum, each as often as its input spikes, int32.
        room = INT32_UNITS / max(1, self.counts) - weight[0].numel()
        bits = min(_LOW_BITS, self.exponent - self.finest)
        if largest:
            bits = min(bits, math.frexp(room / largest)[1] - 1)
        finer = exact * 2.0 ** (self.exponent - self.finest)
        return Rounded(units, (rest * 2.0**bits).round(), finer, bits, largest)

    def left_out(self, rounded: Rounded, peak: int, laid_out: Callable[[Tensor, torch.dtype], Tensor]) -> LeftOut:
        """What has been left out, laid out for a kernel by this function, for a train of this peak."""
        low, exact = laid_out(rounded.low, torch.int16), laid_out(rounded.exact, torch.float64)
        return LeftOut(low, exact, self.exponent, rounded.bits, self.finest, rounded.largest, peak)


@dataclass(frozen=True)
class PackedWeights:
    """Weights in units of `2**exponent`, the coarsest grid they are on: one row of outgoing weights for each input.

    Attributes:
        values: `[inputs, stride]` int16 or int32.
        kind: how they are summed.
        peaks, peak_product: the largest spike count at every input, and the product of that.
        reach: largest product of one step.
        left_out: where the units are rounded, what that has left out.
    """

    values: Tensor
    kind: int
    inputs: int
    outputs: int
    exponent: int
    peaks: Tensor
    peak_product: Tensor
    reach: float
    left_out: LeftOut | None = None

    def structure(self) -> ctypes.Structure:
        """For a kernel."""
        sizes = self.inputs, self.peaks.numel(), self.values.shape[1], self.outputs
        return Weights(self.values.data_ptr(), self.kind, *sizes)


def pack(weight: Tensor, exponent: int, peak: int, rounding: Rounding | None = None) -> PackedWeights | None:
    """`weight` `[outputs, inputs]`, multiples of `2**exponent`, for trains of magnitude up to `peak`; None: no room.

    Args:
        rounding: of weights that are on a finer grid, first.

    >>> packed = pack(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), 0, peak=1)
    >>> rows(packed, torch.tensor([[[1, -1]]], dtype=torch.int8), torch.float32)
    tensor([[[ 4., -2.]]])
    """
    rounded = None
    if rounding is None:
        units, exponent = coarsest(weight, exponent)
    elif rounding.fits(weight):
        rounded, exponent = rounding.apply(weight), rounding.exponent
        units = rounded.units
    else:
        return None
    reach = float(units.abs().sum(1).max()) * peak
    kind = kind_of(units, reach)
    if peak > LARGEST_COUNT or kind is None:
        return None
    outputs, inputs = weight.shape
    require(peak >= 0, f"a train of magnitude up to {peak}")
    values = torch.zeros(inputs, _padded(outputs, 32), dtype=torch.int32 if kind == WIDE else torch.int16, device="cpu")
    values[:, :outputs] = units.T
    peaks = torch.zeros(_padded(inputs, 64), dtype=torch.int8, device="cpu")
    peaks[:inputs] = peak
    product = torch.zeros(values.shape[1], dtype=torch.int32, device="cpu")
    product[:outputs] = units.sum(1) * peak

    def laid_out(values: Tensor, dtype: torch.dtype) -> Tensor:
        room = torch.zeros(outputs, len(peaks), dtype=dtype, device="cpu")
        room[:, :inputs] = values
        return room

    left_out = None if rounding is None or rounded is None else rounding.left_out(rounded, peak, laid_out)
    return PackedWeights(values, kind, inputs, outputs, exponent, peaks, product, reach * 2.0**exponent, left_out)


def coarsest(weight: Tensor, exponent: int) -> tuple[Tensor, int]:
    """`weight`, multiples of `2**exponent`, in float64 units of the coarsest grid it is on, and that grid's exponent.

    >>> coarsest(torch.tensor([1.0, -3.0]), -4)
    (tensor([ 1., -3.], dtype=torch.float64), 0)
    """
    units = weight.detach().double().cpu() * 2.0**-exponent
    while bool(units.any()) and bool((units % 2 == 0).all()):
        units, exponent = units / 2, exponent + 1
    return units, exponent


def narrow_exponent(weight: Tensor) -> int:
    """The finest grid on which rounded weights fit int16, which are the cheapest to sum."""
    return Exact(16).weight_exponent(weight)


def kind_of(units: Tensor, reach: float) -> int | None:
    """How weights in these units are stored and summed, their products reaching this far; None: int32 might not do."""
    # The kernels add differences to the product of a similar input: at most twice a product.
    if 2 * reach > INT32_UNITS or not bool((units == units.round()).all()):
        return None
    largest = float(units.abs().max())
    return WIDE if largest > INT16_UNITS else SUMS16 if 2 * reach <= INT16_UNITS else SUMS32


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


def rows(packed: PackedWeights, train: Tensor, dtype: torch.dtype) -> Tensor:
    """`train` `[steps, ..., inputs]` int8 times the weights: `[steps, ..., outputs]` of this floating type.

    Each vector's product starts from that of the most similar one at hand (silence, all at their peak, the same
    sample's at the step before), and only the rows of weights that make the difference are added.
    """
    train = _checked(packed, train)
    out = empty((*train.shape[:-1], packed.outputs), dtype)
    if out.numel():
        task = _task(packed, train)
        task.out, task.out_type, task.unit = out.data_ptr(), TYPES[dtype], 2.0**packed.exponent
        run("rows", task, task.samples, out.numel())
    return out


def count_rows(packed: PackedWeights, train: Tensor, by: int) -> list[int]:
    """How many rows `rows` would add at each step for every `by`-th sample."""
    require(by >= 1, f"one of every {by} samples")
    train = _checked(packed, train)
    counts = torch.zeros(len(train), dtype=torch.int64, device="cpu")
    if train.numel():
        task = _task(packed, train)
        call("count_rows", isa(), ctypes.addressof(task), by, counts.data_ptr())
    numbers: list[int] = counts.tolist()
    return numbers


def _checked(packed: PackedWeights, train: Tensor) -> Tensor:
    require(
        train.dim() >= 2 and train.shape[-1] == packed.inputs, f"{packed.inputs} inputs, a train {list(train.shape)}"
    )
    return checked(train.contiguous(), "the train", torch.int8, train.shape)


def _task(packed: PackedWeights, train: Tensor) -> ctypes.Structure:
    addresses = (packed.peaks.data_ptr(), packed.peak_product.data_ptr(), train.data_ptr())
    return _Task(packed.structure(), *addresses, len(train), train[0].numel() // packed.inputs, packed.outputs)
