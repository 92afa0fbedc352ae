"""Products of spike trains by adding the weights of the neurons that spike."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import TYPES, call, checked, empty, isa, require, run, structure

INT32_UNITS = 2.0**31 - 1
INT16_UNITS = 2.0**15 - 1
# Sums of rounded numbers are to take so many bits: their differences, and margins beside them, still fit int32.
SUM_BITS = 30
# A train's counts are int8.
LARGEST_COUNT = 127
SUMS16, SUMS32, WIDE = range(3)

Weights = structure("Weights", (c_void_p, "values"), (c_int64, "kind rows rows_padded stride"))
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
class PackedWeights:
    """Weights in units of `2**exponent`, the coarsest grid they are on: one row of outgoing weights for each input.

    Attributes:
        values: `[inputs, stride]` int16 or int32.
        kind: how they are summed.
        peaks, peak_product: the largest spike count at every input, and the product of that.
        reach: largest product of one step.
        exact: where the units are rounded, the weights as they are, float64, as `values` has them.
        left_out: the largest row of what rounding has left out, in units.
    """

    values: Tensor
    kind: int
    inputs: int
    outputs: int
    exponent: int
    peaks: Tensor
    peak_product: Tensor
    reach: float
    exact: Tensor | None = None
    left_out: float = 0.0

    def structure(self) -> ctypes.Structure:
        """For a kernel."""
        return Weights(self.values.data_ptr(), self.kind, self.inputs, self.peaks.numel(), self.values.shape[1])


def pack(weight: Tensor, exponent: int, peak: int, finest: int | None = None) -> PackedWeights | None:
    """`weight` `[outputs, inputs]`, multiples of `2**exponent`, for trains of magnitude up to `peak`; None: no room.

    Args:
        finest: the weights are on this finer grid, and rounded; they are kept as they are too, in units of it.

    >>> packed = pack(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), 0, peak=1)
    >>> rows(packed, torch.tensor([[[1, -1]]], dtype=torch.int8), torch.float32)
    tensor([[[ 4., -2.]]])
    """
    left_out = 0.0
    if finest is None:
        units, exponent = coarsest(weight, exponent)
    else:
        units, left_out = rounded(weight, exponent)
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
    exact = None
    if finest is not None:
        exact = torch.zeros(values.shape, dtype=torch.float64, device="cpu")
        exact[:, :outputs] = weight.double().cpu().T * 2.0**-finest
    return PackedWeights(
        values, kind, inputs, outputs, exponent, peaks, product, reach * 2.0**exponent, exact, left_out
    )


def coarsest(weight: Tensor, exponent: int) -> tuple[Tensor, int]:
    """`weight`, multiples of `2**exponent`, in float64 units of the coarsest grid it is on, and that grid's exponent.

    >>> coarsest(torch.tensor([1.0, -3.0]), -4)
    (tensor([ 1., -3.], dtype=torch.float64), 0)
    """
    units = weight.detach().double().cpu() * 2.0**-exponent
    while bool(units.any()) and bool((units % 2 == 0).all()):
        units, exponent = units / 2, exponent + 1
    return units, exponent


def rounded(weight: Tensor, exponent: int) -> tuple[Tensor, float]:
    """`weight` in whole units of `2**exponent`, float64, and the largest row of what rounding has left out, in units.

    >>> rounded(torch.tensor([[1.25, -3.0], [0.5, 0.25]]), 0)
    (tensor([[ 1., -3.],
            [ 0.,  0.]], dtype=torch.float64), 0.75)
    """
    exact = weight.detach().double().cpu() * 2.0**-exponent
    units = exact.round()
    return units, float((exact - units).abs().flatten(1).sum(1).max())


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
