"""Nodes of factors and addends that are known, and how they fold: into a map before them, or into each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from casc_core.conversion.graph.map_node import MapNode, entries_along
from casc_core.conversion.graph.node import FILLED, Folding, Node, SignalNode, Snapped, Snapping
from casc_core.conversion.grids import Reach, Stretch, common_denominator, is_binary
from casc_core.conversion.snapping import snapped_normalisation, snapped_scale, snapped_shift
from casc_core.numerics import largest


@dataclass(frozen=True, eq=False, repr=False)
class Factor(SignalNode):
    """A signal times a number other than zero: what its numbers are worth changes, and they do not."""

    x: SignalNode
    factor: Fraction

    @property
    def takes_fills(self) -> bool:
        return True

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.x).worth(self.factor)

    @cached_property
    def worth(self) -> Fraction:
        return self.x.worth * self.factor

    def snap(self, snapping: Snapping) -> Snapped:
        x = snapping.of(self.x)
        return replace(x, form=replace(x.form, scale=x.form.scale * self.factor))

    def details(self) -> str:
        return str(self.factor)


@dataclass(frozen=True, eq=False, repr=False)
class Normalisation(SignalNode):
    """What batch normalisation, or a product with constants, makes of a signal x: `factor * (x - centre) + offset`.

    `factor`, `centre` and `offset` are float64, in the user's values. With `axis` 1 they are `[channels]` and lie along
    dimension 1, whatever follows it; with None they broadcast with x from its last dimension on, as torch does. `rank` is
    the number of dimensions that x has, if it is known. `bits` are those of its factors; None: those of a weight.
    """

    x: SignalNode
    factor: Tensor
    centre: Tensor
    offset: Tensor
    axis: int | None = 1
    rank: int | None = None
    bits: int | None = None

    @property
    def placed(self) -> tuple[list[Tensor], int | None]:
        """Its numbers, and along which axis they lie."""
        return [self.factor, self.centre, self.offset], self.axis

    @property
    def shift(self) -> Tensor:
        """What is added to `factor * x`."""
        return self.offset - self.factor * self.centre

    def check(self) -> None:
        super().check()
        _check_channels(self)

    @cached_property
    def is_fine(self) -> bool:
        return self.x.is_fine or (self.x.has_spikes and self._weighs)

    @cached_property
    def is_running(self) -> bool:
        return self.x.is_fine and self._weighs

    @cached_property
    def is_driven(self) -> bool:
        return self.x.is_driven or bool(self.shift.any())

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(1)

    @property
    def _weighs(self) -> bool:
        """Whether it changes numbers in more than their signs; behind a map, what those are worth is a factor as well."""
        worth = abs(float(self.x.worth)) if self.x.is_fine else 1.0
        return not bool((self.factor.abs() * worth == 1).all())

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.x).times(largest(self.factor), largest(self.shift)).on_grid()

    def times(self, factor: float) -> Normalisation:
        """That of this tensor multiplied by a number."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor)

    def along(self, axis: int, rank: int | None) -> list[Tensor] | None:
        """Factor, centre and offset as those of `entries_along`."""
        if None not in (rank, self.rank) and rank != self.rank:
            return None
        return entries_along((self.factor, self.centre, self.offset), self.axis, axis, rank)

    def fold(self, folding: Folding) -> SignalNode:
        return self.folded()

    def folded(self) -> SignalNode:
        """It, as part of the map or normalisation before it if that can take it in."""
        before = as_map(self.x)
        entries = None if before is None else before.by_output(*self.placed)
        if before is not None and entries is not None:
            by, less, plus = entries
            return replace(before.affine(by, plus - less * by), place=self.place)
        earlier = as_normalisation(self.x)
        if earlier is None or earlier.axis != self.axis or not _fit(earlier.factor, self.factor, self.axis):
            return self
        return replace(
            earlier,
            factor=earlier.factor * self.factor,
            offset=(earlier.offset - self.centre) * self.factor + self.offset,
            rank=earlier.rank or self.rank,
            place=self.place,
        )

    def snap(self, snapping: Snapping) -> Snapped:
        form = snapping.of(self.x).form
        op, result = snapped_normalisation(
            snapping.numerics, form, self.factor, self.shift, self.bits, self.axis, snapping.rounds(self)
        )
        return Snapped(snapping.call(op, self.x), result)

    def details(self) -> str:
        return f"{list(self.factor.shape)}" + ("" if self.axis is None else f" along {self.axis}")


