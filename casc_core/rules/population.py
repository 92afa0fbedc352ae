"""The rule of activations, which become populations of neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from casc_core.activation import CQReLU, check_threshold, check_thresholds
from casc_core.lowering import Lowering
from casc_core.numerics import binade
from casc_core.ops import Fire
from casc_core.rules.affine import rescaled
from casc_core.rules.normalisation import normalised
from casc_core.rules.table import RULES
from casc_core.values import Form, SignalValue

# A threshold spans at least 2**THRESHOLD_BITS grid units, so that rounding a real-valued current to it is harmless.
THRESHOLD_BITS = 14


@RULES.module(CQReLU)
def _neurons(low: Lowering, module: CQReLU, x: Any) -> SignalValue:
    threshold, name, x = module.effective_threshold, low.layer_name(low.node_name), low.signal(x)
    if isinstance(threshold, Tensor) and threshold.dim():
        thresholds = check_thresholds(threshold.detach()).double()
        nothing = torch.zeros_like(thresholds)
        # Divided into the currents, and multiplied into what follows.
        x = normalised(low, x, 1.0 / thresholds, nothing, nothing)
        return normalised(low, neurons(low, x, 1.0, name, module.half_step), thresholds, nothing, nothing)
    one = check_threshold(threshold.item() if isinstance(threshold, Tensor) else threshold)
    return neurons(low, x, one, name, module.half_step)


def neurons(low: Lowering, x: SignalValue, threshold: float, name: str, rounds: bool = False) -> SignalValue:
    """A population of neurons that reads `x`; its spikes are worth `threshold` each.

    Args:
        rounds: to the nearest level instead of down.
    """
    if x.form.scale < 0:
        x = rescaled(low, x, 1.0)
    scaled, exponent = grid_threshold(low, threshold / x.form.scale, x.form.exponent)
    charge = half_step(low, scaled, exponent) if rounds else None
    ref = low.emit(Fire(name=name, threshold=scaled, exponent=exponent, charge=charge), x)
    return SignalValue(ref, Form(scale=threshold, exponent=0))


def grid_threshold(low: Lowering, threshold: float, exponent: int | None) -> tuple[float, int]:
    """`threshold` on a grid, and the grid: no coarser than `2**exponent`, and fine enough for the threshold."""
    finest = binade(threshold) - THRESHOLD_BITS
    exponent = finest if exponent is None else min(exponent, finest)
    return float(low.numerics.snap(torch.tensor(threshold, dtype=torch.float64), exponent)), exponent


def half_step(low: Lowering, threshold: float, exponent: int) -> Tensor:
    """What a potential begins with where an activation rounds to the nearest level instead of down: half a threshold."""
    return low.numerics.snap(torch.tensor(threshold / 2, dtype=torch.float64), exponent)
