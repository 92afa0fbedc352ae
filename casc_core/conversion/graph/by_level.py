"""The node of a function of levels: of one population's counts, whatever the function, it is a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from casc_core.conversion.graph.factors import Factor, Offset
from casc_core.conversion.graph.level_population import LevelPopulation
from casc_core.conversion.graph.node import InputNode, Node, SignalNode, Snapped, Snapping, SpikingNode
from casc_core.conversion.graph.population import Population
from casc_core.conversion.graph.products import Product
from casc_core.conversion.graph.signals import (
    Addition,
    Applied,
    Concatenation,
    Counted,
    Filled,
    Maximum,
    Split,
)
from casc_core.conversion.grids import Form, Reach, Stretch
from casc_core.conversion.snapping import snapped_shift
from casc_core.engine.ops import Layout, LevelTable, Pick, TimesInput
from casc_core.numerics import coarsest, largest, snapped


@dataclass(frozen=True, eq=False, repr=False)
class ByLevel(SignalNode):
    """A function of the levels that `x` has, entry by entry.

    Attributes:
        x: spikes of one population, perhaps rearranged.
        lowest: level. values: of the function, float64, by level.
        unit: what a level is worth. levels: that the network was trained with.
        holds: it says whether something holds of a level, 1 or 0: in the model, its numbers are truth values.
    """

    x: SignalNode
    lowest: int
    values: Tensor
    unit: float
    levels: int
    holds: bool = False

    @cached_property
    def entries(self) -> list[Fraction]:
        """What each level's value is above that of level 0, which flows while awake."""
        values = [Fraction(value) for value in self.values.tolist()]
        return [value - values[-self.lowest] for value in values]

    @cached_property
    def at_zero(self) -> float:
        """The value of level 0."""
        return float(self.values[-self.lowest])

    @cached_property
    def whole(self) -> list[int] | None:
        """The values as levels, if they are levels all, and 0 of 0: an absolute value, a clip."""
        found = [round(Fraction(value) * self.levels / Fraction(self.unit)) for value in self.values.tolist()]
        are_levels = all(
            level * self.unit / self.levels == value for level, value in zip(found, self.values.tolist(), strict=True)
        )
        return found if are_levels and found[-self.lowest] == 0 else None

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_fine(self) -> bool:
        return self.whole is None

    @cached_property
    def is_driven(self) -> bool:
        return bool(self.at_zero)

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(self.levels) if self.whole is None else Fraction(self.unit)

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        most, steepest = 2 * max(map(abs, self.entries)), max(abs(b - a) for a, b in itertools.pairwise(self.entries))
        return Reach(float(max(most, self.levels * steepest)), abs(self.at_zero))

    def snap(self, snapping: Snapping) -> Snapped:
        numerics = snapping.numerics
        if self.whole is not None:
            form = Form(self.worth, exponent=0, is_exact=True)
            table = torch.tensor(self.whole, dtype=torch.float64)
            return Snapped(snapping.call(LevelTable(lowest=self.lowest, exponent=0, table=table), self.x), form)
        table = torch.tensor([float(entry) for entry in self.entries], dtype=torch.float64)
        if isinstance(numerics, Stretch):
            exponent = numerics.of_scale(self.worth).grid
            table = torch.tensor(
                [float(round(entry / Fraction(2) ** exponent) * Fraction(2) ** exponent) for entry in self.entries],
                dtype=torch.float64,
            )
            exponent = coarsest(table, exponent)
        else:
            table, exponent = snapped(numerics, table, None)
        form = Form(self.worth, exponent=exponent)
        ref = snapping.call(LevelTable(lowest=self.lowest, exponent=exponent, table=table), self.x)
        if not self.at_zero:
            return Snapped(ref, form)
        amount = torch.tensor(self.at_zero / float(self.worth), dtype=torch.float64)
        op, form = snapped_shift(numerics, form, torch.ones_like(amount), amount, None)
        return Snapped(snapping.call(op, ref), form)

    def details(self) -> str:
        return f"{len(self.values)} levels, up to {largest(self.values):.3g}"


@dataclass(frozen=True)
class Levels:
    """What a signal of one population's levels is worth, by level."""

    x: SignalNode
    lowest: int
    values: Tensor
    unit: float


def levels_of(x: SignalNode, levels: int) -> Levels | None:
    """The levels that `x` has: it is one population's, rearranged, times a number and plus one; None: it is not.

    Args:
        levels: that the network was trained with.
    """
    if isinstance(x, ByLevel):
        return Levels(x.x, x.lowest, x.values, x.unit)
    if isinstance(x, Population) and not isinstance(x.threshold, Tensor):
        return _of_population(x, 0, levels, x.threshold, levels)
    if isinstance(x, LevelPopulation):
        return _of_population(x, x.lowest, x.lowest + len(x.thresholds), float(x.spike), levels)
    read = _read(x)
    before = None if read is None else levels_of(read, levels)
    if read is None or before is None:
        return None
    if isinstance(x, Factor):
        return Levels(before.x, before.lowest, before.values * float(x.factor), before.unit)
    if isinstance(x, Offset):
        shifted = before.values + x.amount
        return Levels(before.x, before.lowest, shifted, before.unit) if x.amount.dim() == 0 else None
    # Entries that a rearrangement adds are zeros: of level 0, if that is worth nothing.
    if read is not before.x and bool(before.values[-before.lowest]):
        return None
    moved = _of_another(x, read, before.x)
    assert isinstance(moved, SignalNode)
    return Levels(moved, before.lowest, before.values, before.unit)


def is_boolean(x: Node) -> bool:
    """Whether the numbers of a signal are truth values in the model, of which a sum is no sum: a mask of levels.

    What follows from the inputs alone counts as one unless it is known not to be.
    """
    if isinstance(x, ByLevel):
        return x.holds
    if isinstance(x, InputNode):
        return x.numbers is None or x.numbers.dtype == torch.bool
    keeps = isinstance(x, (Split, Counted, Concatenation, Maximum, Filled, Product, Addition))
    keeps |= isinstance(x, Applied) and isinstance(x.op, (Layout, Pick, TimesInput))
    read = x.inputs if isinstance(x, Applied) and isinstance(x.op, TimesInput) else _spiking(x)
    return keeps and all(map(is_boolean, read))


def _spiking(x: Node) -> list[Node]:
    return [each for each in x.inputs if isinstance(each, SpikingNode)]


def _read(x: SpikingNode) -> SignalNode | None:
    """The signal that a factor, an addend or a rearrangement reads; None: it is something else, or reads several."""
    passes = isinstance(x, (Factor, Offset, Split, Counted)) or (
        isinstance(x, Applied) and isinstance(x.op, (Layout, Pick))
    )
    if not passes or len(x.sources) != 1:
        return None
    (source,) = x.sources
    return source if isinstance(source, SignalNode) else _read(source)


def _of_another(x: Node, read: Node, other: Node) -> Node:
    """The same rearrangement of `other` in the place of `read`."""
    if x is read:
        return other
    return x.with_inputs(lambda node: _of_another(node, read, other) if isinstance(node, SpikingNode) else node)


def _of_population(x: SignalNode, lowest: int, highest: int, spike: float, levels: int) -> Levels:
    values = torch.arange(lowest, highest + 1, dtype=torch.float64) * spike / levels
    return Levels(x, lowest, values, spike)
