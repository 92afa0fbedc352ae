"""Gated recurrent layers in a lowered network: GRU and LSTM, token by token, all steps of a token at once.

Every population is a function of running totals of what arrives: a gate of its current, a state of products of two totals.
So once what arrives is silent each settles at the level that the function has of the final totals, and falls silent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from casc_core.engine.ops import entries
from casc_core.engine.products.exact_sums import largest_row
from casc_core.engine.products.spike_product import Product
from casc_core.engine.recording.spike_counts import LayerTrain, by_step
from casc_core.engine.run import LARGEST_TOTAL
from casc_core.errors import InputError
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
from casc_seq.level_populations import (
    hold,
    nearest_level,
    reached,
    settle,
)
from casc_seq.recurrence import Order, divided, recurrent_samples
from casc_seq.rows import check_lengths

# Steps that a train may go on for each position beyond what a population needs, as a guess of what a run will take.
_SPARE = 16


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
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The lowest and the highest level of each population, in units."""
        raise NotImplementedError

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
    def step(
        self, run: Run, current: Tensor, product: Tensor, before: Sequence[Tensor], awake: Tensor
    ) -> tuple[Tensor, ...]:
        """The running totals of each population at one position, `[steps, samples, hidden]`.

        Args:
            current, product: running totals of the input current and of the recurrent one, `[steps, samples, rows]`.
            before: running totals of the states of the position before.
            awake: how many wake steps there have been, `[steps, 1, 1]`.
        """

    @abstractmethod
    def bound(self, current: float) -> float:
        """How large its sums may be, currents being `current` for each wake step."""

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
        emitted = self._by_visits(run, current, initial, lengths)
        return tuple(
            Signal(train if batch_axis == 0 else train.transpose(1, 2), None, None, float(highest))
            for train, (_, highest) in zip(emitted, self.ranges, strict=True)
        )

    def _by_visits(self, run: Run, current: Signal, initial: Sequence[Tensor], lengths: Tensor | None) -> list[Tensor]:
        """Spikes of all positions, `[steps, B, L, hidden]`, of each population."""
        name, exponent = self.settings["name"], self.settings["exponent"]
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        order = Order.of(batch, length, lengths, self.settings["reverse"], current.device)
        kind = run.numerics.dtype(self.bound(current.bound + current.drive_reach), exponent, name)
        drive, train = current.drive, current.train
        drive = None if drive is None else run.numerics.snap(drive, exponent)
        if batch_axis == 1:
            drive, train = None if drive is None else drive.transpose(0, 1), train.transpose(1, 2)
        weight = self.weight.to(kind)
        wake = torch.tensor(run.wake_weights(), dtype=kind, device=current.device).cumsum(0).reshape(-1, 1, 1)
        populations = len(self.ranges)
        visited: list[tuple[list[Tensor], Tensor, int]] = []
        before: list[Tensor] = [each[:0, None] for each in initial]
        spikes = train.new_zeros((0, 0, self.hidden), dtype=torch.int8)
        for position, size, known in order.visits:
            rows = order.rows[:size]
            steps = max(len(train), len(wake), *map(len, before))
            arriving = hold(train[:, rows, position].to(kind).cumsum(0), steps)
            if drive is not None:
                arriving = arriving + drive[rows, position].to(kind) * hold(wake, steps)
            begins = [each[rows[known:]] for each in initial]
            states = [
                torch.cat([hold(each[:, :known], steps), own.expand(steps, *own.shape)], 1)
                for each, own in zip(before, begins, strict=True)
            ]
            recurrent = self.product(spikes[:, :known], self.weight, exponent, run.peak, kind).cumsum(0)
            begun = (begins[0].to(kind) @ weight.t()).expand(steps, -1, -1)
            product = torch.cat([hold(recurrent, steps), begun], 1)
            totals = self.step(run, arriving, product, states, hold(wake, steps))
            trains = [total.diff(dim=0, prepend=torch.zeros_like(total[:1])) for total in totals]
            trains = [each.to(torch.int8) if run.peak == 1 else each for each in trains]
            before = [totals[index] for index in self.STATES]
            spikes = trains[self.STATES[0]]
            visited.append((trains, rows, position))
        emitted = []
        for index in range(populations):
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
            clipped = state[row].double().clamp(-highest, highest)
            states.append(nearest_level(clipped * self.q, highest * self.q))
        return states

    def follow(
        self, follower: Follower, current: Abstract, start: Any = None, row: int = 0, lengths: Any = None
    ) -> tuple[Abstract, ...]:
        given = start if isinstance(start, (tuple, list)) else [start]
        shape = (*current.shape[:2], self.hidden)
        samples = recurrent_samples(follower, current, self.settings["batch_first"], given, lengths)
        arriving = 0 if current.train is None else current.train.steps
        length = current.shape[1 if self.settings["batch_first"] else 0]
        run, deepest = follower.run, 2 * max(high - low for low, high in self.ranges)
        most = max(arriving, len(run.wake_weights())) + run.total * deepest + (_SPARE + run.total) * length
        steps = 1 if run.longest(arriving) == 1 else most
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
    `H' = floor(((q - Z) N + Z H) / q + 1/2)`.
    """

    TENSORS = tensors(**GatedRecurrence.TENSORS, bias=Numbers((("hidden",),), "exponent", optional=True))
    GATES = 3
    STATES = (3,)
    bias: Tensor | None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 1), (-1, 1), (-1, 1))

    def bound(self, current: float) -> float:
        bias = 0.0 if self.bias is None else largest(self.bias)
        return self.q * ((self.q + 1) * (current + self.reach + bias) + largest(self.tanh))

    def step(
        self, run: Run, current: Tensor, product: Tensor, before: Sequence[Tensor], awake: Tensor
    ) -> tuple[Tensor, ...]:
        q, hidden, gates = self.q, self.hidden, slice(2 * self.hidden)
        opened = settle(run, reached(current[..., gates] + product[..., gates], self.sigmoid, 0))
        steps = max(len(opened), len(current))
        reset, update = hold(opened, steps).split(hidden, -1)
        kept = product[..., 2 * hidden :]
        if self.bias is not None:
            kept = kept + self.bias.to(kept.dtype) * awake
        drive = q * hold(current[..., 2 * hidden :], steps) + reset * hold(kept, steps)
        candidate = settle(run, reached(drive, q * self.tanh.double(), -q))
        steps = max(steps, len(candidate))
        kept, new, old = (hold(each, steps).to(torch.int64) for each in (update, candidate, before[0]))
        state = settle(run, nearest_level((q - kept) * new + kept * old, q, q))
        return reset, update, candidate, state

    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        reset, update, candidate, _ = result
        spikes = Work.total(Work(accumulates=each.spikes_by_step()) for each in (reset, update, candidate))
        # Wherever spikes arrive, the current of each unit changes that the reset gate multiplies.
        changed = by_step((passed[0] > 0).to(torch.int32)) * self.hidden
        return spikes + Work(accumulates=by_step(passed[0]), multiplies=changed)


class LSTMRecurrence(GatedRecurrence, saved_as="LSTMRecurrence"):
    """An LSTM: gates I, F and O, candidate G, cell C and hidden state H, in levels.

    `C' = clip(floor((F C + I G) / q + 1/2), -k q, k q)`, `H = floor(O round(q tanh(C'/q)) / q + 1/2)`; k is `cell_range`.
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

    def bound(self, current: float) -> float:
        return (self.q + 1) * (current + self.reach) + max(largest(self.sigmoid), largest(self.tanh))

    def step(
        self, run: Run, current: Tensor, product: Tensor, before: Sequence[Tensor], awake: Tensor
    ) -> tuple[Tensor, ...]:
        q, hidden, total = self.q, self.hidden, current + product
        gates = torch.cat([total[..., : 2 * hidden], total[..., 3 * hidden :]], -1)
        opened = settle(run, reached(gates, self.sigmoid, 0))
        candidate = settle(run, reached(total[..., 2 * hidden : 3 * hidden], self.tanh, -q))
        steps = max(len(opened), len(candidate), len(total))
        taken, kept, shown = hold(opened, steps).split(hidden, -1)
        products = kept.long() * hold(before[1], steps) + taken.long() * hold(candidate, steps)
        cell = settle(run, nearest_level(products, self.cells, q))
        steps = max(steps, len(cell))
        seen = self.table.long()[hold(cell, steps).long() + self.cells]
        state = settle(run, nearest_level(hold(shown, steps) * seen, q, q))
        return taken, kept, candidate, shown, cell, state

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
