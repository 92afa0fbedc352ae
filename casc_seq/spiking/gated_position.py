"""One position of a gated recurrence in a lowered network, all steps at once: running totals, and functions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.extend import LevelThresholds, Run
from casc_core.operations import add_trains


@dataclass(frozen=True)
class Position:
    """What arrives at one position, for the samples that have it, and the neurons that it meets.

    Attributes:
        run, exponent, kind: the run, the grid of currents, and a type in which all sums are exact.
        awake: how many wake steps there have been by each step, of the type `kind`.
        arriving, drive: the input current `[steps, samples, rows]`, and what flows awake `[samples, rows]` or None.
        recurrent: the current that the hidden state brings, `[steps, samples, rows]`.
        states: the spikes of the states of the position before, `[steps, samples, hidden]`.
    """

    run: Run
    exponent: int
    kind: torch.dtype
    awake: Tensor
    arriving: Tensor
    drive: Tensor | None
    recurrent: Tensor
    states: Sequence[Tensor]

    def currents(self, rows: Any) -> Tensor:
        """What arrives at these rows of weights, of the input and of the state."""
        return add_trains(self.arriving[..., rows], self.recurrent[..., rows])

    def driven(self, rows: Any) -> Tensor | None:
        """What flows awake at these rows of weights."""
        return None if self.drive is None else self.drive[..., rows]

    def total(self, train: Tensor, drive: Tensor | None = None) -> Tensor:
        """The running total of a train, and of a drive at each wake step."""
        total = train.to(self.kind).cumsum(0)
        if drive is None:
            return total
        steps = max(len(total), len(self.awake))
        return held(total, steps) + held(self.awake.reshape(-1, *[1] * (train.dim() - 1)) * drive.to(self.kind), steps)

    def changes(self, function: Callable[..., Tensor], *totals: Tensor) -> Tensor:
        """The running difference of a function of totals, 0 where all of them are."""
        steps = max(map(len, totals))
        values = function(*(held(total, steps) for total in totals))
        return torch.cat([values[:1], values.diff(dim=0)])

    def fire(self, train: Tensor, drive: Tensor | None, values: Tensor, lowest: int) -> Tensor:
        """Spikes of a population with these thresholds, that of the level above the lowest first."""
        thresholds = LevelThresholds(values.to(train.device, self.kind), lowest)
        potential = self.run.initial_potential(None, thresholds, self.exponent, train.device)
        return self.run.fire(train, drive, thresholds, self.kind, potential)


def held(totals: Tensor, steps: int) -> Tensor:
    """Running totals over so many steps: after their last they stay what they are."""
    missing = steps - len(totals)
    if missing == 0:
        return totals
    last = totals[-1:] if len(totals) else totals.new_zeros((1, *totals.shape[1:]))
    return torch.cat([totals, last.expand(missing, *last.shape[1:])])


def begun(spikes: Tensor, begins: Tensor) -> Tensor:
    """The spikes of a state, and behind them the trains of what further samples begin with."""
    known, further = spikes.shape[1], begins.shape[1]
    if not further:
        return spikes
    steps = max(len(spikes), len(begins), 1)
    states = spikes.new_zeros((steps, known + further, spikes.shape[2]), dtype=torch.int16)
    states[: len(spikes), :known] = spikes
    states[: len(begins), known:] = begins
    return states
