"""Bins of steps: what maps in a row compute is computed once for several steps.

A map of currents is a dense product at every step, where a map of spikes is a sparse sum. So what goes into maps in a row
is put together first, so many steps as one event, which comes at the last of them; all in between runs in bins; and
what comes out of it is an event again that populations receive at that step. The totals are the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.ops.declared import Flag, settings
from casc_core.engine.ops.op import Op
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal, stacked
from casc_core.numerics import whole_type

_INT8 = torch.iinfo(torch.int8).max


class Bin(Op):
    """The train of a signal in bins of as many steps as the run says (`Run.steps_of_bin`).

    With `at_end`, only the readout follows: where nothing but its last value is asked for, all steps are one bin.
    """

    SETTINGS = settings(at_end=Flag())
    keeps_time = False

    def forward(self, run: Run, signal: Signal) -> Signal:
        steps = run.steps_of_bin(self.settings["at_end"])
        if steps == 1:
            return signal
        train, reach = signal.train, signal.bound * run.binned(steps).peak
        kind = train.dtype
        if not kind.is_floating_point:
            kind = torch.int8 if reach <= _INT8 else whole_type(reach)
        return replace(signal, lazy_train=in_bins(train, steps, kind), period=steps)

    def provenance(self, run: Run, result: Signal, signal: Provenance) -> Provenance:
        if result.period == 1 or signal.is_current:
            return replace(signal, signal=result)

        def spikes() -> Tensor:
            return in_bins(signal.spikes(), result.period, torch.int32)

        return Provenance(result, run.peak, summed=spikes)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train, steps = signal.train or Train(), follower.run.steps_of_bin(self.settings["at_end"])
        if steps == 1:
            return signal
        unit = train.unit if follower.run.binned(steps).peak <= _INT8 else 8
        return follower.signal(signal.shape, signal.samples, -(-train.steps // steps), unit, train.real)


class Unbin(Op):
    """A train in bins as one in steps: each event comes at the last step of its bin."""

    SETTINGS = settings()
    keeps_time = False

    def forward(self, run: Run, signal: Signal) -> Signal:
        if signal.period == 1:
            return signal
        return replace(signal, lazy_train=in_steps(signal.train, signal.period, run.last_step), period=1)

    def provenance(self, run: Run, result: Signal, signal: Provenance) -> Provenance:
        period = signal.signal.period
        if period == 1 or signal.is_current:
            return replace(signal, signal=result)

        def spikes() -> Tensor:
            return in_steps(signal.spikes(), period, run.last_step)

        return Provenance(result, run.peak, summed=spikes)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train, run = signal.train or Train(), follower.run
        steps = train.steps * run.steps_of_bin(at_end=False)
        steps = steps if run.last_step is None else min(steps, run.last_step)
        return follower.signal(signal.shape, signal.samples, steps, 8, train.real)


def in_bins(train: Tensor, steps: int, kind: torch.dtype) -> Tensor:
    """The sums, of this type, of each so many steps of a train.

    >>> in_bins(torch.tensor([1, 2, 3, 4, 5]), 2, torch.int8)
    tensor([3, 7, 5], dtype=torch.int8)
    """
    parts = [train[start : start + steps].sum(0, dtype=kind) for start in range(0, len(train), steps)]
    return stacked(parts) if parts else train.to(kind)


def in_steps(train: Tensor, steps: int, most: int | None) -> Tensor:
    """A train in bins of so many steps as one in steps, up to `most` (None: all of them).

    >>> in_steps(torch.tensor([3, 7]), 3, 5)
    tensor([0, 0, 3, 0, 0])
    """
    if not len(train):
        return train
    nothing = torch.zeros_like(train[0])
    return stacked([each for part in train for each in (*[nothing] * (steps - 1), part)][:most])
