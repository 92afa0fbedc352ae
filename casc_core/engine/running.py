"""Running functions of signals: `f(S_t) - f(S_{t-1})`, S the totals of what has arrived. Exact for any f.

Once the signals are silent the differences add up to f of their final totals, whatever came before: a maximum, a product.
What travels on is no spike but a graded event, a number; the next population makes spikes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from casc_core.engine.products.contraction import ENTRY_BY_ENTRY, Contraction, Labels
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal, concatenated, inverse, memory_order, running_total
from casc_core.numerics import largest, whole_type

_INT8 = torch.iinfo(torch.int8).max
# As many entries are computed at once: in small networks those of several steps.
TOGETHER = 2**16


def running(
    run: Run,
    function: Callable[..., Tensor],
    signals: Sequence[Signal],
    kinds: Sequence[torch.dtype],
    bound: float,
    divisor: Tensor | None,
    narrow: torch.dtype | None = None,
) -> Signal:
    """A function of the running totals of signals, as a train of its differences.

    Args:
        function: of one tensor `[steps, *shape]` of each signal, each step by itself; 0 where all its arguments are.
        kinds: the type in which the totals of each signal are exact, and what the function makes of them.
        bound: that of the result. divisor: its divisor.
        narrow: a smaller type that holds the differences.
    """
    wake = [] if all(signal.drive is None for signal in signals) else run.wake_weights()
    totals = [_Total(signal, kind, wake) for signal, kind in zip(signals, kinds, strict=True)]
    steps = max(len(wake), *(signal.steps for signal in signals))
    together = 1 if wake else max(1, TOGETHER // max(1, *(signal.shape.numel() for signal in signals)))
    before = function(*(total.now for total in totals))
    differences = [before[:0].to(narrow or before.dtype)]
    start = 0
    while start < steps:
        end = min(start + together, steps)
        if start == run.warm_up:
            for total in totals:
                total.begin_anew()
            before = torch.zeros_like(before)
        elif start < run.warm_up:
            end = min(end, run.warm_up)
        values = function(*(total.until(start, end) for total in totals))
        difference = values - (before if end == start + 1 else torch.cat([before, values[:-1]]))
        differences.append(difference.to(narrow or difference.dtype))
        start, before = end, values[-1:]
    return Signal(concatenated(differences[1:] or differences, 0), None, divisor, bound)


class _Total:
    """The running total of a signal.

    Attributes:
        now: `[1, *shape]`, after the last step that has been asked for. It is never written to: a function may give a view.
    """

    def __init__(self, signal: Signal, kind: torch.dtype, wake: Sequence[int]) -> None:
        self.train, self.drive, self.kind, self.wake = signal.train, signal.drive, kind, wake
        like = self.train[:1] if signal.steps else self.train.new_zeros((1, *signal.shape))
        self.now = torch.zeros_like(like, dtype=kind)

    def begin_anew(self) -> None:
        """From nothing, as before the first step."""
        self.now = torch.zeros_like(self.now)

    def until(self, start: int, end: int) -> Tensor:
        """`[end - start, *shape]`: after each of these steps, of which a driven signal is asked for one at a time."""
        arriving = self.train[start:end]
        totals = self.now
        if len(arriving) == 1:
            totals = totals + arriving.to(self.kind)
        elif len(arriving):
            order = memory_order(arriving) or tuple(range(arriving.dim()))
            sums = arriving.permute(order).cumsum(order.index(0), dtype=self.kind).permute(inverse(order))
            totals = totals + sums
        if self.drive is not None and start < len(self.wake) and self.wake[start]:
            totals = totals + (self.drive * self.wake[start]).to(self.kind)
        self.now = totals[-1:]
        missing = end - start - len(totals)
        return torch.cat([totals, self.now.expand(missing, *self.now.shape[1:])]) if missing else totals


def running_product(
    run: Run,
    a: Signal,
    b: Signal,
    exponent: int,
    name: str,
    arriving: Sequence[int] | None = None,
    contraction: Contraction = ENTRY_BY_ENTRY,
    held: float | None = None,
) -> Signal:
    """The product of two signals, by default entry by entry, their shapes broadcast: that of their running totals.

    With `A` and `B` these totals and `a_t`, `b_t` what arrives, a step's event is `a_t B_t + A_{t-1} b_t`. A value is a
    total over the number of wake steps, so the result's numbers are worth what those of `a` are worth times what those of
    `b` are, over that number.

    Args:
        exponent: the result is on the grid `2**exponent`: the sum of those of `a` and `b`, drives included; or, where the
            product of totals is rounded to it, another one.
        name: that an error gives.
        arriving: the grids of `a` and `b`, where the product is rounded; None: it is exact.
        contraction: over which dimensions it is summed.
        held: where it is rounded, within so much for each step.

    Raises:
        ExactnessError: no type holds the product. InputError: divisors differ along a dimension over which it is summed.
    """
    labels = contraction.at(a.shape, b.shape)
    a, b = (
        signal.with_uniform_divisor(tuple(own.index(label) - len(own) for label in labels.summed if label in own))
        for signal, own in ((a, labels.a), (b, labels.b))
    )
    divisor = _divisor(labels, a, b)
    if arriving:
        for signal, grid in zip((a, b), arriving, strict=True):
            run.sum_dtype(run.total, signal.bound + signal.drive_reach, 0.0, grid, name)
        unit = math.ldexp(1.0, exponent)
        most = math.inf if held is None else math.ceil(held * (run.total + 2) / unit) * unit

        def rounded(x: Tensor, y: Tensor) -> Tensor:
            product = labels.over_steps(len(x)).exact_product(x, y)
            return run.numerics.snap(product.clamp_(-most, most), exponent)

        kinds = torch.float64, torch.float64
        result = measured(run, running(run, rounded, (a, b), kinds, 0.0, divisor))
        run.numerics.dtype(result.bound * run.total, exponent, name)
        return result
    # Awake or asleep, a total is at most `run.total` times its bound; a difference is one of each factor.
    bound = 2 * run.total * math.prod(each.bound + each.drive_reach for each in (a, b)) * labels.terms
    kind = run.numerics.dtype(bound * run.total, exponent, name)
    whole = run.numerics.is_exact and all(
        each.drive is None and not each.train.dtype.is_floating_point for each in (a, b)
    )
    narrow: torch.dtype | None = None
    if whole:  # matrices are multiplied as floating-point numbers
        kind = kind if labels.summed else whole_type(bound * run.total)
        narrow = torch.int8 if bound * run.peak <= _INT8 else whole_type(bound * run.peak)

    def multiplied(x: Tensor, y: Tensor) -> Tensor:
        return labels.over_steps(len(x)).product(x, y)

    result = running(run, multiplied, (a, b), (kind, kind), bound, divisor, narrow)
    return measured(run, result) if labels.summed else result


def measured(run: Run, result: Signal) -> Signal:
    """A train with the bound that its events keep: sums of many terms are far below what the largest might be."""
    totals = running_total(result.train, result.steps)
    return replace(result, bound=max(largest(result.train) / run.peak, largest(totals) / run.total))


def _divisor(labels: Labels, a: Signal, b: Signal) -> Tensor | None:
    """That of a product, the divisors of its factors being the same along the dimensions over which it is summed."""
    divisor: Tensor | None = None
    for signal, own in ((a, labels.a), (b, labels.b)):
        if signal.divisor is None:
            continue
        each = signal.divisor
        if each.dim() > 0:
            missing = len(signal.shape) - each.dim()
            each = labels.over_result(each.reshape([1] * missing + [*each.shape]), own)
        divisor = each if divisor is None else divisor * each
    return divisor
