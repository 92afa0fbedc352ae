"""The arithmetic of grids: where each number of a lowered network is rounded, and to how many bits.

Nothing here knows of a model or of its graph. The kinds of nodes ask, when they are snapped, what a map, a factor or a
threshold becomes for a signal of a given `Form`, and get numbers on a grid and the form of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import Scale, Shift
from casc_core.numerics import (
    THRESHOLD_BITS,
    AsTrained,
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

# Real-valued tables keep this many bits.
TABLE_BITS = 22
# Factors and weights that meet a drive keep this many.
FINE_BITS = 24
# What must not be rounded may take this many bits: those of a float32, and a few for the number of entries of a mean.
EXACT_BITS = 28
# Signals of several scales are brought to a common one by whole factors no larger than this.
LARGEST_DENOMINATOR = 2**12
# The network as trained leaves room for at least so many wake steps: `SpikingModel.under` may ask for other schedules.
LEAST_STEPS = 2**10
# And for neurons that are driven, so many times as much, where inputs are as large as may be (see `Stretch.of`).
MOST_DRIVEN_STEPS = 2**16
# Weights that meet real-valued input alone keep so many bits.
INPUT_WEIGHT_BITS = 49
# A map that gives the logits keeps so many bits of its sums: all those of float64 numbers and of what they meet.
READOUT_BITS = 120
# Sums of unknown size are expected to stay below this many terms; only the choice of bits depends on it.
EXPECTED_TERMS = 2.0**8
# What maxima and products make of inputs before they reach neurons may be so many times as large as expected.
UNHELD = 2.0**8
# As trained, there is room for so many.
MOST_TERMS = 2**16


@dataclass(frozen=True)
class Form:
    """In which numbers a signal travels.

    Attributes:
        scale: factor from the signal's numbers to the values of the user's tensor, as the fraction that it is: a mean of
            nine entries has a ninth, which no floating-point number is.
        exponent: its train is on the grid `2**exponent`; None: it has no train.
        drive_exponent: its drive is on the grid `2**drive_exponent`; None: it has no drive.
        drive_reach: expected magnitude of the drive, from which the bits of weights are chosen (never exactness).
        is_exact: no number between the populations and this signal has been rounded to a grid, so that sums which meet a
            threshold exactly are the rule: it must not be rounded either.
        is_summed: a sum over a dimension of unknown size is counted in `drive_reach`.
    """

    scale: Fraction = Fraction(1)
    exponent: int | None = None
    drive_exponent: int | None = None
    drive_reach: float = 0.0
    is_exact: bool = False
    is_summed: bool = False

    @property
    def factor(self) -> float:
        """The scale as the nearest floating-point number."""
        return float(self.scale)

    def summed(self, terms: int | None) -> Form:
        """That of a sum of this many entries; None: the inputs decide how many, which is expected once."""
        if terms is not None:
            return replace(self, drive_reach=self.drive_reach * terms)
        return replace(self, drive_reach=self.drive_reach * (1 if self.is_summed else EXPECTED_TERMS), is_summed=True)

    def as_train(self) -> Form:
        """That of what makes a train of it, whatever was in the drive, as a maximum does."""
        exponents = [exponent for exponent in (self.exponent, self.drive_exponent) if exponent is not None]
        return replace(self, exponent=min(exponents), drive_exponent=None, drive_reach=0.0, is_summed=False)


def joint_form(forms: Sequence[Form], drive_reach: float) -> Form:
    """That of a sum or a concatenation of signals of one scale."""
    return Form(
        forms[0].scale,
        min((form.exponent for form in forms if form.exponent is not None), default=None),
        min((form.drive_exponent for form in forms if form.drive_exponent is not None), default=None),
        drive_reach,
        is_exact=all(form.is_exact for form in forms),
        is_summed=any(form.is_summed for form in forms),
    )


@dataclass(frozen=True)
class Reach:
    """How large the numbers of a signal may be, in the user's values.

    Attributes:
        train: for each spike that a neuron has fired.
        drive: of its real-valued part; an input is expected to be as large as `EXPECTED_INPUT`.
        is_unknown: inputs of which only a run knows how large they are have a part in the drive.
        is_summed: there are sums over dimensions of unknown size in it, which are counted as one entry.
        unit: what its numbers are worth, over what they were worth where they were put on a grid: those of a mean of four,
            computed as a sum, a quarter.
        is_unheld: such inputs have a part in the train: no neuron's threshold holds it (see `Run.held`).
    """

    train: float = 0.0
    drive: float = 0.0
    is_unknown: bool = False
    is_summed: bool = False
    unit: float = 1.0
    is_unheld: bool = False

    def times(self, factor: float, shift: float = 0.0) -> Reach:
        """That of a map whose rows of weights are as large as `factor`, and its biases as large as `shift`."""
        return replace(self, train=self.train * factor, drive=self.drive * factor + shift)

    def summed(self, terms: int | None) -> Reach:
        """That of a sum of this many entries; None: the inputs decide how many."""
        return replace(self, is_summed=True) if terms is None else self.times(terms)

    def worth(self, scale: Fraction) -> Reach:
        """That of the same numbers, worth so many times as much."""
        return replace(self.times(abs(float(scale))), unit=self.unit * abs(float(scale)))

    def worth_less(self, factor: int) -> Reach:
        """That of numbers times this one, each worth so much less."""
        return replace(self, unit=self.unit / factor)

    def on_grid(self) -> Reach:
        """That of numbers which are put on a grid anew."""
        return replace(self, unit=1.0)

    def joined(self, other: Reach) -> Reach:
        """The larger of both."""
        return self._of(other, max(self.train, other.train), max(self.drive, other.drive))

    def plus(self, other: Reach) -> Reach:
        """That of a sum."""
        return self._of(other, self.train + other.train, self.drive + other.drive)

    def _of(self, other: Reach, train: float, drive: float) -> Reach:
        unknown, summed = (self.is_unknown or other.is_unknown, self.is_summed or other.is_summed)
        return Reach(train, drive, unknown, summed, min(self.unit, other.unit), self.is_unheld or other.is_unheld)

    def maximum(self) -> Reach:
        """That of a maximum, which is a train."""
        unheld = self.is_unheld or self.is_unknown
        return replace(self, train=self.total, drive=0.0, is_unknown=False, is_unheld=unheld)

    @property
    def most(self) -> float:
        """How large the train may be, whatever the inputs."""
        return self.train * (UNHELD if self.is_unheld else 1.0)

    @property
    def total(self) -> float:
        """Of both together."""
        return self.train + self.drive

    @property
    def room(self) -> Reach:
        """How large its numbers may be, in values of the grid that they were put on."""
        return replace(self, train=self.train / self.unit, drive=self.drive / self.unit, unit=1.0)


@dataclass(frozen=True)
class Stretch(AsTrained):
    """`AsTrained` at one place between populations and those that it reaches: all of it has room for their sums.

    Attributes:
        finest: no number is on a finer grid than `2**finest`, in the user's values.
        scale: of the numbers that are being put on a grid.
        held: a running function is held within so much for each step, since all that is larger is the same to the neurons
            that read it; None: it is not.
    """

    finest: int
    scale: Fraction = Fraction(1)
    held: float | None = None

    @classmethod
    def of(cls, reach: Reach, steps: int) -> Stretch:
        """That of sums of this reach for each spike or wake step, of which there may be so many.

        `Run.held` bounds what real-valued inputs drive neurons with by what all their spikes and thresholds could make up
        for, which is once more as much as there are steps.
        """
        terms = MOST_TERMS if reach.is_summed else 1
        most = (reach.most + reach.drive) * max((steps + 1) * terms, LEAST_STEPS)
        if reach.is_unknown:
            most = max(most, reach.most * min((steps + 1) * (steps + 4), MOST_DRIVEN_STEPS) * terms)
        return cls(binade(most) - 52)

    @classmethod
    def of_readout(cls, reach: Reach) -> Stretch:
        """That of a map at the end, whose product is taken of totals and rounded once: there is room for every bit."""
        return cls(binade(reach.most + reach.drive) - READOUT_BITS)

    def of_scale(self, scale: Fraction) -> Stretch:
        """For a result whose numbers are worth so much."""
        return replace(self, scale=scale)

    @property
    def grid(self) -> int:
        """The exponent of the finest grid of numbers of this scale."""
        return self.finest + 1 - math.frexp(float(self.scale))[1]

    def train_grid(self, form: Form) -> int:
        """The exponent of the grid of a train that is made of a signal of this form, its drive included."""
        if form.exponent is not None and not form.drive_reach:  # nothing but zeros and minus infinities
            return form.exponent
        drive = self.of_scale(form.scale).grid
        return drive if form.exponent is None else min(form.exponent, drive)

    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        return self.grid - arriving


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
        snapped = _fine(numerics, weight)[0] if rounds else numerics.snap(weight, own)
        if rounds:
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


def common_denominator(scales: Iterable[Fraction]) -> int:
    """The least odd whole number that makes each scale a whole number of some power of two; 1 where that is too large.

    >>> common_denominator([Fraction(2, 9), Fraction(3, 4)]), common_denominator([Fraction(0.1)])
    (9, 1)
    """
    least = 1
    for scale in scales:
        odd = scale.denominator
        while odd % 2 == 0:
            odd //= 2
        least = math.lcm(least, odd)
    return least if least <= LARGEST_DENOMINATOR else 1


def is_binary(fraction: Fraction) -> bool:
    """Whether a floating-point number of enough bits holds it.

    >>> is_binary(Fraction(3, 4)), is_binary(Fraction(1, 3))
    (True, False)
    """
    return fraction.denominator & (fraction.denominator - 1) == 0


def snapped_scale(
    numerics: Numerics, form: Form, factor: Tensor, shift: Tensor | None, scale: Fraction, bits: int | None = None,
    axis: int | None = None, rounds: bool = False, is_whole_factor: bool = False,
) -> tuple[Scale, Form]:  # fmt: skip
    """A signal's numbers times `factor` plus `shift`, placed as those of a `Normalisation`; the result has this scale.

    `bits` are those of a factor of the train; None: those of a weight. `rounds` as for `snapped_map`. A factor of few bits,
    a whole number times a power of two, may stay as it is.
    """
    shift = shift if shift is not None and bool(shift.any()) else None
    if isinstance(numerics, Stretch):
        numerics = numerics.of_scale(scale)
    if is_whole_factor:
        coarse, exponent = factor, coarsest(factor, binade(largest(factor)) - EXACT_BITS)
    else:
        coarse, exponent = snapped(numerics, factor, bits, form.exponent or 0)
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
    """
    steps = [float(abs(b - a)) for a, b in itertools.pairwise([Fraction(0), *thresholds]) if a != b]
    grid = binade(min(steps, default=1.0)) - (THRESHOLD_BITS if exponent is None else numerics.threshold_bits)
    if isinstance(numerics, Stretch):  # what lies on no finer grid needs none
        grid = max(numerics.grid, min(grid, *map(_binary_exponent, thresholds)))
    grid = grid if exponent is None else min(grid, exponent)
    if not numerics.is_exact:
        return list(map(float, thresholds)), grid
    return [math.ldexp(round(threshold / Fraction(2) ** grid), grid) for threshold in thresholds], grid


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
