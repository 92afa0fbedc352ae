"""Sums, means and maxima over dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.batching.places import Samples
from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.ops.declared import GRIDS, Flag, OneOf, OrNone, Positive, settings
from casc_core.engine.ops.op import Op, entries, entries_at_once, room_for_drive
from casc_core.engine.products.exact_sums import whole_sums
from casc_core.engine.products.total_product import TotalProduct
from casc_core.engine.recording.provenance import Connection, Provenance, carried
from casc_core.engine.run import Run
from casc_core.engine.running import running
from casc_core.engine.signal import Signal, inverse, memory_order
from casc_core.errors import InputError
from casc_core.numerics import whole_type


def dims_of(shape: torch.Size, dim: int | Sequence[int] | None) -> tuple[int, ...]:
    """`dim` as a tuple of dimensions counted from the end; None: all."""
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    return tuple(d - len(shape) if d >= 0 else d for d in dims)


class Sum(Op):
    """Sum or mean over dimensions; a mean's count becomes the divisor, unless it is rounded to a grid."""

    SETTINGS = settings(mean=Flag(), grids=GRIDS)
    connection = Connection.SUMS

    def forward(
        self, run: Run, signal: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Signal:
        dims = dims_of(signal.shape, dim)
        signal = signal.with_uniform_divisor(dims)
        size = math.prod(signal.shape[d] for d in dims)
        divisor = signal.divisor
        if divisor is not None and divisor.dim() > 0:
            divisor = divisor.amax(dims, keepdim=keepdim)
        if self.settings["grids"] is not None:
            counts = torch.tensor(float(size), dtype=torch.float64, device=signal.device)
            mean = rounded_mean(run, signal, lambda x: x.sum(dims, keepdim=keepdim), counts, self.settings["grids"])
            return replace(mean, divisor=divisor)
        if self.settings["mean"]:
            count = torch.tensor(float(size), dtype=torch.float64, device=signal.device)
            divisor = count if divisor is None else divisor * count
        drive, reach = signal.drive, signal.bound * size * run.peak
        return Signal(
            _summed(signal, dims, keepdim, reach),
            None
            if drive is None
            else whole_sums(
                run.numerics, drive, lambda x: x.sum(dims, keepdim=keepdim), by_row=-len(signal.shape) not in dims
            ),
            divisor,
            signal.bound * size,
        )

    def provenance(self, run: Run, result: Signal, signal: Provenance, *args: Any, **kwargs: Any) -> Provenance:
        counting = Sum(self.settings["mean"])  # spikes are counted as they are
        summed: Provenance = super(Sum, counting).provenance(run, result, signal, *args, **kwargs)
        return summed.of_all([signal])

    def follow(
        self, follower: Follower, signal: Abstract, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Abstract:
        train = signal.train or Train()
        shape, samples = follower.reduced(signal, dims_of(signal.shape, dim), keepdim)
        return follower.signal(shape, samples, train.steps, 8, train.real)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        by_row = given.shape[:1] == read.shape[:1]
        return max(entries(each) for each in signals) + room_for_drive(follower, read, given, by_row=by_row)


def rounded_mean(
    run: Run, signal: Signal, sums: Callable[[Tensor], Tensor], counts: Tensor, grids: Sequence[int]
) -> Signal:
    """Means, taken of totals and rounded to a grid: `sums` of entries over `counts`; a divisor stays beside them.

    Args:
        sums: of a tensor of the signal's shape, or of several, one behind another along a further dimension in front.
        counts: by entry of the result. grids: as `GRIDS`.
    """
    arriving, exponent = grids
    run.sum_dtype(run.total, signal.bound, 0.0, arriving, "a mean")

    def means(totals: Tensor) -> Tensor:
        return whole_sums(run.numerics, totals, sums, by_row=True) / counts

    def rounded(totals: Tensor) -> Tensor:
        return run.numerics.snap(means(totals), exponent)

    size = sums(torch.empty(signal.shape, device="meta")).shape
    drive = None if signal.drive is None else means(signal.drive.unsqueeze(0))[0]
    bound = signal.bound + math.ldexp(1.0, exponent)
    return Signal(TotalProduct(signal, rounded, size), drive, signal.divisor, bound)


def _summed(signal: Signal, dims: tuple[int, ...], keepdim: bool, reach: float) -> Tensor:
    """Sum of every step of a train over `dims`, in a type that holds numbers up to `reach`."""
    lazy = signal.lazy_train
    if not isinstance(lazy, Tensor) and whole_type(reach) == torch.int32:
        summed = lazy.summed(dims)
        if summed is not None:
            for dim in sorted(dims) if keepdim else ():
                summed = summed.unsqueeze(dim)
            return summed
    train = signal.train
    kind = torch.float64 if train.dtype.is_floating_point else whole_type(reach)
    spikes = kind == torch.int32 and train.dtype == torch.int8
    order = memory_order(train)
    if spikes and order is not None and kernels.ready(train):
        # In memory order, where the dimensions to sum over are neighbours, they are one.
        places = sorted(order.index(train.dim() + dim) for dim in dims)
        if places == list(range(places[0], places[-1] + 1)):
            result = kernels.sum_middle(train.permute(order).flatten(places[0], places[-1]), places[0])
            for place in places:
                result = result.unsqueeze(place)
            result = result.permute(inverse(order))
            return result if keepdim else result.squeeze(dims)
    return train.sum(dims, keepdim=keepdim, dtype=kind)


class Max(Op):
    """Maximum over dimensions."""

    takes_fills = True

    def forward(
        self, run: Run, signal: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Signal:
        dims = dims_of(signal.shape, dim)
        return running_maximum(run, signal.with_uniform_divisor(dims), lambda x: x.amax(dims, keepdim=keepdim))

    def follow(
        self, follower: Follower, signal: Abstract, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Abstract:
        return follow_maximum(follower, signal, *follower.reduced(signal, dims_of(signal.shape, dim), keepdim))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return room_for_maximum(signals)


def running_maximum(
    run: Run,
    signal: Signal,
    pool: Callable[[Tensor], Tensor],
    of_spikes: Callable[[Tensor, float], Tensor | None] | None = None,
) -> Signal:
    """A maximum as a running difference: `pool(S_t) - pool(S_{t-1})`, S the running total of the signal. Exact.

    Args:
        pool: takes maxima of a tensor of the signal's shape; along what it reduces, the divisor is uniform.
        of_spikes: the differences at once, of a train of spikes whose totals int16 holds, and the magnitude that these
            reach; None where it cannot.
    """
    divisor, drive = signal.divisor, signal.drive
    if divisor is not None and divisor.dim() > 0:
        divisor = pool(divisor.expand(signal.shape))
    spikes = signal.train.dtype == torch.int8 and drive is None
    reach = signal.bound * run.total
    whole = drive is None and not signal.train.dtype.is_floating_point
    kind = whole_type(reach) if whole else torch.float64
    if spikes:
        kind = next((kind for kind in (torch.int8, torch.int16) if reach <= torch.iinfo(kind).max), kind)
    bound = signal.bound + finite_reach(drive)
    if spikes and signal.steps == 1:  # of nothing, the largest is nothing
        return Signal(pool(signal.train[0]).unsqueeze(0), None, divisor, bound)
    if spikes and of_spikes is not None and not run.warm_up and reach <= torch.iinfo(torch.int16).max:
        differences = of_spikes(signal.train, reach)
        if differences is not None:
            return Signal(differences, None, divisor, bound)
    # A maximum moves by no more than what arrives moves its entries: a difference fits the type of the train.
    result = running(run, pool, [signal], [kind], bound, divisor, torch.int8 if spikes else None)
    train = result.train
    if train.dtype.is_floating_point and not bool(torch.isfinite(train).all()):
        raise InputError("a maximum over positions that are all masked: every text needs at least one real token")
    return result


def follow_maximum(follower: Follower, signal: Abstract, shape: Sequence[int], samples: Samples) -> Abstract:
    """What is known of a running maximum of this shape."""
    train = signal.train or Train()
    steps = max(train.steps, follower.awake if train.real else 0)
    return follower.signal(shape, samples, steps, 8 if train.real else train.unit)


def room_for_maximum(signals: Sequence[Abstract]) -> int:
    """Bytes that a running maximum takes: the total so far, and each step of the result before they are put together."""
    return max(16 * entries_at_once(each) for each in signals) + 3 * max(2 * entries(signals[-1]), signals[-1].nbytes)


def finite_reach(drive: Tensor | None) -> float:
    """Largest magnitude of a drive, but for minus infinities."""
    finite = None if drive is None else drive[torch.isfinite(drive)]
    return float(finite.abs().max()) if finite is not None and finite.numel() else 0.0


class MaskedFill(Op):
    """`masked_fill` with a constant: zero, or on the way to a maximum minus infinity.

    Args:
        below: what stands for minus infinity is the number `-below`, in the signal's numbers, which every other entry must
            exceed; None: minus infinity itself.
    """

    SETTINGS = settings(value=OneOf((0.0, "-inf")), below=OrNone(Positive()))
    takes_fills = True

    def __init__(self, value: float | str, below: float | None = None) -> None:
        super().__init__("-inf" if value == -math.inf else value, below)  # JSON has no infinity

    def forward(self, run: Run, signal: Signal, mask: Tensor) -> Signal:
        value = float(self.settings["value"])
        filled = _without(mask, signal)
        if value == 0.0:
            return filled
        below = self.settings["below"]
        reach = run.total * (filled.bound + finite_reach(filled.drive)) / sum(run.wake_weights())
        if below is not None and not reach < below:
            raise InputError(
                f"masked_fill() with a finite number: other entries may reach {-reach:.3g} and so lie below it; fill with "
                "float('-inf')"
            )
        drive = filled.drive
        if drive is None:
            drive = torch.zeros(signal.shape, dtype=torch.float64, device=mask.device)
        scaled = torch.tensor(value, dtype=torch.float64, device=mask.device)
        if signal.divisor is not None:
            scaled = scaled * signal.divisor
        return replace(filled, lazy_drive=torch.where(mask.expand(signal.shape), scaled, drive))

    def provenance(self, run: Run, result: Signal, signal: Provenance, mask: Tensor) -> Provenance:
        moved: Provenance = carried(Connection.MOVES, partial(_without, mask), result, run.peak, (signal,), {})
        return moved

    def follow(self, follower: Follower, signal: Abstract, mask: Abstract | Tensor) -> Abstract:
        shape, samples = follower.together(signal, mask)
        if shape != signal.shape:
            raise follower.unprovable("has a mask of more entries than there are to fill")
        train = signal.train or Train()
        return follower.signal(
            shape, samples, train.steps, train.unit, train.real or float(self.settings["value"]) != 0.0
        )


def _without(mask: Tensor, signal: Signal) -> Signal:
    """The signal, zero where the mask is set."""
    return signal.map(lambda x: x.masked_fill(mask, 0))
