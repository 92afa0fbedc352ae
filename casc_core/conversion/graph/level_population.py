"""The node of an activation with a threshold for each of its levels: a rounded sigmoid, tanh and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch

from casc_core.conversion.graph.factors import positive
from casc_core.conversion.graph.node import ComparingNode, Node, SignalNode, Snapped, Snapping
from casc_core.conversion.graph.population import odd_numerator, on_binary_scale, unrounded
from casc_core.conversion.grids import Form, Reach, Stretch
from casc_core.conversion.snapping import level_thresholds, potential_grid
from casc_core.engine.ops import FireByLevel


@dataclass(frozen=True, eq=False, repr=False)
class LevelPopulation(ComparingNode):
    """Neurons that read `x` and count the thresholds that the sum of it over the wake steps reaches.

    Attributes:
        thresholds: of the levels above the lowest, ascending: what `x` times the number of wake steps is compared with.
        lowest: the least level, 0 or below.
        spike: what a spike is worth.
    """

    x: SignalNode
    thresholds: Sequence[Fraction]
    lowest: int
    spike: Fraction = Fraction(1)

    @cached_property
    def worth(self) -> Fraction:
        return self.spike

    def compared_with(self, x: Node) -> float:
        return float(max(map(abs, self.thresholds))) / max(-self.lowest, self.lowest + len(self.thresholds))

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        # A potential is a sum less a threshold; a divisor that only a run knows multiplies that as it does sums.
        received = of(self.x).worth_less(odd_numerator(self.x))
        return replace(received, train=received.train + 2 * self.compared_with(self.x))

    def snap(self, snapping: Snapping) -> Snapped:
        x = positive(snapping, unrounded(snapping, self.x), self)
        x = on_binary_scale(snapping, x, self.spike, self)
        form, numerics = snapping.of(x).form, snapping.numerics
        numerics = numerics.of_scale(form.scale) if isinstance(numerics, Stretch) else numerics
        each = [threshold / form.scale for threshold in self.thresholds]
        values, exponent = level_thresholds(numerics, each, potential_grid(numerics, form))
        by_level = torch.tensor(values, dtype=torch.float64)
        op = FireByLevel(name=self.name, lowest=self.lowest, exponent=exponent, by_level=by_level)
        return Snapped(snapping.call(op, x), Form(scale=self.spike, exponent=0, is_exact=True))
