"""The numbers of a lowered network on their grids: where each is rounded, and to how many bits.

Nothing here knows of a model or of its graph. The kinds of nodes ask, when they are snapped, what a map, a factor or a
threshold becomes for a signal of a given `Form`, and get numbers on a grid and the form of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.grids import Form, Stretch, common_denominator, is_binary
from casc_core.engine.ops import Scale, Shift
from casc_core.numerics import (
    THRESHOLD_BITS,
    Numerics,
    binade,
    coarsest,
    drive_grid,
    is_on,
    largest,
    on_grid,
    snapped,
    stored,
)

# Factors and weights that meet a drive keep this many.
FINE_BITS = 24
# What must not be rounded may take this many bits: those of a float32, and a few for the number of entries of a mean.
EXACT_BITS = 28
# Weights that meet real-valued input alone keep so many bits.
INPUT_WEIGHT_BITS = 49


@dataclass(frozen=True)
class SnappedMap:
    """A linear map on its grids: `weight` for spikes, `fine` for real-valued input, and the form of what it gives."""

    weight: Tensor | None
    fine: Tensor | None
    bias: Tensor | None
    input_exponent: int
    fine_exponent: int
    drive_exponent: int
    train_exponent: int
    form: Form
    rounds: bool = False
    held: float | None = None

    def arguments(self) -> dict[str, Any]:
        """What an `AffineMap` is made from, but for its name and geometry."""
        return {
            "weight": None if self.weight is None else stored(self.weight),
            "fine": None if self.fine is None else stored(self.fine),
            "bias": self.bias,
            "exponent": self.form.exponent or 0,
            "train_exponent": self.train_exponent,
            "rounds": self.rounds,
            "held": self.held,
            "input_exponent": self.input_exponent,
            "fine_exponent": self.fine_exponent,
            "drive_exponent": self.drive_exponent,
        }


def snapped_map(
    numerics: Numerics,
    form: Form,
    weight: Tensor,
    real: Tensor,
    bias: Tensor | None,
    exponent: int | None = None,
    centre: Tensor | None = None,
    rounds: bool = False,
) -> SnappedMap:
    """A map of a signal of this form, float64: `weight` for its spikes, `real` for its drive.

    Args:
        rounds: what it gives is rounded to its grid, and not its weights (as trained, `SpikingNode.is_running`).
        exponent: the result is no finer than this grid; None: the weights' own bits decide.
        centre: of the inputs; rounding of the weights is to leave it where it is.
    """
    weight, real = weight * form.factor, real * form.factor
    snapped = fine = None
    out_exponent, fine_exponent, drive_exponent = None, 0, exponent
    drive_reach = 0.0
    if form.exponent is not None:
        own = numerics.weight_exponent(weight, arriving=form.exponent)
        if exponent is not None:
            own = max(own, exponent - form.exponent)
        snapped = numerics.snap(weight, own)
        # What arrives may be on so fine a grid that none is left for what multiplies it.
        rounds = rounds or (isinstance(numerics, Stretch) and _is_lost(weight, snapped))
        if rounds:
            snapped = _fine(numerics, weight)[0]
            out_exponent = form.exponent + own
        elif isinstance(numerics, Stretch):
            out_exponent = form.exponent + coarsest(snapped, own)
        else:
            out_exponent = form.exponent + own if centre is not None else _coarsest(snapped, bias, form, own)
    if form.drive_exponent is not None:
        drive_reach += form.drive_reach * float(real.abs().flatten(1).sum(1).max())
        fine, fine_exponent = _fine(numerics, real)
    if centre is not None and bias is not None:
        # Of the snapped weights, so that what snapping moved is multiplied by x - centre, and not by x.
        used = next(w for w in (snapped, fine) if w is not None)
        bias = bias - used @ (centre / form.factor)
    if bias is not None:
        drive_reach += float(bias.abs().max())
    if drive_exponent is None:
        drive_exponent = _drive_exponent(numerics, drive_reach)
        if out_exponent is not None and not isinstance(
            numerics, Stretch
        ):  # much finer than what it is added to would only cost range
            drive_exponent = max(drive_exponent, out_exponent - numerics.bias_bits)
    unrounded = snapped is None or torch.equal(snapped, weight)
    if bias is not None:
        rounded = numerics.snap(bias, drive_exponent)
        unrounded, bias = unrounded and torch.equal(rounded, bias), rounded
    driven = bias is not None or fine is not None
    result = Form(
        exponent=out_exponent,
        drive_exponent=drive_exponent if driven else None,
        drive_reach=drive_reach,
        is_exact=form.is_exact and unrounded and fine is None and not rounds,
        is_summed=form.is_summed,
    )
    return SnappedMap(
        snapped, fine, bias, form.drive_exponent or 0, fine_exponent, drive_exponent, form.exponent or 0, result, rounds,
        numerics.held if rounds and isinstance(numerics, Stretch) else None,
    )  # fmt: skip


def _coarsest(weight: Tensor, bias: Tensor | None, form: Form, exponent: int) -> int:
    """The grid of what `weight`, on the grid of `exponent`, makes of a signal of this form: as coarse as it really is.

    Maps in a row then take no more bits than their weights have. Where anything is rounded, or a bias would be, the grid
    stays as fine as the bits of a weight allow.
    """
    result = (form.exponent or 0) + exponent
    if form.drive_exponent is not None or not form.is_exact:
        return result
    while bool(weight.any()) and is_on(weight, exponent + 1) and (bias is None or is_on(bias, result + 1)):
        exponent, result = exponent + 1, result + 1
    return result


def _fine(numerics: Numerics, real: Tensor) -> tuple[Tensor, int]:
    """Weights or factors that meet real-valued input alone, and the exponent of their grid."""
    if not isinstance(numerics, Stretch):
        exponent = numerics.weight_exponent(real, bits=FINE_BITS)
        return numerics.snap(real, exponent), exponent
    exponent = binade(largest(real)) - INPUT_WEIGHT_BITS
    return on_grid(real, exponent), exponent


def _drive_exponent(numerics: Numerics, reach: float) -> int:
    """The grid of what flows awake."""
    return numerics.grid if isinstance(numerics, Stretch) else drive_grid(reach)


# Half of what the last bit of a float32 is worth, beside the number.
FLOAT32_ROUNDING = 2.0**-24


def snapped_scale(
    numerics: Numerics, form: Form, factor: Tensor, shift: Tensor | None, scale: Fraction, bits: int | None = None,
    axis: int | None = None, rounds: bool = False, is_whole_factor: bool = False,
) -> tuple[Scale, Form]:  # fmt: skip
    """A signal's numbers times `factor` plus `shift`, placed as those of a `Normalisation`; the result has this scale.

    `bits` are those of a factor of the train; None: those of a weight. `rounds` as for `snapped_map`. A factor of few bits,
    a whole number times a power of two, may stay as it is.
    """
    shift = shift if shift is not None and bool(shift.any()) else None
    rounds = rounds and form.exponent is not None
    if isinstance(numerics, Stretch):
        numerics = numerics.of_scale(scale)
    if is_whole_factor:
        coarse, exponent = factor, coarsest(factor, binade(largest(factor)) - EXACT_BITS)
    else:
        coarse, exponent = snapped(numerics, factor, bits, form.exponent or 0)
        # Behind products of products, numbers may be on so fine a grid that none is left for what multiplies them.
        rounds = rounds or (isinstance(numerics, Stretch) and form.exponent is not None and _is_lost(factor, coarse))
    fine, fine_exponent = _fine(numerics, factor)
    fine_exponent = coarsest(fine, fine_exponent)
    reach, drive_exponent = form.drive_reach * float(fine.abs().max()), None
    if shift is not None:
        reach += float(shift.abs().max())
    if rounds:
        coarse = fine
    unrounded = form.is_exact and not rounds and torch.equal(coarse, factor)
    if form.drive_exponent is not None or shift is not None:
        drive_exponent = _drive_exponent(numerics, reach)
        if form.drive_exponent is not None and not isinstance(numerics, Stretch):
            own = form.drive_exponent + fine_exponent
            unrounded = unrounded and torch.equal(fine, factor) and drive_exponent <= own
            if shift is None or is_on(shift, own):  # what lies on no finer grid needs none
                drive_exponent = max(own, drive_exponent)
    flowing = None if shift is None else numerics.snap(shift, drive_exponent or 0)
    unrounded = unrounded and (flowing is None or shift is None or torch.equal(flowing, shift))
    if flowing is not None and form.drive_exponent is None:
        drive_exponent = coarsest(flowing, drive_exponent or 0)
    out_exponent = None if form.exponent is None else form.exponent + exponent
    if rounds:
        out_exponent = numerics.weight_exponent(factor)
    grids = [form.exponent, out_exponent] if rounds else None
    op = Scale(factor=coarse, fine=fine, shift=flowing, drive_exponent=drive_exponent or 0, axis=axis, grids=grids)
    return op, Form(scale, out_exponent, drive_exponent, reach, unrounded, form.is_summed)


def _is_lost(factor: Tensor, on_grid: Tensor) -> bool:
    """Whether a grid has kept less of a factor than float32 would."""
    return largest(factor - on_grid) > largest(factor) * FLOAT32_ROUNDING


def snapped_normalisation(
    numerics: Numerics, form: Form, factor: Tensor, shift: Tensor, bits: int | None, axis: int | None, rounds: bool
) -> tuple[Scale, Form]:
    """A signal's values times `factor` plus `shift`, the factors in this many bits (None: those of a weight)."""
    # What has not been rounded is not rounded here either, if this many bits hold the factors: a ninth stays in the scale.
    parts = common_denominator([form.scale]) if form.is_exact else 1
    by = factor * float(form.scale * parts)
    own = numerics.weight_exponent(by, bits, form.exponent or 0)
    if parts > 1 and not torch.equal(numerics.snap(by, own), by):
        parts, by = 1, factor * form.factor
    return snapped_scale(numerics, form, by, shift * parts, Fraction(1, parts), bits, axis, rounds)


