"""Gated recurrent layers in a lowered network: GRU and LSTM, token by token, all steps of a token at once.

Every population is a function of running totals of what arrives: a gate of its current, a state of products of two totals.
So once what arrives is silent each settles at the level that the function has of the final totals, and falls silent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import Sequences
from casc_core.engine.ops import entries
from casc_core.engine.products.exact_sums import largest_row
from casc_core.engine.products.spike_product import Product
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.recording.spike_counts import LayerTrain, by_step
from casc_core.engine.run import LARGEST_TOTAL, SpikingRun
from casc_core.engine.signal import TableRows, add_trains
from casc_core.errors import InputError
from casc_core.extend import (
    EXPONENT,
    Abstract,
    Connection,
    Flag,
    Follower,
    LevelThresholds,
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
from casc_seq.level_thresholds import nearest_thresholds
from casc_seq.recurrence import Order, divided, recurrent_samples
from casc_seq.rows import check_lengths
from casc_seq.train_lengths import TrainLengths

# A second attempt costs as much as the first, so there is more room than the last run has needed.
_ROOM = 1.25


@dataclass(frozen=True)
class _Position:
    """What arrives at one position, for the samples that have it, and the neurons that it meets.

    Attributes:
        run, exponent, kind: the run, the grid of currents, and a type in which all sums are exact.
        arriving, drive: the input current `[steps, samples, rows]`, and what flows awake `[samples, rows]` or None.
        recurrent: the current that the hidden state brings, `[steps, samples, rows]`.
        states: the spikes of the states of the position before, `[steps, samples, hidden]`.
    """

    run: Run
    exponent: int
    kind: torch.dtype
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
        awake = torch.tensor(self.run.wake_weights(), dtype=self.kind, device=train.device).cumsum(0)
        steps = max(len(total), len(awake))
        return _held(total, steps) + _held(awake.reshape(-1, *[1] * (train.dim() - 1)) * drive.to(self.kind), steps)

    def changes(self, function: Callable[..., Tensor], *totals: Tensor) -> Tensor:
        """The running difference of a function of totals, 0 where all of them are."""
        steps = max(map(len, totals))
        values = function(*(_held(total, steps) for total in totals))
        return torch.cat([values[:1], values.diff(dim=0)])

    def fire(self, train: Tensor, drive: Tensor | None, values: Tensor, lowest: int) -> Tensor:
        """Spikes of a population with these thresholds, that of the level above the lowest first."""
        thresholds = LevelThresholds(values.to(train.device, self.kind), lowest)
        potential = self.run.initial_potential(None, thresholds, self.exponent)
        return self.run.fire(train, drive, thresholds, self.kind, potential)


def _held(totals: Tensor, steps: int) -> Tensor:
    """Running totals over so many steps: after their last they stay what they are."""
    missing = steps - len(totals)
    if missing == 0:
        return totals
    last = totals[-1:] if len(totals) else totals.new_zeros((1, *totals.shape[1:]))
    return torch.cat([totals, last.expand(missing, *last.shape[1:])])


def _begun(spikes: Tensor, begins: Tensor) -> Tensor:
    """The spikes of a state, and behind them the states of further samples, which arrive at the first step."""
    if not len(begins):
        return spikes
    states = spikes.new_zeros((max(len(spikes), 1), spikes.shape[1] + len(begins), spikes.shape[2]), dtype=torch.int16)
    states[: len(spikes), : spikes.shape[1]] = spikes
    states[0, spikes.shape[1] :] = begins
    return states


class GatedRecurrence(Op, abstract=True):
    """One direction of one gated layer. It gives the spikes of each of its populations, `[B, L, hidden]` as the input.

    Settings: the layer's name, levels, grid and direction. Tensors: the recurrent weights, `GATES` blocks of `hidden` rows,
    and the totals at which the level of a sigmoid and of a tanh steps. It is for the number of wake steps that the network
    was trained for.

    Called with the input current `[B, L, GATES * hidden]` (or `[L, B, ...]`), real-valued initial states
    `[cells, B, hidden]` or None, their row, and lengths `[B]` or None.
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
    def step(self, at: _Position) -> tuple[Tensor, ...]:
        """The spikes of each population at one position, `[steps, samples, hidden]`."""

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
        name, exponent = self.settings["name"], self.settings["exponent"]
        if len(current.shape) != 3 or 0 in current.shape:
            raise InputError(f"{name}: expected a non-empty batch of sequences; got shape {list(current.shape)}")
        if current.shape[2] != len(self.weight):
            raise InputError(
                f"{name}: it reads {len(self.weight)} currents at each position; its input has {current.shape[2]}"
            )
        current = divided(current, run, exponent, name)
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        if lengths is not None:
            lengths = check_lengths(lengths, batch, length)
        initial = self._initial(start, row, batch, current.device)
        current = self._held(run, current)
        emitted = self._compiled(run, current, initial, lengths)
        if emitted is None:
            emitted = self._by_visits(run, current, initial, lengths)
        return tuple(
            Signal(train if batch_axis == 0 else train.transpose(1, 2), None, None, float(highest))
            for train, (_, highest) in zip(emitted, self.ranges, strict=True)
        )

    def _held(self, run: Run, current: Signal) -> Signal:
        """The current, its drive on the grid; a table's rows are, and are as large as was expected."""
        if not isinstance(current.lazy_drive, Tensor):
            return current
        exponent, reach = self.settings["exponent"], current.bound + self.spiking_reach
        drive = run.held(run.numerics.snap(current.lazy_drive, exponent), reach, 0.0, exponent)
        return replace(current, lazy_drive=drive)

    def _compiled(
        self, run: Run, current: Signal, initial: Sequence[Tensor], lengths: Tensor | None
    ) -> list[Tensor] | None:
        """The spikes by the compiled kernel, `[steps, B, L, hidden]`; None where it is not there.

        Of gates, which nothing reads behind this, only where a record is kept.
        """
        neuron, train = run.kernel_neuron, current.train
        if neuron is None or not run.numerics.is_exact or not kernels.ready(train, self.weight):
            return None
        if isinstance(run, SpikingRun) and run.neuron.initial_potential:
            return None
        weights = self.kept(self.weight, "gated", self.packed)
        self._type(run, current)
        rows = current.lazy_drive if isinstance(current.lazy_drive, TableRows) else None
        drive, index = (
            (current.drive, None)
            if rows is None
            else (self.kept_tables(rows.table, "double", rows.table.double), rows.index)
        )
        train = train.double()
        if not self.settings["batch_first"]:
            train = train.transpose(1, 2)
            drive = drive.transpose(0, 1) if drive is not None and index is None else drive
            index = None if index is None else index.transpose(0, 1)
        train = train if train.stride(-1) == 1 else train.contiguous()
        drive = drive if drive is None or drive.stride(-1) == 1 else drive.contiguous()
        lengths = None if lengths is None else lengths.contiguous()
        sequences = Sequences(drive, index, train, None, lengths, self.settings["reverse"])
        begins = [each.contiguous() for each in initial]
        start = begins if any(bool(each.any()) for each in begins) else [None for _ in begins]
        recorded = run.recorder is not None
        wanted = [recorded or place in self.STATES for place in range(len(self.ranges))]
        guess = round(_ROOM * self.train_lengths.guess(neuron.most))
        emitted = kernels.gated(weights, sequences, start, wanted, neuron, guess)
        self.train_lengths.note(neuron.most, len(emitted[self.STATES[0]]))
        return emitted

    @abstractmethod
    def packed(self) -> kernels.GatedWeights:
        """What the kernel reads."""

    @cached_property
    def kept(self) -> WeightCache:
        """What the kernel reads of the weights."""
        return WeightCache()

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
        drive = current.lazy_drive
        largest_drive = (
            self.kept_tables(drive.table, "largest", partial(largest, drive.table))
            if isinstance(drive, TableRows)
            else current.drive_reach
        )
        return run.sum_dtype(steps, reach, largest_drive, self.settings["exponent"], self.settings["name"])

    def _by_visits(self, run: Run, current: Signal, initial: Sequence[Tensor], lengths: Tensor | None) -> list[Tensor]:
        """Spikes of all positions, `[steps, B, L, hidden]`, of each population."""
        exponent, batch_axis = self.settings["exponent"], 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        order = Order.of(batch, length, lengths, self.settings["reverse"], current.device)
        kind = self._type(run, current)
        drive, train = current.drive, current.train
        if batch_axis == 1:
            drive, train = None if drive is None else drive.transpose(0, 1), train.transpose(1, 2)
        visited: list[tuple[tuple[Tensor, ...], Tensor, int]] = []
        before = [train.new_zeros((0, 0, self.hidden), dtype=torch.int8) for _ in self.STATES]
        for position, size, known in order.visits:
            rows = order.rows[:size]
            states = [
                _begun(spikes[:, :known], begins[rows[known:]]) for spikes, begins in zip(before, initial, strict=True)
            ]
            peak = max(run.peak, self.q) if known < size else run.peak
            recurrent = self.product(states[0], self.weight, exponent, peak, kind)
            own = None if drive is None else drive[rows, position].to(kind)
            at = _Position(run, exponent, kind, train[:, rows, position].to(kind), own, recurrent, states)
            trains = self.step(at)
            before = [trains[index] for index in self.STATES]
            visited.append((trains, rows, position))
        emitted = []
        for index in range(len(self.ranges)):
            steps = max(len(trains[index]) for trains, _, _ in visited)
            shape = (steps, batch, length, self.hidden)
            result = torch.zeros(shape, dtype=visited[0][0][index].dtype, device=current.device)
            for trains, rows, position in visited:
                result[: len(trains[index]), rows, position] = trains[index]
            emitted.append(result)
        return emitted

    def _initial(self, start: Any, row: int, batch: int, device: torch.device) -> list[Tensor]:
        """The initial states in levels, `[B, hidden]` int16."""
        states = []
        given = start if isinstance(start, (tuple, list)) else [start] * len(self.STATES)
        for state, index in zip(given, self.STATES, strict=True):
            name, highest = self.settings["name"], self.ranges[index][1]
            if state is None:
                states.append(torch.zeros((batch, self.hidden), dtype=torch.int16, device=device))
                continue
            if state.dim() != 3 or tuple(state.shape[1:]) != (batch, self.hidden) or state.shape[0] <= row:
                raise InputError(
                    f"{name}: expected hx of shape [cells, {batch}, {self.hidden}]; got {list(state.shape)}"
                )
            if not math.isfinite(largest(state[row])):
                raise InputError(f"{name}: the initial state must be finite")
            levels = (state[row].double().clamp(-highest, highest) * self.q + 0.5).floor()
            states.append(levels.to(torch.int16))
        return states

    def follow(
        self, follower: Follower, current: Abstract, start: Any = None, row: int = 0, lengths: Any = None
    ) -> tuple[Abstract, ...]:
        given = start if isinstance(start, (tuple, list)) else [start]
        shape = (*current.shape[:2], self.hidden)
        samples = recurrent_samples(follower, current, self.settings["batch_first"], given, lengths)
        arriving = 0 if current.train is None else current.train.steps
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
        passed = [self._passed_on(result[index], lengths) for index in self.STATES]
        spikes = by_step(passed[0]) * len(self.weight)
        dense = (real - batch) * self.hidden * len(self.weight) + real * 3 * self.hidden
        # What does not depend on spikes will be multiplied by the share of what is no padding.
        own = Work(accumulates=spikes, dense=dense / share) + self._products(result, passed)
        return current.one_to_one() + own

    def _passed_on(self, states: Provenance, lengths: Tensor | None) -> Tensor:
        """Of the spikes of a state at each position, `[steps, B, L]`, those that reach another: all but the last one's."""
        counts = states.spikes_over(-1)
        counts = counts.clone() if self.settings["batch_first"] else counts.transpose(1, 2).clone()
        if self.settings["reverse"]:
            counts[:, :, 0] = 0
        elif lengths is None:
            counts[:, :, -1] = 0
        else:
            counts[:, torch.arange(counts.shape[1]), torch.as_tensor(lengths).long() - 1] = 0
        return counts

    @abstractmethod
    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        """Of products of two totals; `passed` are the spikes of each state that reach the next position."""