@dataclass(frozen=True, eq=False, repr=False)
class Offset(SignalNode):
    """A signal plus constants, float64, which flow while awake; they broadcast with it as torch does."""

    x: SignalNode
    amount: Tensor

    @cached_property
    def is_driven(self) -> bool:
        return True

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.x).times(1.0, largest(self.amount))

    @property
    def placed(self) -> tuple[list[Tensor], int | None]:
        """Its numbers, and along which axis they lie: they broadcast."""
        return [self.amount], None

    def check(self) -> None:
        super().check()
        if self.amount.dim() > 0:
            _check_channels(self)

    def fold(self, folding: Folding) -> SignalNode:
        one = torch.ones((), dtype=torch.float64)
        before, earlier = as_map(self.x), as_normalisation(self.x)
        if before is not None and self.amount.dim() == 0:
            return replace(before.affine(one, self.amount), place=self.place)
        if before is not None and entries_along((self.amount,), None, before.axis, before.rank) is not None:
            return Normalisation(self.x, one, torch.zeros_like(one), self.amount, None, place=self.place).folded()
        if earlier is not None and (
            self.amount.dim() == 0 or (earlier.axis is None and _fit(earlier.factor, self.amount, None))
        ):
            return replace(earlier, offset=earlier.offset + self.amount, place=self.place)
        return self

    def snap(self, snapping: Snapping) -> Snapped:
        x, form = self.x, snapping.of(self.x).form
        if form.is_exact and not is_binary(1 / form.scale):
            x = Rescaled(x, Fraction(1, common_denominator([form.scale])), place=self.place)
            form = snapping.of(x).form
        one = torch.ones((), dtype=torch.float64)
        op, result = snapped_shift(snapping.numerics, form, one, self.amount * float(1 / form.scale), None)
        return Snapped(snapping.call(op, x), result)

    def details(self) -> str:
        return f"{list(self.amount.shape)}"


@dataclass(frozen=True, eq=False, repr=False)
class Zeroed(SignalNode):
    """A signal times zero."""

    x: SignalNode

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(1)

    def fold(self, folding: Folding) -> SignalNode:
        if as_map(self.x) is None:
            return self
        nothing = torch.zeros((), dtype=torch.float64)
        return Normalisation(self.x, nothing, nothing, nothing, None, place=self.place).folded()

    def snap(self, snapping: Snapping) -> Snapped:
        nothing = torch.zeros((), dtype=torch.float64)
        op, form = snapped_scale(snapping.numerics, snapping.of(self.x).form, nothing, None, Fraction(1))
        return Snapped(snapping.call(op, self.x), form)


@dataclass(frozen=True, eq=False, repr=False)
class NormalisedDrive(SignalNode):
    """A normalised signal without its factor: the train as it is, the drive times `factor` plus `shift`."""

    x: SignalNode
    factor: Tensor
    shift: Tensor
    axis: int | None

    @cached_property
    def is_driven(self) -> bool:
        return self.x.is_driven or bool(self.shift.any())

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        x = of(self.x)
        return replace(x, drive=x.times(largest(self.factor), largest(self.shift)).drive)

    def snap(self, snapping: Snapping) -> Snapped:
        x = snapping.of(self.x)
        if x.form.drive_exponent is None and not bool(self.shift.any()):
            return x
        # In the units of the train, as the drive is.
        op, form = snapped_shift(snapping.numerics, x.form, self.factor, self.shift / x.form.factor, self.axis)
        return Snapped(snapping.call(op, self.x), form)


