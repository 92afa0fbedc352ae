"""The rule of activations, which become populations of neurons."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.activation import CQReLU, check_threshold, check_thresholds
from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import EXACT_BITS, LARGEST_DENOMINATOR, common_denominator, rescaled
from casc_core.conversion.rules.normalisation import by_channel, normalised
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Channels, Form, Mapped, SignalValue
from casc_core.engine.ops import Fire
from casc_core.numerics import binade

# A threshold spans at least 2**THRESHOLD_BITS grid units, so that rounding a real-valued current to it is harmless.
THRESHOLD_BITS = 14


@RULES.module(CQReLU)
def _neurons(low: Lowering, module: CQReLU, x: Any) -> SignalValue:
    threshold, name, x = module.effective_threshold, low.layer_name(low.node_name), low.signal(x)
    if not isinstance(threshold, Tensor):
        return neurons(low, x, check_threshold(threshold), name, module.half_step)
    if threshold.dim() == 0:
        return neurons(low, x, check_threshold(threshold.item()), name, module.half_step)
    thresholds = check_thresholds(threshold.detach()).double()
    nothing = torch.zeros_like(thresholds)
    x = unrounded(low, x)
    if isinstance(x.origin, Mapped) and len(x.origin.weight) != len(thresholds):
        raise low.refuse(f"it is for {len(thresholds)} channels, and what it reads has {len(x.origin.weight)}")
    is_short = bool((thresholds * 2.0**THRESHOLD_BITS % 1 == 0).all())
    if isinstance(x.origin, (Mapped, Channels)) and not x.form.is_exact and not is_short:
        # Divided into the currents, and so into the weights that they come from.
        x = normalised(low, x, 1.0 / thresholds, nothing, nothing)
        spikes = neurons(low, x, 1.0, name, module.half_step)
    else:
        spikes = neurons(low, x, thresholds, name, module.half_step)
    return normalised(low, spikes, thresholds, nothing, nothing)


def neurons(low: Lowering, x: SignalValue, threshold: float | Tensor, name: str, rounds: bool = False) -> SignalValue:
    """A population of neurons that reads `x`; its spikes are worth `threshold` each, or 1 where each channel has its own.

    Args:
        threshold: a number; or float64 `[channels]`, one for each channel.
        rounds: to the nearest level instead of down.
    """
    x = unrounded(low, x)
    if x.form.scale < 0:
        x = rescaled(low, x)
    if isinstance(threshold, Tensor):
        x = _on_binary_scale(low, x, Fraction(1))
        each = threshold / x.form.factor
        grids = [grid_threshold(low, float(one), x.form.exponent, x.form.is_exact, rounds)[1] for one in each]
        each = low.numerics.snap(each, min(grids))
        half = low.numerics.snap(each / 2, min(grids)) if rounds else None
        op = Fire(name=name, threshold=float(each.max()), exponent=min(grids), charge=half, thresholds=each)
        return SignalValue(low.emit(op, x), Form(exponent=0, is_exact=True))
    x = _on_binary_scale(low, x, Fraction(threshold))
    ratio = Fraction(threshold) / x.form.scale
    scaled, exponent = grid_threshold(low, ratio, x.form.exponent, x.form.is_exact, rounds)
    charge = half_step(low, scaled, exponent) if rounds else None
    ref = low.emit(Fire(name=name, threshold=scaled, exponent=exponent, charge=charge), x)
    return SignalValue(ref, Form(scale=Fraction(threshold), exponent=0, is_exact=True))


def _on_binary_scale(low: Lowering, x: SignalValue, threshold: Fraction) -> SignalValue:
    """`x` on a scale in which the threshold is a binary fraction, where a whole factor does that, or nothing was rounded.

    Of spikes that are worth 2/9 it takes 27/8 to reach 3/4; of those that are worth 3/4 it takes 8/3 to reach 2, which no
    binary fraction is, so they are counted in units of 1.
    """
    parts = (threshold / x.form.scale).denominator
    is_short = parts <= LARGEST_DENOMINATOR and not isinstance(x.origin, Mapped)
    if not (x.form.is_exact or is_short) or parts & (parts - 1) == 0:
        return x
    return rescaled(low, x, Fraction(1, common_denominator([x.form.scale])), EXACT_BITS)


def unrounded(low: Lowering, x: SignalValue) -> SignalValue:
    """`x`, its factors of each channel in all their bits where nothing else has been rounded on its way."""
    origin = x.origin
    if not isinstance(origin, Channels) or not origin.signal.form.is_exact or x.form.is_exact:
        return x
    return by_channel(low, origin, EXACT_BITS)


def grid_threshold(
    low: Lowering, threshold: float | Fraction, exponent: int | None, is_exact: bool = False, rounds: bool = False
) -> tuple[float, int]:
    """`threshold` on a grid, and the grid: no coarser than `2**exponent`, and fine enough for the threshold.

    Args:
        is_exact: the signal that meets it has not been rounded: it is not either, while a float32's bits hold it.
        rounds: half of it is on the grid as well.
    """
    value = float(threshold)
    finest = binade(value) - THRESHOLD_BITS
    if is_exact:
        own = 1 - Fraction(threshold).denominator.bit_length() - rounds
        finest = min(finest, max(own, binade(value) - EXACT_BITS))
    exponent = finest if exponent is None else min(exponent, finest)
    return float(low.numerics.snap(torch.tensor(value, dtype=torch.float64), exponent)), exponent


def half_step(low: Lowering, threshold: float, exponent: int) -> Tensor:
    """What a potential begins with where an activation rounds to the nearest level instead of down: half a threshold."""
    return low.numerics.snap(torch.tensor(threshold / 2, dtype=torch.float64), exponent)