class GRURecurrence(GatedRecurrence, saved_as="GRURecurrence"):
    """A GRU: reset gate R, update gate Z, candidate N and hidden state H, in levels.

    With totals X of the input's current and `C = W_hn H + b_hn` of the recurrent one, `N = tanh_q(q X + R C)`, and
    `H' = round(((q - Z) N + Z H) / q)`, halves to the even level.
    """

    TENSORS = tensors(**GatedRecurrence.TENSORS, bias=Numbers((("hidden",),), "exponent", optional=True))
    GATES = 3
    STATES = (3,)
    bias: Tensor | None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 1), (-1, 1), (-1, 1))

    @property
    def spiking_reach(self) -> float:
        return super().spiking_reach + (0.0 if self.bias is None else largest(self.bias))

    @property
    def products(self) -> int:
        return self.q

    def packed(self) -> kernels.GatedWeights:
        return kernels.GatedWeights.gru(
            self.weight, self.bias, self.sigmoid, self.tanh, nearest_thresholds(self.q, self.q)
        )

    def step(self, at: _Position) -> tuple[Tensor, ...]:
        q, gates, last = self.q, slice(2 * self.hidden), slice(2 * self.hidden, None)
        opened = at.fire(at.currents(gates), at.driven(gates), self.sigmoid, 0)
        reset, update = opened.split(self.hidden, -1)
        products = at.total(at.arriving[..., last], at.driven(last)), at.total(at.recurrent[..., last], self.bias)
        candidate = at.fire(
            at.changes(lambda r, x, c: q * x + r * c, at.total(reset), *products), None, q * self.tanh.double(), -q
        )
        totals = at.total(update), at.total(candidate), at.total(at.states[0])
        mixed = at.changes(lambda z, n, h: (q - z) * n + z * h, *totals)
        return reset, update, candidate, at.fire(mixed, None, nearest_thresholds(q, q), -q)

    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        reset, update, candidate, _ = result
        spikes = Work.total(Work(accumulates=each.spikes_by_step()) for each in (reset, update, candidate))
        # Wherever spikes arrive, the current of each unit changes that the reset gate multiplies.
        changed = by_step((passed[0] > 0).to(torch.int32)) * self.hidden
        return spikes + Work(accumulates=by_step(passed[0]), multiplies=changed)