def snapped_shift(
    numerics: Numerics, form: Form, factor: Tensor, offset: Tensor, axis: int | None
) -> tuple[Shift, Form]:
    """A signal's drive times `factor` plus `offset`, in the signal's numbers; its train stays as it is."""
    if isinstance(numerics, Stretch):
        numerics = numerics.of_scale(form.scale)
    fine, _ = _fine(numerics, factor)
    reach = form.drive_reach * float(factor.abs().max()) + float(offset.abs().max())
    exponent = _drive_exponent(numerics, reach)
    flowing = numerics.snap(offset, exponent)
    if form.drive_exponent is None:
        exponent = coarsest(flowing, exponent)
    op = Shift(factor=fine, offset=flowing, drive_exponent=exponent, axis=axis)
    unrounded = form.is_exact and form.drive_exponent is None and torch.equal(flowing, offset)
    return op, replace(form, drive_exponent=exponent, drive_reach=reach, is_exact=unrounded)


def grid_threshold(
    numerics: Numerics,
    threshold: float | Fraction,
    exponent: int | None,
    is_exact: bool = False,
    rounds: bool = False,
) -> tuple[float, int]:
    """`threshold` on a grid, and the grid's exponent: no coarser than `2**exponent`, and fine enough for the threshold.

    Args:
        exponent: the grid of the currents that meet it; None: they are on none.
        is_exact: the signal that meets it has not been rounded: it is not either, while a float32's bits hold it.
        rounds: half of it is on the grid as well.
    """
    value = float(threshold)
    if isinstance(numerics, Stretch):
        own = 1 - Fraction(threshold).denominator.bit_length() - rounds
        # A neuron's initial potential, which is a share of the threshold, is on this grid too.
        own = max(numerics.grid, min(own, binade(value) - THRESHOLD_BITS))
        exponent = own if exponent is None else min(exponent, own)
        return float(on_grid(torch.tensor(value, dtype=torch.float64), exponent)), exponent
    finest = binade(value) - (THRESHOLD_BITS if exponent is None else numerics.threshold_bits)
    if is_exact:
        own = 1 - Fraction(threshold).denominator.bit_length() - rounds
        finest = min(finest, max(own, binade(value) - EXACT_BITS))
    exponent = finest if exponent is None else min(exponent, finest)
    return float(numerics.snap(torch.tensor(value, dtype=torch.float64), exponent)), exponent


