"""The node of an activation: a population of neurons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from casc_core.conversion.graph.factors import (
    Normalisation,
    Rescaled,
    as_map,
    as_normalisation,
    map_before,
    positive,
    without_factors,
)
from casc_core.conversion.graph.map_node import MapNode
from casc_core.conversion.graph.node import ComparingNode, Folding, Node, SignalNode, Snapped, Snapping
from casc_core.conversion.grids import LARGEST_DENOMINATOR, Form, Reach, Stretch, common_denominator, is_binary
from casc_core.conversion.snapping import EXACT_BITS, grid_threshold, half_step, potential_grid
from casc_core.engine.ops import Fire
from casc_core.numerics import THRESHOLD_BITS


@dataclass(frozen=True, eq=False, repr=False)
class Population(ComparingNode):
    """Neurons that read `x`; their spikes are worth the threshold each, or 1 where each channel has its own.

    Attributes:
        threshold: a number; or float64 `[channels]`, one for each channel.
        rounds: to the nearest level instead of down.
        divided: `x` over the thresholds, where a map or a normalisation can take them in. What has been rounded to a grid
            already is read from it; what has not meets the thresholds as they are.
        compared: thresholds `[channels]` that `x` meets in their place, where factors have been taken out of it.
    """

    x: SignalNode
    threshold: float | Tensor
    rounds: bool = False
    divided: SignalNode | None = None
    compared: Tensor | None = None

    def check(self) -> None:
        super().check()
        before = map_before(self.x)
        if before is None or not isinstance(self.threshold, Tensor):
            return
        if len(before.weight) != len(self.threshold):
            raise self.refuse(f"it is for {len(self.threshold)} channels, and what it reads has {len(before.weight)}")

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(1) if isinstance(self.threshold, Tensor) else Fraction(self.threshold)

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        threshold = float(torch.as_tensor(self.threshold if self.compared is None else self.compared).max())
        # A divisor that only a run knows multiplies the threshold, as it does sums.
        received = of(self.x).worth_less(odd_numerator(self.x))
        whole = replace(received, train=received.train + threshold)
        if self.divided is None:
            return whole
        shared = of(self.divided)
        return whole.joined(replace(shared, train=shared.train + 1.0))

    def compared_with(self, x: Node) -> float:
        if x is self.divided:
            return 1.0
        return float(torch.as_tensor(self.threshold if self.compared is None else self.compared).max())

    def fold(self, folding: Folding) -> Population:
        if not isinstance(self.threshold, Tensor):
            return self
        is_short = bool((self.threshold * 2.0**THRESHOLD_BITS % 1 == 0).all())
        if is_short or (as_map(self.x) is None and as_normalisation(self.x) is None):
            return self
        nothing = torch.zeros_like(self.threshold)
        share = Normalisation(self.x, 1.0 / self.threshold, nothing, nothing, place=self.place)
        return replace(self, divided=share.folded())

    def snap(self, snapping: Snapping) -> Snapped:
        if self.compared is not None:
            return self._fire(snapping, self.x, self.compared)
        x = unrounded(snapping, self.x)
        if self.divided is not None and not snapping.of(x).form.is_exact:
            x = unrounded(snapping, self.divided)
            return self._fire(snapping, x, 1.0)
        return self._fire(snapping, x, self.threshold)

    def _fire(self, snapping: Snapping, x: SignalNode, threshold: float | Tensor) -> Snapped:
        x = positive(snapping, x, self)
        if isinstance(threshold, Tensor):
            return self._fire_by_channel(snapping, x, threshold)
        x = on_binary_scale(snapping, x, Fraction(threshold), self)
        form, numerics = snapping.of(x).form, snapping.numerics
        ratio = Fraction(threshold) / form.scale
        numerics = numerics.of_scale(form.scale) if isinstance(numerics, Stretch) else numerics
        arriving = potential_grid(numerics, form)
        scaled, exponent = grid_threshold(numerics, ratio, arriving, form.is_exact, self.rounds)
        self.require_threshold(scaled, float(threshold), math.ldexp(form.factor, exponent))
        charge = half_step(numerics, scaled, exponent) if self.rounds else None
        ref = snapping.call(Fire(name=self.name, threshold=scaled, exponent=exponent, charge=charge), x)
        return Snapped(ref, Form(self.worth, exponent=0, is_exact=True))

    def _fire_by_channel(self, snapping: Snapping, x: SignalNode, thresholds: Tensor) -> Snapped:
        x = on_binary_scale(snapping, x, Fraction(1), self)
        form, numerics = snapping.of(x).form, snapping.numerics
        each = thresholds / form.factor
        numerics = numerics.of_scale(form.scale) if isinstance(numerics, Stretch) else numerics
        arriving = potential_grid(numerics, form)
        grids = [grid_threshold(numerics, float(one), arriving, form.is_exact, self.rounds)[1] for one in each]
        each = numerics.snap(each, min(grids))
        self.require_threshold(float(each.min()), float(thresholds.min()), math.ldexp(form.factor, min(grids)))
        half = numerics.snap(each / 2, min(grids)) if self.rounds else None
        op = Fire(name=self.name, threshold=float(each.max()), exponent=min(grids), charge=half, thresholds=each)
        return Snapped(snapping.call(op, x), Form(self.worth, exponent=0, is_exact=True))


def on_binary_scale(snapping: Snapping, x: SignalNode, threshold: Fraction, reader: Node) -> SignalNode:
    """`x` on a scale in which the threshold is a binary fraction, where a whole factor does that, or nothing was
    rounded.

    Of spikes that are worth 2/9 it takes 27/8 to reach 3/4; of those that are worth 3/4 it takes 8/3 to reach 2, which
    no binary fraction is, so they are counted in units of 1.
    """
    form = snapping.of(x).form
    share, numerics = threshold / form.scale, snapping.numerics
    common = Fraction(1, common_denominator([form.scale]))
    fine = isinstance(numerics, Stretch) and x.is_fine
    if fine and odd_numerator(x) == 1:
        return x  # no factor of few bits does it, and its grid is fine enough for the threshold as it is
    is_short = share.denominator <= LARGEST_DENOMINATOR and not isinstance(without_factors(x)[0], MapNode)
    if not (form.is_exact or is_short) or is_binary(share):
        return x
    return Rescaled(x, common, EXACT_BITS, is_whole_factor=fine, place=reader.place)


def odd_numerator(x: SignalNode) -> int:
    """The whole number of few bits with which `on_binary_scale` may multiply the numbers of `x`, else 1."""
    numerator = abs(x.worth.numerator)
    odd = numerator // (numerator & -numerator)
    return odd if x.is_fine and odd <= LARGEST_DENOMINATOR else 1


def unrounded(snapping: Snapping, x: SignalNode) -> SignalNode:
    """`x`, its factors of each channel in all their bits where nothing else has been rounded on its way."""
    normalisation = as_normalisation(x)
    if normalisation is None or not snapping.of(normalisation.x).form.is_exact or snapping.of(x).form.is_exact:
        return x
    return replace(normalisation, bits=EXACT_BITS)