class LSTMRecurrence(GatedRecurrence, saved_as="LSTMRecurrence"):
    """An LSTM: gates I, F and O, candidate G, cell C and hidden state H, in levels.

    `C' = clip(round((F C + I G) / q), -k q, k q)`, `H = round(O round(q tanh(C'/q)) / q)`; k is `cell_range`. Products are
    rounded to the nearest level, halves to the even one.
    """

    SETTINGS = settings(**GatedRecurrence.SETTINGS, cell_range=Whole(1, 1000))
    TENSORS = tensors(**GatedRecurrence.TENSORS, table=Numbers((("cells",),)))
    GATES = 4
    STATES = (5, 4)
    table: Tensor

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        k = self.settings["cell_range"]
        return ((0, 1), (0, 1), (-1, 1), (0, 1), (-k, k), (-1, 1))

    def check(self) -> None:
        super().check()
        cells = 2 * self.cells + 1
        self.require(self.cells <= LARGEST_TOTAL, f"q times 'cell_range' must be at most {LARGEST_TOTAL:,}")
        self.require(len(self.table) == cells, f"'table' must have an entry for each of {cells} levels of a cell")

    @property
    def cells(self) -> int:
        """The highest level of a cell."""
        return self.q * int(self.settings["cell_range"])

    def packed(self) -> kernels.GatedWeights:
        state, cell = (nearest_thresholds(highest, self.q) for highest in (self.q, self.cells))
        return kernels.GatedWeights.lstm(self.weight, self.sigmoid, self.tanh, state, cell, self.table)

    def step(self, at: _Position) -> tuple[Tensor, ...]:
        q, hidden = self.q, self.hidden
        candidate_rows = slice(2 * hidden, 3 * hidden)
        gates = [*range(2 * hidden), *range(3 * hidden, 4 * hidden)]
        opened = at.fire(at.currents(gates), at.driven(gates), self.sigmoid, 0)
        taken, kept, shown = opened.split(hidden, -1)
        candidate = at.fire(at.currents(candidate_rows), at.driven(candidate_rows), self.tanh, -q)
        totals = at.total(kept), at.total(at.states[1]), at.total(taken), at.total(candidate)
        products = at.changes(lambda f, c, i, g: f * c + i * g, *totals)
        cell = at.fire(products, None, nearest_thresholds(self.cells, q), -self.cells)
        table = self.table.to(at.kind)
        seen = at.changes(lambda o, c: o * table[c.long() + self.cells], at.total(shown), at.total(cell))
        return taken, kept, candidate, shown, cell, at.fire(seen, None, nearest_thresholds(q, q), -q)

    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        # A cell's spikes meet the output gate of their own position and the forget gate of the next.
        *met, _ = result
        spikes = Work.total(Work(accumulates=each.spikes_by_step()) for each in met)
        return spikes + Work(accumulates=by_step(passed[1]))


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
        batch_axis = 0 if self.settings["batch_first"] else 1
        if lengths is not None:
            lengths = check_lengths(lengths, result.shape[batch_axis], result.shape[1 - batch_axis])
        return LayerTrain(self.settings["name"], result.train, 1 - batch_axis, lengths)

    def follow(self, follower: Follower, signal: Abstract, lengths: Any = None, *before: Abstract) -> Abstract:
        return signal

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return 0
