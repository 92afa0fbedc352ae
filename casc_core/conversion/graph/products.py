"""The node of a product of two signals: a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from casc_core.conversion.graph.node import Node, SignalNode, Snapped, Snapping
from casc_core.conversion.graph.signals import as_train
from casc_core.conversion.grids import Form, Reach
from casc_core.engine.ops import Multiply


@dataclass(frozen=True, eq=False, repr=False)
class Product(SignalNode):
    """A signal times another, entry by entry; a train, whatever is in the drives of the two."""

    a: SignalNode
    b: SignalNode
    name: str

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_whole(self) -> bool:
        return self.a.is_whole and self.b.is_whole

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return Reach(of(self.a).total * of(self.b).total)

    def snap(self, snapping: Snapping) -> Snapped:
        (a, one), (b, other) = (as_train(snapping, each) for each in (self.a, self.b))
        assert one.exponent is not None
        assert other.exponent is not None
        exponent = one.exponent + other.exponent
        # Of totals over all wake steps, each of which is that many times a value.
        form = Form(one.scale * other.scale / snapping.levels, exponent, is_exact=one.is_exact and other.is_exact)
        return Snapped(snapping.call(Multiply(name=self.name, exponent=exponent), a, b), form)

    def details(self) -> str:
        return repr(self.name)
