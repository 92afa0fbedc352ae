"""In which numbers signals travel, how large they may be, and how fine the grids between populations can be.

Nothing here knows of a model or of its graph; `conversion.snapping` puts numbers on the grids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from casc_core.numerics import AsTrained, binade

# Real-valued tables keep this many bits.
TABLE_BITS = 22
# Signals of several scales are brought to a common one by whole factors no larger than this.
LARGEST_DENOMINATOR = 2**12
# The network as trained leaves room for at least so many wake steps: `SpikingModel.under` may ask for other schedules.
LEAST_STEPS = 2**8
# And for neurons that are driven, so many times as much, where inputs are as large as may be (see `Stretch.of`).
MOST_DRIVEN_STEPS = 2**16
# A map that gives the logits keeps so many bits of its sums: all those of float64 numbers and of what they meet.
READOUT_BITS = 120
# Sums of unknown size are expected to stay below this many terms; only the choice of bits depends on it.
EXPECTED_TERMS = 2.0**8
# What maxima and products make of inputs before they reach neurons may be so many times as large as expected.
UNHELD = 2.0**8
# Matrix products, and products of products, are expected to be as large as this, and may be `UNHELD` times as large.
PRODUCTS = 2.0**8
# Neurons that read products may receive as much as this from elsewhere.
LEAST_ROOM = 2.0**20
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

    def held_in(self, scale: Fraction) -> float | None:
        """What a running function is held within, in numbers that are worth so much."""
        return None if self.held is None else self.held / abs(float(scale))

    def train_grid(self, form: Form) -> int:
        """The exponent of the grid of a train that is made of a signal of this form, its drive included."""
        if form.exponent is not None and not form.drive_reach:  # nothing but zeros and minus infinities
            return form.exponent
        drive = self.of_scale(form.scale).grid
        return drive if form.exponent is None else min(form.exponent, drive)

    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        return self.grid - arriving


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
