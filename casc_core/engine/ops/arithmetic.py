"""Sums of signals, and products and quotients with numbers computed from the inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.functions import check_room
from casc_core.engine.ops.declared import EXPONENT, GRIDS, NAME, OrNone, Otherwise, Positive, Several, Text, settings
from casc_core.engine.ops.op import Op, entries, entries_at_once
from casc_core.engine.ops.reduction import rounded_mean
from casc_core.engine.products.contraction import ELEMENTWISE, Contraction
from casc_core.engine.products.deferred_sum import DeferredSum, deferred
from casc_core.engine.recording.provenance import Connection, Provenance
from casc_core.engine.recording.spike_counts import by_step
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.running import running_product
from casc_core.engine.signal import Signal, add_trains, broadcast, without_repeats
from casc_core.errors import ExactnessError, InputError
from casc_core.numerics import whole_type


def _common_shape(run: Run, *shapes: torch.Size) -> torch.Size:
    """The shape to which these broadcast, if there is room for it."""
    shape = broadcast(*shapes)
    check_room("an operation entry by entry", shape.numel(), run.room + sum(each.numel() for each in shapes))
    return shape


class TimesInput(Op):
    """Multiplication by a tensor of integers computed from the inputs, such as a mask."""

    def forward(self, run: Run, signal: Signal, factor: Tensor) -> Signal:
        factor = as_integers(factor, "multiplied", signal)
        shape = _common_shape(run, signal.shape, factor.shape)
        if len(shape) > len(signal.shape):
            signal = signal.map(lambda x: x.expand(shape))
        largest = float(factor.abs().max())
        # A mask leaves the train's type; what is larger may need more room than that type was proven to have.
        train = signal.train * factor.to(torch.int8) if largest <= 1 else signal.train.double() * factor
        drive = signal.drive
        return replace(
            signal,
            lazy_train=train.reshape(signal.steps, *shape),
            lazy_drive=None if drive is None else drive * factor,
            bound=signal.bound * largest,
        )

    def provenance(self, run: Run, result: Signal, signal: Provenance, factor: Any) -> Provenance:
        return signal.scaled(result, torch.as_tensor(factor, device=result.device))

    def follow(self, follower: Follower, signal: Abstract, factor: Any) -> Abstract:
        shape, samples = follower.together(signal, factor)
        train = signal.train or Train()
        masks = isinstance(factor, Abstract) and factor.like.dtype == torch.bool
        return follower.signal(shape, samples, train.steps, train.unit if masks else 8, train.real)


class DividedByInput(Op):
    """Division by positive integers computed from the inputs, such as each text's length: carried as the divisor.

    Of totals on a fine grid, with `grids`, the quotient is rounded to a grid of its own instead.
    """

    SETTINGS = settings(grids=GRIDS)
    connection = Connection.KEEPS
    takes_fills = True

    def forward(self, run: Run, signal: Signal, divisor: Tensor) -> Signal:
        divisor = as_integers(divisor, "divided", signal)
        if not bool((divisor > 0).all()):
            raise InputError(
                f"a spiking tensor is divided by {float(divisor.min()):g}; lengths must be at least 1: leave empty texts "
                "out, or divide by lengths.clamp(min=1)"
            )
        shape = _common_shape(run, signal.shape, divisor.shape)
        if shape != signal.shape:
            signal = signal.map(lambda x: x.expand(shape))
        # Shaped like the signal from here on, so that every later rearrangement can be applied to it.
        if divisor.dim() > 0:
            divisor = divisor.reshape([1] * (len(signal.shape) - divisor.dim()) + [*divisor.shape])
        if self.settings["grids"] is not None:
            return rounded_mean(run, signal, lambda totals: totals, divisor, self.settings["grids"])
        return replace(signal, divisor=divisor if signal.divisor is None else signal.divisor * divisor)

    def follow(self, follower: Follower, signal: Abstract, divisor: Any) -> Abstract:
        shape, samples = follower.together(signal, divisor)
        train = signal.train or Train()
        return follower.signal(shape, samples, train.steps, train.unit, train.real)


NOT_INTEGERS = (
    "an input that does not hold whole numbers, such as a mask or the texts' lengths, which alone are exact there. Bring "
    "real-valued weights into a Linear layer; let a real-valued input drive neurons (a layer and an activation behind it), "
    "and multiply by what comes out of them"
)


def as_integers(value: Any, verb: str, signal: Signal) -> Tensor:
    """`value` in float64 if it is integers, else an error."""
    tensor = torch.as_tensor(value, device=signal.device).double()
    if not bool((tensor == tensor.round()).all()):
        raise InputError(f"a spiking tensor is {verb} by {NOT_INTEGERS}")
    return tensor


class Add(Op):
    """Sum of two signals of one scale."""

    connection = Connection.SUMS

    def forward(self, run: Run, a: Signal, b: Signal) -> Signal:
        a, b = a.with_common_divisor(b)
        shape = _common_shape(run, a.shape, b.shape)
        drives = [without_repeats(drive) for drive in (a.drive, b.drive) if drive is not None]
        drive = sum(drives[1:], drives[0]).expand(shape) if drives else None
        return Signal(_sum(run, a, b), drive, a.divisor, a.bound + b.bound)

    def provenance(self, run: Run, result: Signal, a: Provenance, b: Provenance) -> Provenance:
        summed: Provenance = super().provenance(run, result, a, b)
        return summed.of_all([a, b]) if a.shape == b.shape else summed

    def work(self, result: Provenance, a: Provenance, b: Provenance) -> Work | None:
        return a.one_to_one() + b.one_to_one() if result.is_current else None  # what meets currents is one

    def follow(self, follower: Follower, a: Abstract, b: Abstract) -> Abstract:
        shape, samples = follower.together(a, b)
        one, other = (each.train or Train() for each in (a, b))
        steps, real = max(one.steps, other.steps), one.real or other.real
        held = None
        if a.shape == b.shape and None in (one.held, other.held) != (None, None):
            held = sum(
                each.nbytes if each.train is None or each.train.held is None else each.train.held for each in (a, b)
            )
        return follower.signal(shape, samples, steps, 8, real, held)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        train = signals[-1].train
        if train is not None and train.held is not None:
            return 0
        return 16 * max(entries(each) for each in signals)


class Multiply(Op):
    """Product of two signals, entry by entry or summed over dimensions: what it gives are graded events, and no spikes.

    It is for the number of wake steps that the network was trained for, over which the scale of its result is. With
    `arriving`, the grids of the two where they are fine already, the product of totals is rounded to `2**exponent`; where
    only neurons read it, it is then `held` within so much for each step. `equation` is that of a `Contraction`.
    """

    SETTINGS = settings(
        name=NAME,
        exponent=EXPONENT,
        arriving=Otherwise(OrNone(Several(EXPONENT, 2, 2)), None),
        equation=Otherwise(Text(), ELEMENTWISE),
        held=Otherwise(OrNone(Positive()), None),
    )
    is_of_trained_levels = True

    def check(self) -> None:
        self.require(self.contraction.wrong is None, f"its equation is {self.contraction.wrong}")

    @cached_property
    def contraction(self) -> Contraction:
        """The product that it takes."""
        return Contraction(self.settings["equation"])

    def forward(self, run: Run, a: Signal, b: Signal) -> Signal:
        labels = self.contraction.at(a.shape, b.shape)
        check_room("a product of tensors", labels.shape.numel(), run.room + a.shape.numel() + b.shape.numel())
        try:
            exponent, name, arriving = (self.settings[each] for each in ("exponent", "name", "arriving"))
            return running_product(run, a, b, exponent, name, arriving, self.contraction, self.settings["held"])
        except ExactnessError as error:
            if self.settings["arriving"] is None and labels.terms == 1 and a.drive is None and b.drive is None:
                raise
            raise InputError(
                f"{self.settings['name']}: of inputs as large, or as many, as these so large a product might round: "
                f"{labels.terms:,} of up to {_reach(a, run):.3g} times {_reach(b, run):.3g} are summed. Scale the inputs, "
                "and the first layer's weights the other way, or take a mean in the place of a sum"
            ) from error

    def provenance(self, run: Run, result: Signal, a: Provenance, b: Provenance) -> Provenance:
        return Provenance(result, run.peak, is_current=True)

    def work(self, result: Provenance, a: Provenance, b: Provenance) -> Work:
        # Each event of either meets the totals of the other with which it is multiplied.
        products = float(result.shape.numel()) * self.contraction.at(a.shape, b.shape).terms
        work = Work(dense=products)
        for each in (a, b):
            events = by_step(each.signal.train != 0) * (products / max(1, each.shape.numel()))
            work += Work(multiplies=events, awake=products if each.is_driven else 0.0)
        return work

    def follow(self, follower: Follower, a: Abstract, b: Abstract) -> Abstract:
        labels = self.contraction.at(a.shape, b.shape)
        follower.note(self.settings["equation"])
        read = [
            replace(follower.viewed(each, partial(labels.aligned, own=own)), train=each.train)
            for each, own in ((a, labels.a), (b, labels.b))
        ]
        every = follower.signal(*follower.together(*read))
        shape, samples = follower.reduced(every, range(len(labels.result), len(labels.every)), keepdim=False)
        trains = [each.train or Train() for each in (a, b)]
        awake = follower.awake if any(train.real for train in trains) else 0
        return follower.signal(shape, samples, max(awake, *(train.steps for train in trains)), 8)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        # Totals and products so far, and the steps before they are put together.
        totals = 2 * sum(map(entries_at_once, signals[:-1]))
        limbs = 8 * sum(map(entries_at_once, signals)) if self.settings["arriving"] else 0
        return 8 * (totals + limbs + 4 * entries_at_once(signals[-1]) + entries(signals[-1]))


def _reach(signal: Signal, run: Run) -> float:
    """How large a total may be."""
    return run.total * (signal.bound + signal.drive_reach)


def _sum(run: Run, a: Signal, b: Signal) -> Tensor | DeferredSum:
    """The sum of two trains; it stays a sum of filters where one of them is."""
    if any(isinstance(each.lazy_train, DeferredSum) for each in (a, b)):
        one, other = (deferred(run.numerics, run.peak, each.lazy_train, each.bound) for each in (a, b))
        together = None if one is None or other is None else one.plus(other)
        if together is not None:
            return together
    whole = not (a.train.dtype.is_floating_point or b.train.dtype.is_floating_point)
    kind = whole_type((a.bound + b.bound) * run.peak) if whole else torch.float64
    return add_trains(a.train.to(kind), b.train.to(kind))
