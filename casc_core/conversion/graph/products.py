"""The node of a product of two signals: a gate, or attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from casc_core.conversion.graph.node import Node, SignalNode, Snapped, Snapping
from casc_core.conversion.graph.signals import as_train
from casc_core.conversion.grids import EXPECTED_TERMS, Form, Reach, Stretch
from casc_core.engine.ops import Multiply
from casc_core.engine.products.contraction import ELEMENTWISE, Contraction


@dataclass(frozen=True, eq=False, repr=False)
class Product(SignalNode):
    """A signal times another, entry by entry or as matrices; a train, whatever is in the drives of the two.

    Attributes:
        name: that errors give it.
        levels: that the network was trained with, over as many wake steps.
        equation: that of the engine's `Contraction`.
    """

    a: SignalNode
    b: SignalNode
    name: str
    levels: int
    equation: str = ELEMENTWISE

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_whole(self) -> bool:
        return self.a.is_whole and self.b.is_whole

    @cached_property
    def is_fine(self) -> bool:
        return any(node.is_fine or node.is_driven for node in (self.a, self.b))

    @cached_property
    def is_running(self) -> bool:
        return self.is_fine

    @cached_property
    def is_driven(self) -> bool:
        return False

    @cached_property
    def worth(self) -> Fraction:
        # Of totals over all wake steps, each of which is that many times a value.
        return self.a.worth * self.b.worth / self.levels

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        a, b = (of(each).maximum() for each in (self.a, self.b))
        # A difference of two products is as large as both.
        summed, unheld = a.is_summed or b.is_summed, a.is_unheld or b.is_unheld
        product = Reach(2 * a.train * b.train, is_summed=summed, is_unheld=unheld)
        if not Contraction(self.equation).is_summed:
            return product
        # There is room for many terms once; in the further sums that attention takes they are expected to be few.
        return product.times(EXPECTED_TERMS) if summed else product.summed(None)

    def snap(self, snapping: Snapping) -> Snapped:
        (a, one), (b, other) = (as_train(snapping, each) for each in (self.a, self.b))
        assert one.exponent is not None
        assert other.exponent is not None
        exponent, scale = one.exponent + other.exponent, one.scale * other.scale / self.levels
        numerics, rounds = snapping.numerics, snapping.rounds(self)
        if not rounds and numerics.is_exact:
            self._require_room(snapping, exponent, scale)
        if rounds and isinstance(numerics, Stretch):
            exponent = numerics.of_scale(scale).grid
        arriving = [one.exponent, other.exponent] if rounds else None
        op = Multiply(name=self.name, exponent=exponent, arriving=arriving, equation=self.equation)
        form = Form(scale, exponent, is_exact=one.is_exact and other.is_exact and not rounds)
        return Snapped(snapping.call(op, a, b), form)

    def _require_room(self, snapping: Snapping, exponent: int, scale: Fraction) -> None:
        """Refuse, when it is converted, a product of which no type holds a single term."""
        most = snapping.reach_of(self).train * self.levels / abs(float(scale))
        snapping.numerics.dtype(most, exponent, self.name)

    def details(self) -> str:
        return repr(self.name) + ("" if self.equation == ELEMENTWISE else f" {self.equation}")
