"""Nodes of what passes signals on, joins them, or takes sums and maxima of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from casc_core.conversion.graph.factors import Normalisation, as_normalisation, common_scale, positive
from casc_core.conversion.graph.inputs import AttributeOf, FunctionCall
from casc_core.conversion.graph.node import (
    Folding,
    InputNode,
    Node,
    PartsNode,
    SignalNode,
    Snapped,
    Snapping,
    SpikingNode,
)
from casc_core.conversion.grids import LARGEST_DENOMINATOR, Form, Reach, Stretch, common_denominator, joint_form
from casc_core.engine.conditions import expect
from casc_core.engine.functions import name_of
from casc_core.engine.leaves import leaves
from casc_core.engine.ops import Add, DividedByInput, Join, MaskedFill, Op, Round
from casc_core.engine.program import Ref


def _first_spiking(args: Any) -> SpikingNode:
    return next(leaf for leaf in leaves(args) if isinstance(leaf, SpikingNode))


@dataclass(frozen=True, eq=False, repr=False)
class Applied(SignalNode):
    """An operation of the engine that needs no grid: its result is on that of the first spiking tensor it reads.

    Attributes:
        op: called with `args` and `kwargs`, among which nodes stand for their values.
        scale: what its numbers are worth, times what those that it reads are: a mean of four, computed as a sum, a quarter.
        terms: of how many entries it takes sums; None: of as many as the inputs decide.
        divides: it gives its result a divisor.
    """

    op: Op
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    scale: Fraction = Fraction(1)
    terms: int | None = 1
    divides: bool = False

    @property
    def takes_fills(self) -> bool:
        return self.op.takes_fills

    @cached_property
    def is_divided(self) -> bool:
        return self.divides or any(node.is_divided for node in self.sources)

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        # A divisor is carried beside the numbers, which pools of unequal windows multiply.
        if self.is_running:
            return super().reach(of).on_grid()
        unknown = self.terms is None or (self.divides and not isinstance(self.op, DividedByInput))
        return super().reach(of).summed(None if unknown else self.terms).worth(self.scale)

    @cached_property
    def worth(self) -> Fraction:
        return _first_spiking(self.args).worth * self.scale

    @cached_property
    def is_running(self) -> bool:
        return self.divides and "grids" in self.op.settings and any(node.is_fine for node in self.sources)

    def snap(self, snapping: Snapping) -> Snapped:
        form, numerics = snapping.of(_first_spiking(self.args)).form, snapping.numerics
        if snapping.rounds(self) and isinstance(numerics, Stretch) and form.exponent is not None:
            exponent = numerics.of_scale(form.scale).grid
            if isinstance(self.op, DividedByInput):  # what is divided by whole numbers is no larger for it
                exponent = min(exponent, form.exponent)
            op = type(self.op)(**{**self.op.settings, "grids": [form.exponent, exponent]})
            return Snapped(
                snapping.call(op, *self.args, **self.kwargs), replace(form, exponent=exponent, is_exact=False)
            )
        form = replace(form, scale=form.scale * self.scale).summed(self.terms)
        return Snapped(snapping.call(self.op, *self.args, **self.kwargs), form)

    def details(self) -> str:
        return str(self.op.settings.get("function") or self.op.kind)


@dataclass(frozen=True, eq=False, repr=False)
class Split(PartsNode):
    """An operation that gives parts of a signal."""

    op: Op
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_fills(self) -> bool:
        return self.op.takes_fills

    def snap(self, snapping: Snapping) -> Snapped:
        form = snapping.of(_first_spiking(self.args)).form
        return Snapped(snapping.call(self.op, *self.args, **self.kwargs), form)

    def details(self) -> str:
        return str(self.op.settings.get("function") or self.op.kind)


@dataclass(frozen=True, eq=False, repr=False)
class Counted(PartsNode):
    """Parts of which the trace counted how many they are."""

    x: PartsNode
    count: int | None
    line: str

    @property
    def takes_fills(self) -> bool:
        return True

    def snap(self, snapping: Snapping) -> Snapped:
        return snapping.of(self.x)


def must_be_rescaled(together: Sequence[SpikingNode]) -> bool:
    """Whether signals are brought to one scale by factors of many bits."""
    scales = {node.worth for node in together}
    return len(scales) > 1 and any(
        max(abs(scale.numerator), scale.denominator) > LARGEST_DENOMINATOR for scale in scales
    )


def _common_worth(together: Sequence[SpikingNode]) -> Fraction:
    """What numbers of signals are worth once they have been brought to one scale, as by `common_scale`."""
    scales = {node.worth for node in together}
    return scales.pop() if len(scales) == 1 else Fraction(1, common_denominator(scales))


@dataclass(frozen=True, eq=False, repr=False)
class Addition(SignalNode):
    """A signal plus another."""

    a: SignalNode
    b: SignalNode

    def on_grid(self, exponent: int) -> Addition:
        return replace(self, a=self.a.on_grid(exponent), b=self.b.on_grid(exponent))

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.a).plus(of(self.b))

    @cached_property
    def is_fine(self) -> bool:
        return self.a.is_fine or self.b.is_fine or must_be_rescaled((self.a, self.b))

    @cached_property
    def worth(self) -> Fraction:
        return _common_worth((self.a, self.b))

    def snap(self, snapping: Snapping) -> Snapped:
        signals = common_scale(snapping, (self.a, self.b), self)
        forms = [snapping.of(signal).form for signal in signals]
        form = joint_form(forms, sum(form.drive_reach for form in forms))
        return Snapped(snapping.call(Add(), *signals), form)


@dataclass(frozen=True, eq=False, repr=False)
class Concatenation(SignalNode):
    """Signals behind each other along a dimension, or stacked along a new one."""

    signals: tuple[SignalNode, ...]
    dim: Any
    stack: bool

    @property
    def takes_fills(self) -> bool:
        return Join.takes_fills

    @cached_property
    def is_fine(self) -> bool:
        return any(signal.is_fine for signal in self.signals) or must_be_rescaled(self.signals)

    @cached_property
    def worth(self) -> Fraction:
        return _common_worth(self.signals)

    def snap(self, snapping: Snapping) -> Snapped:
        signals = common_scale(snapping, self.signals, self)
        forms = [snapping.of(signal).form for signal in signals]
        form = joint_form(forms, max(form.drive_reach for form in forms))
        return Snapped(snapping.call(Join(stack=self.stack), signals, dim=self.dim), form)


@dataclass(frozen=True, eq=False, repr=False)
class Maximum(SignalNode):
    """A maximum over windows or dimensions: a train, whatever is in the drive of what it reads.

    Attributes:
        op: called with the signal, `args` and `kwargs`.
        dims: over this many dimensions, the last ones; None: over others.
    """

    op: Op
    x: SignalNode
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dims: int | None = None

    @property
    def takes_fills(self) -> bool:
        return self.op.takes_fills

    @cached_property
    def is_filled(self) -> bool:
        return False

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_mapped(self) -> bool:
        return self.x.is_mapped or not self.x.has_spikes  # real-valued input is put on a grid

    @cached_property
    def is_fine(self) -> bool:
        return self.x.is_fine or self.x.is_driven

    @cached_property
    def is_driven(self) -> bool:
        return False

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.x).maximum()

    def fold(self, folding: Folding) -> SignalNode:
        """The maximum before the normalisation, where that leaves the order of numbers: spikes stay spikes for longer."""
        before = as_normalisation(self.x)
        if self.dims is None or before is None or before.along(-self.dims - 1, self.dims + 2) is None:
            return self
        if not bool((before.factor > 0).all()):
            return self
        if before.axis is not None and before.rank is None:  # without a batch, dimension 1 would be among those pooled
            folding.require(self._has_batch(before.x, self.dims))
        inner = replace(self, x=before.x)
        return Normalisation(inner, before.factor, before.centre, before.offset, before.axis, place=self.place)

    def _has_batch(self, x: SignalNode, dims: int) -> InputNode:
        assert self.place is not None
        rank = AttributeOf(x, "ndim", place=self.place)
        is_it = FunctionCall("operator.eq", (rank, dims + 2), place=self.place)
        checked = name_of(expect, False)
        assert checked is not None
        return FunctionCall(checked, (True, is_it, self.place.line or "?"), place=self.place)

    def snap(self, snapping: Snapping) -> Snapped:
        x, form = as_train(snapping, positive(snapping, self.x, self))
        return Snapped(snapping.call(self.op, x, *self.args, **self.kwargs), form)

    def details(self) -> str:
        return self.op.kind


def as_train(snapping: Snapping, x: SignalNode) -> tuple[Ref | SignalNode, Form]:
    """`x` for an operation that makes a train of all that is in it, drive included; and the form of such a train."""
    form, numerics = snapping.of(x).form, snapping.numerics_of(x)
    if not isinstance(numerics, Stretch) or form.drive_exponent is None:
        return x, form.as_train()
    grid = numerics.train_grid(form)
    rounded = snapping.call(Round(exponent=grid), x)
    return rounded, replace(form, exponent=grid, drive_exponent=None).as_train()


@dataclass(frozen=True, eq=False, repr=False)
class Filled(SignalNode):
    """A signal with zeros, or with what lies below every sum, where a mask holds."""

    x: SignalNode
    mask: InputNode
    value: float

    @property
    def takes_fills(self) -> bool:
        return MaskedFill.takes_fills

    @cached_property
    def is_filled(self) -> bool:
        return self.value != 0 or self.x.is_filled

    def snap(self, snapping: Snapping) -> Snapped:
        x = positive(snapping, self.x, self)
        form = snapping.of(x).form
        if self.value == 0:
            return Snapped(snapping.call(MaskedFill(value=0.0), x, self.mask), form)
        # Any number below every sum acts as minus infinity under a maximum, which is the only place such a fill has.
        below = None if self.value == -math.inf else -self.value / form.factor
        op = MaskedFill(value=-math.inf, below=below)
        if form.drive_exponent is None:  # zeros and minus infinities are on any grid
            form = replace(form, drive_exponent=form.exponent or 0)
        return Snapped(snapping.call(op, x, self.mask), form)

    def details(self) -> str:
        return str(self.value)