@dataclass(frozen=True, eq=False, repr=False)
class Rescaled(SignalNode):
    """A signal with its scale changed to `scale`: its numbers times one factor, snapped to this many bits."""

    x: SignalNode
    scale: Fraction = Fraction(1)
    bits: int | None = None
    is_whole_factor: bool = False

    def snap(self, snapping: Snapping) -> Snapped:
        x = snapping.of(self.x)
        ratio = x.form.scale / self.scale
        if ratio == 1:
            return x
        if self.is_filled:
            raise self.refuse(FILLED)
        factor = torch.tensor(float(ratio), dtype=torch.float64)
        whole, numerics = self.is_whole_factor or (self.x.is_fine and ratio == -1), snapping.numerics
        rounds = isinstance(numerics, Stretch) and self.x.is_fine and not whole
        op, form = snapped_scale(
            numerics, x.form, factor, None, self.scale, self.bits, rounds=rounds, is_whole_factor=whole
        )
        return Snapped(snapping.call(op, self.x), form)


def positive(snapping: Snapping, x: SignalNode, reader: Node) -> SignalNode:
    """`x`, its numbers negated where they are worth less than nothing: what is larger in them is larger in its values."""
    scale = snapping.of(x).form.scale
    return Rescaled(x, -scale, place=reader.place) if scale < 0 else x


def common_scale(snapping: Snapping, signals: Sequence[SignalNode], reader: Node) -> list[SignalNode]:
    """The signals brought to one scale: their own if they share it, else 1, or a part of 1 that no division rounds."""
    scales = {snapping.of(signal).form.scale for signal in signals}
    if len(scales) == 1:
        return list(signals)
    common = Fraction(1, common_denominator(scales))
    return [Rescaled(signal, common, place=reader.place) for signal in signals]


def without_factors(x: Node) -> tuple[Node, list[Fraction]]:
    """The node behind the factors that `x` ends in, and those factors, the first one first.

    >>> from casc_core.conversion.graph import Argument, Encoded
    >>> node = Encoded(Argument("x"))
    >>> [str(factor) for factor in without_factors(Factor(Factor(node, Fraction(2)), Fraction(1, 3)))[1]]
    ['2', '1/3']
    """
    factors: list[Fraction] = []
    while isinstance(x, Factor):
        factors.append(x.factor)
        x = x.x
    return x, factors[::-1]


def as_map(x: Node) -> MapNode | None:
    """The map that `x`, which has been folded, is; None: it is none."""
    before, factors = without_factors(x)
    if not isinstance(before, MapNode):
        return None
    for factor in factors:
        before = before.times(float(factor))
    return before


def as_normalisation(x: Node) -> Normalisation | None:
    """The normalisation that `x`, which has been folded, is; None: it is none."""
    earlier, factors = without_factors(x)
    if not isinstance(earlier, Normalisation):
        return None
    for factor in factors:
        earlier = earlier.times(float(factor))
    return earlier


def map_before(x: Node) -> MapNode | None:
    """A map of as many outputs as the one that `x` will be once it is folded; None: it will be none.

    No weight is computed for it, so that what does not fit is reported when the model is read.
    """
    passed: list[Normalisation | Offset] = []
    while isinstance(x, (Factor, Zeroed, Normalisation, Offset)):
        if isinstance(x, (Normalisation, Offset)):
            passed.append(x)
        x = x.x
    if not isinstance(x, MapNode) or not x.stays_a_map:
        return None
    for each in passed:
        if x.by_output(*each.placed) is None:
            return None
    return x


def _check_channels(node: Normalisation | Offset) -> None:
    before = map_before(node.x)
    entries = None if before is None else before.by_output(*node.placed)
    if before is not None and entries is not None and len(entries[0]) not in (1, len(before.weight)):
        raise node.refuse(
            f"it is for {len(entries[0])} channels, and what it reads has {len(before.weight)}; make them equal"
        )


def _fit(one: Tensor, other: Tensor, axis: int | None) -> bool:
    """Whether two normalisations in a row are one; what does not fit is reported where the network runs."""
    if axis is not None:
        return len(one) == len(other)
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one.shape), reversed(other.shape), strict=False))