def level_thresholds(
    numerics: Numerics, thresholds: Sequence[Fraction], exponent: int | None
) -> tuple[list[float], int]:
    """Thresholds of several levels, ascending, rounded once to a grid no coarser than `2**exponent`, and its exponent.

    The steps between them are as fine as a threshold of its own would be; `exponent` None: no current has a grid.
    What is no binary fraction is rounded down: a sum over unequal windows or lengths is compared with so many times the
    threshold, and one that lies on it must reach it.
    """
    steps = [float(abs(b - a)) for a, b in itertools.pairwise([Fraction(0), *thresholds]) if a != b]
    grid = binade(min(steps, default=1.0)) - (THRESHOLD_BITS if exponent is None else numerics.threshold_bits)
    if isinstance(numerics, Stretch):  # what lies on no finer grid needs none
        grid = max(numerics.grid, min(grid, *map(_binary_exponent, thresholds)))
    grid = grid if exponent is None else min(grid, exponent)
    if not numerics.is_exact:
        return list(map(float, thresholds)), grid
    units = [threshold / Fraction(2) ** grid for threshold in thresholds]
    return [math.ldexp(round(each) if is_binary(each) else math.floor(each), grid) for each in units], grid


def _binary_exponent(number: Fraction) -> int:
    """The exponent of the finest bit that a binary fraction has; of another, one below all that matter."""
    return 1 - number.denominator.bit_length() if is_binary(number) else -(10**6)


def potential_grid(numerics: Numerics, form: Form) -> int | None:
    """The exponent of the grid of what reaches neurons; None: their thresholds alone decide."""
    if isinstance(numerics, Stretch) and form.drive_exponent is not None:
        grid = numerics.of_scale(form.scale).grid
        return grid if form.exponent is None else min(grid, form.exponent)
    return form.exponent


def half_step(numerics: Numerics, threshold: float, exponent: int) -> Tensor:
    """What a potential begins with where an activation rounds to the nearest level instead of down: half a threshold."""
    return numerics.snap(torch.tensor(threshold / 2, dtype=torch.float64), exponent)
