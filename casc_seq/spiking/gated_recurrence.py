"""Gated recurrent layers in a lowered network: GRU and LSTM, token by token, all steps of a token at once.

Every population is a function of running totals of what arrives: a gate of its current, a state of products of two totals.
So once what arrives is silent each settles at the level that the function has of the final totals, and falls silent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from casc_core.errors import ExactnessError, InputError
from casc_core.extend import (
    EXPONENT,
    Abstract,
    Connection,
    Flag,
    Follower,
    Numbers,
    Op,
    Provenance,
    Run,
    Signal,
    Text,
    Whole,
    Work,
    settings,
    tensors,
)
from casc_core.numerics import largest
from casc_core.operations import LayerTrain, Product, TableRows, WeightCache, by_step, entries, kernels, largest_row
from casc_core.reporting.series import last_repeated, zero_padded
from casc_seq.spiking.gated_position import Position, begun
from casc_seq.spiking.level_thresholds import nearest_thresholds
from casc_seq.spiking.sequences import (
    Order,
    as_the_kernels_read,
    batch_and_length,
    by_position,
    layer_train,
    longest_train,
    passed_on,
    read_sequences,
    recurrent_samples,
    require_state,
)
from casc_seq.spiking.train_lengths import TrainLengths

# A second attempt costs as much as the first, so there is more room than the last run has needed.
_ROOM = 1.25


class GatedRecurrence(Op, abstract=True):
    """One direction of one gated layer. It gives the spikes of each of its populations, `[B, L, hidden]` as the input.

    Settings: the layer's name, levels, grid and direction. Tensors: the recurrent weights, `GATES` blocks of `hidden` rows,
    and the totals at which the level of a sigmoid and of a tanh steps. It is for the number of wake steps that the network
    was trained for.

    Called with the input current `[B, L, GATES * hidden]` (or `[L, B, ...]`), initial states, their row, and lengths `[B]`
    or None. A state is real-valued, `[cells, B, hidden]`, or None, or a signal of levels, `[B, hidden]`: what that brings
    at step t reaches position 0 at step t, as if there were a position before it.
    """

    SETTINGS = settings(name=Text(), q=Whole(1, 2**15), exponent=EXPONENT, reverse=Flag(), batch_first=Flag())
    TENSORS = tensors(
        weight=Numbers((("rows", "hidden"),), "exponent"),
        sigmoid=Numbers((("q",),), "exponent"),
        tanh=Numbers((("2 q",),), "exponent"),
    )
    is_of_trained_levels = True
    GATES: ClassVar[int]
    STATES: ClassVar[tuple[int, ...]]
    """Which of the populations go on to the next position: the hidden state first."""
    weight: Tensor
    sigmoid: Tensor
    tanh: Tensor

    @property
    def q(self) -> int:
        """Levels for each unit of a state."""
        return int(self.settings["q"])

    @property
    def hidden(self) -> int:
        """Units at each position."""
        return self.weight.shape[1]

    @property
    def blocks(self) -> list[slice]:
        """The rows of weights of each gate."""
        return [slice(start * self.hidden, (start + 1) * self.hidden) for start in range(self.GATES)]

    @property
    @abstractmethod
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The lowest and the highest level of each population, in units."""

    @cached_property
    def reach(self) -> float:
        """The largest current of one step that the state brings."""
        return largest_row(self.weight)

    @cached_property
    def product(self) -> Product:
        return Product()

    def check(self) -> None:
        rows, hidden = self.weight.shape
        self.require(rows == self.GATES * hidden, f"'weight' must have {self.GATES} rows for each unit; it has {rows}")
        for thresholds, levels in ((self.sigmoid, self.q), (self.tanh, 2 * self.q)):
            fits = len(thresholds) == levels and bool((thresholds.diff() >= 0).all())
            self.require(fits, f"its {levels} thresholds must ascend")

    @abstractmethod
    def step(self, at: Position) -> tuple[Tensor, ...]:
        """The spikes of each population at one position, `[steps, samples, hidden]`."""

    @abstractmethod
    def apart(self, opened: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """What belongs to each population, of what belongs to those that fire together, in the order in which they do:
        the gates first."""

    @property
    def spiking_reach(self) -> float:
        """The largest current of one step that comes from the layer itself, and its largest threshold for each level."""
        return self.reach + max(largest(self.sigmoid), largest(self.tanh)) / (self.q + 1)

    @property
    def products(self) -> int:
        """How many times as large as a current its product with a gate may be."""
        return 1

    def forward(
        self, run: Run, current: Signal, start: Any = None, row: int = 0, lengths: Tensor | None = None
    ) -> tuple[Signal, ...]:
        received = self.received(run, current, start, row, lengths)
        emitted = self._compiled(run, *received)
        potentials: list[Tensor | None] = [None for _ in self.ranges]
        if emitted is None:
            emitted, potentials = self._by_visits(run, *received)
        if not self.settings["batch_first"]:
            emitted = [train.transpose(1, 2) for train in emitted]
            potentials = [None if after is None else after.transpose(1, 2) for after in potentials]
        return tuple(
            Signal(train, None, None, float(highest), potential=after)
            for train, after, (_, highest) in zip(emitted, potentials, self.ranges, strict=True)
        )

    def received(
        self, run: Run, current: Signal, start: Any = None, row: int = 0, lengths: Tensor | None = None
    ) -> tuple[Signal, list[Tensor], Tensor | None]:
        """The input current, its drive on the grid; the trains of the initial states in levels, `[steps, B, hidden]` each;
        checked lengths."""
        current, lengths = read_sequences(self.settings, run, current, len(self.weight), lengths)
        batch, _ = batch_and_length(self.settings, current.shape)
        initial = self._initial(run, start, row, batch, current.device)
        return self._held(run, current), initial, lengths

    def _held(self, run: Run, current: Signal) -> Signal:
        """The current, its drive on the grid; a table's rows are, and are as large as was expected."""
        exponent, reach = self.settings["exponent"], current.bound + self.spiking_reach
        if isinstance(current.lazy_drive, TableRows):
            return current
        drive = current.drive_on_grid(run.numerics, exponent)
        return current if drive is None else replace(current, lazy_drive=run.held(drive, reach, 0.0, exponent))

    def _compiled(
        self, run: Run, current: Signal, initial: Sequence[Tensor], lengths: Tensor | None
    ) -> list[Tensor] | None:
        """The spikes by the compiled kernel, `[steps, B, L, hidden]`; None where it is not there.

        Of gates, which nothing reads behind this, only where a record is kept.
        """
        neuron, train = run.kernel_neuron, current.train
        if neuron is None or not run.numerics.is_exact or not kernels.ready(train, self.weight):
            return None
        if run.initial_potential(None, 1.0, self.settings["exponent"], train.device) is not None:
            return None
        weights = self.kept(self.weight, "gated", self.packed)
        if not weights.fits:
            return None
        self._type(run, current)
        rows = current.lazy_drive if isinstance(current.lazy_drive, TableRows) else None
        table = None if rows is None else self.kept_tables(rows.table, "double", rows.table.double)
        drive, index, train = as_the_kernels_read(current, table, self.settings["batch_first"])
        train = train.double()
        train = train if train.stride(-1) == 1 else train.contiguous()
        drive = drive if drive is None or drive.stride(-1) == 1 else drive.contiguous()
        lengths = None if lengths is None else lengths.contiguous()
        sequences = kernels.Sequences(drive, index, train, None, lengths, self.settings["reverse"])
        start = [each.contiguous() if len(each) else None for each in initial]
        recorded = run.recorder is not None
        wanted = [recorded or place in self.STATES for place in range(len(self.ranges))]
        guess = round(_ROOM * self.train_lengths.guess(neuron.most))
        emitted = kernels.gated(weights, sequences, start, wanted, neuron, guess, self._sums_reach(current))
        self.train_lengths.note(neuron.most, len(emitted[self.STATES[0]]))
        return emitted

    @abstractmethod
    def packed(self) -> kernels.GatedWeights:
        """What the kernel reads."""

    @cached_property
    def kept(self) -> WeightCache:
        """What is made of the weights, or is where they are."""
        return WeightCache()

    def nearest(self, highest: int) -> Tensor:
        """Thresholds at which products of levels are rounded to levels up to this one, where the layer is."""
        return self.kept(self.weight, highest, lambda: nearest_thresholds(highest, self.q).to(self.weight.device))

    @cached_property
    def kept_tables(self) -> WeightCache:
        """What is made of the drive's table."""
        return WeightCache()

    @cached_property
    def train_lengths(self) -> TrainLengths:
        """Steps that runs have needed: the room that the next one begins with."""
        return TrainLengths()

    def _type(self, run: Run, current: Signal) -> torch.dtype:
        """The cheapest type that holds every sum.

        Raises:
            ExactnessError, InputError: there is none.
        """
        steps, reach = self.products * (self.q + 1), current.bound + self.spiking_reach
        drive = self._largest_drive(current)
        return run.sum_dtype(steps, reach, drive, self.settings["exponent"], self.settings["name"])

    def _largest_drive(self, current: Signal) -> float:
        drive = current.lazy_drive
        if isinstance(drive, TableRows):
            return self.kept_tables(drive.table, "largest", partial(largest, drive.table))
        return current.drive_reach

    def _sums_reach(self, current: Signal) -> float:
        """The largest sum that a gate receives, and the largest threshold."""
        return (self.q + 1) * (current.bound + self.spiking_reach + self._largest_drive(current))

    def _by_visits(
        self, run: Run, current: Signal, initial: Sequence[Tensor], lengths: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Spikes of all positions, `[steps, B, L, hidden]`, of each population; and potentials, where they are recorded."""
        exponent, batch_axis = self.settings["exponent"], 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        order = Order.of(batch, length, lengths, self.settings["reverse"], current.device)
        kind = self._type(run, current)
        drive, train = current.drive, current.train
        if batch_axis == 1:
            drive, train = None if drive is None else drive.transpose(0, 1), train.transpose(1, 2)
        awake = torch.tensor(run.wake_weights(), dtype=kind, device=current.device).cumsum(0)
        visited: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in self.ranges]
        potentials: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in self.ranges]
        before = [train.new_zeros((0, 0, self.hidden), dtype=torch.int8) for _ in self.STATES]
        for position, size, known in order.visits:
            rows = order.rows[:size]
            states = [
                begun(spikes[:, :known], begins[:, rows[known:]])
                for spikes, begins in zip(before, initial, strict=True)
            ]
            peak = max(run.peak, self.q) if known < size else run.peak
            recurrent = self.product(states[0], self.weight, exponent, peak, kind)
            own = None if drive is None else drive[rows, position].to(kind)
            at = Position(run, exponent, kind, awake, train[:, rows, position].to(kind), own, recurrent, states)
            trains = self.step(at)
            before = [trains[index] for index in self.STATES]
            for train_of, each in zip(visited, trains, strict=True):
                train_of.append((each, rows, position))
            fired = run.taken_potentials()
            for of_population, each in zip(potentials, self.apart(*fired) if fired else (), strict=False):
                of_population.append((each, rows, position))
        placed = partial(by_position, shape=(batch, length, self.hidden))
        return (
            [placed(each, pad=zero_padded) for each in visited],
            [placed(each, pad=last_repeated) if each else None for each in potentials],
        )

    def _initial(self, run: Run, start: Any, row: int, batch: int, device: torch.device) -> list[Tensor]:
        """The initial states in levels, `[steps, B, hidden]` int16: what is no train is there at the first step."""
        states = []
        given = start if isinstance(start, (tuple, list)) else [start] * len(self.STATES)
        for state, index in zip(given, self.STATES, strict=True):
            name, highest = self.settings["name"], self.ranges[index][1]
            if state is None:
                states.append(torch.zeros((0, batch, self.hidden), dtype=torch.int16, device=device))
                continue
            if isinstance(state, Signal):
                require_state(state.shape, name, batch, self.hidden)
                self._require_levels(run, state, highest)
                states.append(state.train.to(torch.int16))
                continue
            if state.dim() != 3 or tuple(state.shape[1:]) != (batch, self.hidden) or state.shape[0] <= row:
                raise InputError(
                    f"{name}: expected hx of shape [cells, {batch}, {self.hidden}]; got {list(state.shape)}"
                )
            if not math.isfinite(largest(state[row])):
                raise InputError(f"{name}: the initial state must be finite")
            levels = (state[row].double().clamp(-highest, highest) * self.q + 0.5).floor()
            states.append(levels.to(torch.int16).unsqueeze(0))
        return states

    def _require_levels(self, run: Run, state: Signal, highest: int) -> None:
        """Refuse an initial state that may be no levels within `-highest..highest` units.

        Raises:
            ExactnessError: it may be something else.
        """
        most = state.bound * run.total  # of a run that is cut before all levels are counted, no more than those
        if state.lazy_drive is not None or state.divisor is not None or most > highest * self.q + 0.5:
            raise ExactnessError(
                f"{self.settings['name']}: its initial state must be spikes of at most {highest * self.q} levels; it may "
                f"reach {most:g}, be divided or real-valued. Round it before the layer, as nn.Hardtanh() does"
            )

    def follow(
        self, follower: Follower, current: Abstract, start: Any = None, row: int = 0, lengths: Any = None
    ) -> tuple[Abstract, ...]:
        given = start if isinstance(start, (tuple, list)) else [start]
        shape = (*current.shape[:2], self.hidden)
        samples = recurrent_samples(follower, current, self.settings["batch_first"], given, lengths)
        arriving = longest_train(current, *given)
        length = current.shape[1 if self.settings["batch_first"] else 0]
        levels = self.q * sum(high - low for low, high in self.ranges)
        steps = self.train_lengths.longest(follower.run, arriving, length, levels)
        return tuple(follower.signal(shape, samples, steps) for _ in self.ranges)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, *_ = (entries(each) for each in signals)
        length = signals[0].shape[1 if self.settings["batch_first"] else 0]
        spikes = max(entries(each) for each in signals[1:])
        # Of one position: currents, products and totals in the widest type; and room for the spikes of all.
        return 8 * (read + 16 * spikes // length) + len(self.ranges) * spikes

    def work(
        self, result: Sequence[Provenance], current: Provenance, start: Any = None, row: int = 0, lengths: Any = None
    ) -> Work:
        """What the recurrence itself does, at real positions alone.

        A spike that meets a total adds it, one accumulation; a graded current that meets one is multiplied.
        """
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        real = batch * length if lengths is None else int(torch.as_tensor(lengths).sum())
        share = real / (batch * length)
        given = start if isinstance(start, (tuple, list)) else [start] * len(self.STATES)
        passed = [
            self._passed_on(result[index], state, lengths) for index, state in zip(self.STATES, given, strict=True)
        ]
        spikes = by_step(passed[0]) * len(self.weight)
        reached = real if isinstance(given[0], Provenance) else real - batch
        dense = reached * self.hidden * len(self.weight) + real * 3 * self.hidden
        # What does not depend on spikes will be multiplied by the share of what is no padding.
        own = Work(accumulates=spikes, dense=dense / share) + self._products(result, passed)
        return current.one_to_one() + own

    def _passed_on(self, states: Provenance, start: Any, lengths: Tensor | None) -> Tensor:
        """Of the spikes of a state at each position, `[steps, B, L]`, those that reach another; and behind them those of
        the signal that it begins with, if it does with one."""
        counts = states.spikes_over(-1)
        counts = counts if self.settings["batch_first"] else counts.transpose(1, 2)
        passed = passed_on(counts, self.settings["reverse"], lengths)
        if not isinstance(start, Provenance):
            return passed
        begins = start.spikes_over(-1).unsqueeze(2)
        steps = max(len(passed), len(begins))
        return torch.cat([zero_padded(passed, steps), zero_padded(begins.to(passed.dtype), steps)], 2)

    @abstractmethod
    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        """Of products of two totals; `passed` are the spikes of each state that reach the next position."""


class Emitted(Op, saved_as="Emitted"):
    """One population of a gated layer: the spikes that the recurrence gives.

    Called with these, lengths `[B]` or None, and the populations whose spikes it receives.
    """

    SETTINGS = settings(name=Text(), batch_first=Flag())
    is_layer = True
    connection = Connection.NONE

    def forward(self, run: Run, signal: Signal, lengths: Tensor | None = None, *before: Signal) -> Signal:
        return signal

    def layer_train(self, result: Signal, signal: Any, lengths: Tensor | None = None, *before: Any) -> LayerTrain:
        return layer_train(self.settings, result, lengths)

    def follow(self, follower: Follower, signal: Abstract, lengths: Any = None, *before: Abstract) -> Abstract:
        return signal

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return 0
