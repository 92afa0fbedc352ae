"""Populations behind fully connected maps of spikes, by the kernel that runs recurrences: each is one of a single position.

Spikes of a step are near those of the steps before. From the nearest of these, whose product is known, only the weights of
what differs are added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry


def connected_population(
    own: Filter,
    train: Tensor,
    drive: Tensor | None,
    exponent: int,
    thresholds: Tensor,
    neuron: KernelNeuron,
    guess: int,
    potential: Tensor | None,
    units: int | None,
) -> Tensor | None:
    """Spikes `[steps, batch, outputs]` of a population that one train reaches through a map; None: it is no fully connected
    one, or int32 might not hold its sums.

    Args:
        own: the map.
        train: `[steps, batch, inputs]` int8, each -1, 0 or 1.
        drive: `[batch, outputs]` float64, multiples of `2**exponent`, or None.
        exponent: of potentials.
        thresholds: `[outputs]` float64, likewise.
        guess: of the steps that will be needed.
        potential: `[outputs]` float64, before the first step, likewise; or None.
        units: exponent of the coarser grid on which int32 holds every sum; None: it holds the sums as they are.
    """
    if own.geometry != Geometry((1, 1)):
        return None
    margin = None
    if units is None:
        packed = _packed(own)
    else:
        packed, margin = _rounded(own, exponent, float(thresholds.min()), neuron.total, units)
    if packed is None or not 0 <= packed.exponent - (unit := exponent if margin is None else packed.exponent) <= 30:
        return None
    drive = None if drive is None else drive.unsqueeze(1)
    exact = None
    if margin is not None:
        begins = None if potential is None else potential * 2.0**-exponent
        exact = kernels.ExactCurrents(exponent, thresholds * 2.0**-exponent, margin, None, begins, drive)
    spikes = kernels.recurrence(
        packed,
        kernels.Sequences(
            drive, None, torch.zeros(0, train.shape[1], 1, packed.outputs, device="cpu"), None, None, False,
            None if potential is None else (potential * 2.0**-unit).round().int(), None, train.contiguous(),
        ),
        unit,
        (thresholds * 2.0**-unit).round().int(),
        kernels.INT32_UNITS,
        neuron,
        positions_first=False,
        tally=False,
        guess=guess,
        exact=exact,
    )  # fmt: skip
    return None if spikes is None else spikes.train[:, :, 0]


def _packed(own: Filter, rounding: kernels.Rounding | None = None) -> kernels.PackedWeights | None:
    weight = own.weight[:, :, 0, 0]
    return own.cache(own.weight, ("connected", rounding), lambda: kernels.pack(weight, own.exponent, 1, rounding))


def _rounded(
    own: Filter, exponent: int, threshold: float, total: int, widest: int
) -> tuple[kernels.PackedWeights | None, kernels.Margin | None]:
    """The weights rounded so that int32 holds every sum, and how far off that leaves sums: to int16, the cheapest to sum,
    where few neurons are nearer than that to a decision; else to int32."""
    for near, unit in ((kernels.NEAR, max(widest, own.narrow_exponent())), (1.0, widest)):
        packed = _packed(own, kernels.Rounding(unit, exponent, total))
        if packed is None or packed.left_out is None:
            continue
        # What is left out of weights for each spike, of the drive and the threshold for each count, and of the potential
        # that all begins with.
        margin = math.ceil(total * (packed.left_out.largest + 1.0) + 1.0)
        if margin < near * math.ldexp(threshold, -unit):  # else every neuron would be near a decision, always
            return packed, kernels.Margin(margin, 2)
    return None, None
