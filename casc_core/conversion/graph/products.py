"""The node of a product of two signals: a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from casc_core.conversion.graph.node import Node, SignalNode, Snapped, Snapping, SpikingNode
from casc_core.conversion.graph.signals import as_train, scale_of
from casc_core.conversion.grids import Form, Onward, Reach
from casc_core.engine.ops import Multiply
from casc_core.numerics import binade


@dataclass(frozen=True, eq=False, repr=False)
class Product(SignalNode):
    """A signal times another, entry by entry; a train, whatever is in the drives of the two.

    Attributes:
        name: that errors give it.
        levels: that the network was trained with, over as many wake steps.
    """

    a: SignalNode
    b: SignalNode
    name: str
    levels: int

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_whole(self) -> bool:
        return self.a.is_whole and self.b.is_whole

    @property
    def worth(self) -> Fraction:
        # Of totals over all wake steps, each of which is that many times a value.
        return scale_of(self.a) * scale_of(self.b) / self.levels

    def onward(self, source: SpikingNode) -> Onward:
        other = self.b if source is self.a else self.a
        if other.is_whole:
            return Onward.scaled(scale_of(other) / self.levels)
        return Onward(1, binade(_reach_of(other)))

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        a, b = (of(each).maximum() for each in (self.a, self.b))
        # A difference of two products is as large as both.
        return Reach(2 * a.train * b.train, 0.0, False, a.is_summed or b.is_summed)

    def snap(self, snapping: Snapping) -> Snapped:
        (a, one), (b, other) = (as_train(snapping, each) for each in (self.a, self.b))
        assert one.exponent is not None
        assert other.exponent is not None
        exponent = one.exponent + other.exponent
        form = Form(one.scale * other.scale / self.levels, exponent, is_exact=one.is_exact and other.is_exact)
        return Snapped(snapping.call(Multiply(name=self.name, exponent=exponent), a, b), form)

    def details(self) -> str:
        return repr(self.name)


def _reach_of(node: Node) -> float:
    """How large the numbers of a node may be for each spike of the populations before it."""
    known: dict[Node, Reach] = {}

    def of(each: Node) -> Reach:
        if each not in known:
            known[each] = each.reach(of) if isinstance(each, SpikingNode) else Reach()
        return known[each]

    return of(node).total
