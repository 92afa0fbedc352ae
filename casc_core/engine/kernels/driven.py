"""A population that real-valued input alone drives, in one call: its drive is never written down."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_double, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import checked, empty, require, run, structure, with_capacity
from casc_core.engine.kernels.neurons import KernelNeuron, Neurons
from casc_core.engine.kernels.rounding import Reads, ReadsTask, SplitWeights

_Task = structure(
    "DrivenTask",
    (Neurons, "neurons"),
    (ReadsTask, "reads"),
    (c_void_p, "values weights bias"),
    (c_int64, "positions outputs width"),
    (c_float, "limit scale"),
    (c_double, "flow"),
    (c_void_p, "thresholds potential high low exact_bias exact_thresholds exact_potential"),
    (c_double, "splitter rest_error exact_limit exact_scale product_scale"),
    (c_void_p, "near"),
    (c_int64, "room found capacity"),
    (c_void_p, "out"),
)
_TILE = 4
_WIDTH = 64


def pack_driven(weight: Tensor, groups: int) -> Tensor:
    """Weights `[outputs, terms]` as the kernel reads them: float32 `[groups, terms, width]`, outputs side by side."""
    outputs, terms = weight.shape
    each = outputs // groups
    packed = torch.zeros(groups, terms, -(-each // _WIDTH) * _WIDTH, dtype=torch.float32, device="cpu")
    packed[:, :, :each] = weight.view(groups, each, terms).mT
    return packed


@dataclass(frozen=True, eq=False)
class Driven:
    """The numbers of a population, one for each output, and how they are rounded.

    Attributes:
        neuron: what it is and when it is awake.
        exponent: of the grid that the drive is rounded to, of which thresholds and potential are multiples. unit: of int32.
        bias, thresholds, potential: `[outputs]` float64.
        most: within how much the drive is held.
        error: that the product and the bias in float32 may have, on a grid already if there is one for products.
        product_exponent: of a grid that products are rounded to first, which are exact then; or None.
    """

    neuron: KernelNeuron
    exponent: int
    unit: int
    bias: Tensor
    thresholds: Tensor
    potential: Tensor
    most: float
    error: float
    product_exponent: int | None = None

    @property
    def flow(self) -> float:
        """By how many units a potential may be off for each time that the drive has flowed, and each spike."""
        return 1.0 + math.ldexp(self.error, -self.unit)

    @cached_property
    def rounded(self) -> tuple[Tensor, Tensor, Tensor]:
        """The bias in float32; thresholds and potential in int32, in units.

        Raises:
            ValueError: int32 does not hold what they may become.
        """
        for each in (self.bias, self.thresholds, self.potential):
            checked(each, "a number for each output", torch.float64, (len(self.bias),))
        unit, total = 2.0**-self.unit, self.neuron.total
        thresholds, potential = ((each * unit).round() for each in (self.thresholds, self.potential))
        # The drive flows, and neurons spike, so often at most.
        reach = float(potential.abs().max()) + (total + 1) * (self.most * unit + float(thresholds.max()))
        margin = 3.0 + (total + 1) * self.flow
        require(reach + margin < 2**31 and float(thresholds.min()) >= 1, f"potentials of up to {reach} units")
        return self.bias.float(), thresholds.int(), potential.int()

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """Thresholds and potential in units of the grid."""
        grid = 2.0**-self.exponent
        return self.thresholds * grid, self.potential * grid

    @cached_property
    def of_neurons(self) -> ctypes.Structure:
        """The neurons, for the kernel."""
        return self.neuron.structure(int(self.rounded[1].max()))


def driven(
    reads: Reads,
    positions: int,
    packed: Tensor,
    weights: SplitWeights,
    population: Driven,
    split: int,
    rest_error: float,
    room: int,
    guess: int,
) -> tuple[Tensor, Tensor] | None:
    """Spikes `[steps, positions, outputs]` int8, and the places of those whose drive is so near to the middle between two
    multiples of the grid that its sum does not decide them, in any order; None: there are more than `room`.

    Args:
        reads: where the inputs lie. packed: the weights by `pack_driven`. weights: as `round_sums` has them.
        split, rest_error: as for `round_sums`.
        guess: of the steps that will be needed.
    """
    neuron, grid, unit = population.neuron, 2.0**-population.exponent, 2.0**-population.unit
    outputs, terms, width = population.bias.shape[0], reads.offsets.shape[0], packed.shape[-1]
    checked(packed, "the weights", torch.float32, (reads.groups, terms, width))
    for part in (weights.high, weights.low):
        checked(part, "the weights", torch.float64, (outputs, terms))
    bias, thresholds, potential = population.rounded
    exact_thresholds, exact_potential = population.exact
    values, first = reads.values.float().contiguous(), population.product_exponent
    product_scale = 0.0 if first is None else 2.0**-first
    read = reads.structure(positions)
    near = empty((room,), torch.int64)
    found = 0

    def attempt(capacity: int) -> tuple[Tensor, int]:
        nonlocal found
        out = empty((capacity, positions, outputs), torch.int8)
        task = _Task(
            population.of_neurons, read, values.data_ptr(), packed.data_ptr(),
            bias.data_ptr(), positions, outputs, width, population.most, unit, population.flow, thresholds.data_ptr(),
            potential.data_ptr(), weights.high.data_ptr(), weights.low.data_ptr(), population.bias.data_ptr(),
            exact_thresholds.data_ptr(), exact_potential.data_ptr(), 1.5 * 2.0 ** (52 + split), rest_error,
            population.most * grid, grid, product_scale, near.data_ptr(), room, 0, capacity, out.data_ptr(),
        )  # fmt: skip
        needed = run("driven", task, -(-positions // _TILE), out.numel())
        found = task.found
        return out, needed

    out, needed = with_capacity(neuron.room(0, guess), neuron.longest(0), attempt)
    return (out[:needed], near[:found]) if found <= room else None
