"""The node of a product of two signals: a gate, or attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from casc_core.conversion.graph.node import Node, SignalNode, Snapped, Snapping
from casc_core.conversion.graph.signals import as_train
from casc_core.conversion.grids import LEAST_ROOM, PRODUCTS, Form, Reach, Stretch
from casc_core.engine.ops import Multiply
from casc_core.engine.products.contraction import ELEMENTWISE, Contraction
from casc_core.numerics import binade


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
        return self.is_running or self.is_summed

    @cached_property
    def is_running(self) -> bool:
        return any(node.is_fine or node.is_driven for node in (self.a, self.b))

    @cached_property
    def is_summed(self) -> bool:
        """Whether it sums over dimensions, of which only a run knows how large they are."""
        return Contraction(self.equation).is_summed

    @cached_property
    def is_driven(self) -> bool:
        return False

    @cached_property
    def worth(self) -> Fraction:
        # Of totals over all wake steps, each of which is that many times a value.
        return self.a.worth * self.b.worth / self.levels

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        a, b = (of(each).maximum() for each in (self.a, self.b))
        most = self._most(of)
        if self.is_summed or (self.is_running and most > PRODUCTS):
            # Of many terms, or of products, few are as large as may be; a run refuses what there is no room for.
            return Reach(PRODUCTS, is_unheld=True)
        return Reach(most, is_summed=a.is_summed or b.is_summed, is_unheld=a.is_unheld or b.is_unheld)

    def _most(self, of: Callable[[Node], Reach]) -> float:
        """How large a difference of two products may be, which is as large as both."""
        return 2 * of(self.a).total * of(self.b).total

    def snap(self, snapping: Snapping) -> Snapped:
        (a, one), (b, other) = (as_train(snapping, each) for each in (self.a, self.b))
        assert one.exponent is not None
        assert other.exponent is not None
        exponent, scale = one.exponent + other.exponent, one.scale * other.scale / self.levels
        numerics, rounds = snapping.numerics, snapping.rounds(self)
        arriving = held = None
        if rounds and isinstance(numerics, Stretch):
            arriving, held = [one.exponent, other.exponent], numerics.held_in(scale)
            exponent = numerics.of_scale(scale).grid
            if held is None:
                exponent = min(exponent, self._own_grid(snapping.reach_of(self), scale))
        elif numerics.is_exact:
            most = self._most(snapping.reach_of) * self.levels / abs(float(scale))
            numerics.dtype(most, exponent, self.name)  # refused when it is converted, if no type holds it
        op = Multiply(name=self.name, exponent=exponent, arriving=arriving, equation=self.equation, held=held)
        form = Form(scale, exponent, is_exact=one.is_exact and other.is_exact and not rounds)
        return Snapped(snapping.call(op, a, b), form)

    def _own_grid(self, reach: Reach, scale: Fraction) -> int:
        """A grid with room for its totals over the wake steps, and for neurons that read them beside others."""
        room = max(2 * (self.levels + 2) * reach.most, LEAST_ROOM)
        return binade(room / abs(float(scale))) - 52

    def details(self) -> str:
        return repr(self.name) + ("" if self.equation == ELEMENTWISE else f" {self.equation}")
