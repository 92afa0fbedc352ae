"""A recurrent population in a lowered network: each token position has its own neurons."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.extend import (
    EXPONENT,
    Abstract,
    Flag,
    Follower,
    Numbers,
    Op,
    Positive,
    Provenance,
    Run,
    Signal,
    Text,
    Work,
    settings,
    tensors,
)
from casc_core.numerics import INPUT_EXPONENT, binade, largest
from casc_core.operations import (
    LayerTrain,
    Product,
    TableRows,
    WeightCache,
    by_step,
    entries,
    exact_product,
    kernels,
)
from casc_core.reporting.series import last_repeated, zero_padded
from casc_seq.spiking.recurrent_train import RecurrentTrain
from casc_seq.spiking.sequences import (
    Order,
    as_the_kernels_read,
    batch_and_length,
    by_position,
    divided,
    layer_train,
    longest_train,
    passed_on,
    read_sequences,
    recurrent_samples,
    require_state,
    together,
)
from casc_seq.spiking.train_lengths import TrainLengths

Start = Tensor | Signal | None
_EACH = Numbers(((), ("hidden",)), optional=True)


class Received(NamedTuple):
    """What a recurrent population receives besides its own spikes.

    Attributes:
        current: its drive on the grid of the potential.
        initial: the current of the initial state `[B, hidden]`, at the first position visited; or None.
        lengths: of the texts, checked; or None.
        potential: before the first step; None: zero.
    """

    current: Signal
    initial: Signal | None
    lengths: Tensor | None
    potential: Tensor | None


class Recurrence(Op, saved_as="Recurrence"):
    """One direction of one recurrent layer: `I_i[t] = current_i[t] + W_h s_{i-1}[t]`, then the neurons of position i.

    The spikes that position i-1 emits at step t reach position i at step t. Each position is simulated over all its
    steps at once: one product for the recurrent current of every step, then one scan over time.

    Settings: the layer's name, threshold, grid, and direction; `charge`, what a neuron's potential begins with, and `bias`,
    what is received besides at each wake step, `[hidden]` each or one number, in the unit of the threshold.

    Called with the input current `[B, L, hidden]` (or `[L, B, hidden]`), the initial state, its row, and lengths `[B]` or
    None. The state is real-valued, `[cells, B, hidden]`, or None, or the current that a signal brings in its place,
    `[B, hidden]`: what reaches position 0 at step t is of step t, as if there were a position before it.
    """

    SETTINGS = settings(
        name=Text(), threshold=Positive(), scale=Positive(), exponent=EXPONENT, reverse=Flag(), batch_first=Flag()
    )
    TENSORS = tensors(weight=Numbers((("hidden", "hidden"),), "exponent"), charge=_EACH, bias=_EACH)
    is_layer = True
    weight: Tensor
    charge: Tensor | None
    bias: Tensor | None

    @cached_property
    def reach(self) -> float:
        return float(self.weight.double().abs().sum(1).max())

    @cached_property
    def narrow_exponent(self) -> int:
        """The finest grid on which int16 holds the weights, rounded."""
        return kernels.narrow_exponent(self.weight)

    @cached_property
    def product(self) -> Product:
        return Product()

    @cached_property
    def kept(self) -> WeightCache:
        """What is made of the drive's table."""
        return WeightCache()

    @cached_property
    def train_lengths(self) -> TrainLengths:
        """Steps that runs have needed: the room that the next one begins with."""
        return TrainLengths()

    def forward(
        self, run: Run, current: Signal, start: Start = None, row: int = 0, lengths: Tensor | None = None
    ) -> Signal:
        received = self.received(run, current, start, row, lengths)
        if run.reads_result_once and run.recorder is None:
            positions = -2 if self.settings["batch_first"] else -3
            fired = partial(self._train, run, received)
            return Signal(RecurrentTrain(current.shape, current.device, positions, fired), None, None, 1.0)
        train, after = self._fired(run, received, summed=False)
        return Signal(train, None, None, 1.0, potential=after)

    def received(
        self, run: Run, current: Signal, start: Start = None, row: int = 0, lengths: Tensor | None = None
    ) -> Received:
        """What the neurons of all positions receive, besides each other's spikes, as they do in this run."""
        current, lengths = read_sequences(self.settings, run, current, len(self.weight), lengths)
        batch, _ = batch_and_length(self.settings, current.shape)
        initial = self._initial_current(run, start, row, batch)
        driven = current if self.bias is None else self._with_bias(current, self.bias)
        exponent = self.settings["exponent"]
        charge = None if self.charge is None else run.numerics.snap(self.charge, exponent)
        potential = run.initial_potential(charge, self.settings["threshold"], exponent, current.device)
        return Received(self._held(run, driven, initial, potential), initial, lengths, potential)

    def _train(self, run: Run, received: Received, summed: bool) -> Tensor:
        return self._fired(run, received, summed)[0]

    def _fired(self, run: Run, received: Received, summed: bool) -> tuple[Tensor, Tensor | None]:
        """The spikes of all positions; `summed`: over these, `[steps, B, hidden]` int32. And potentials, where they are
        recorded."""
        spikes = self._compiled(run, *received, summed)
        if spikes is None:
            train, after = self._by_visits(run, *received)
            if summed:
                return train.sum(2, dtype=torch.int32), None
            return self._as_called(train), None if after is None else self._as_called(after)
        if run.row_counts is not None and spikes.tallied is not None:
            positive, negative = spikes.tallied
            run.row_counts[self.settings["name"]] = self._as_called(positive), self._as_called(negative)
        return spikes.train if summed else self._as_called(spikes.train), None

    def _held(self, run: Run, current: Signal, initial: Signal | None, potential: Tensor | None) -> Signal:
        """The current, its drive on the grid of the potential; a table's rows are, and are as large as was expected."""
        exponent = self.settings["exponent"]
        if isinstance(current.lazy_drive, TableRows):
            return current
        drive = current.drive_on_grid(run.numerics, exponent)
        if drive is None:
            return current
        begins = 0.0 if potential is None else largest(potential)
        each = 0.0 if initial is None else initial.bound + initial.drive_reach
        drive = run.held(drive, current.bound + self.reach + self.settings["threshold"] + each, begins, exponent)
        return replace(current, lazy_drive=drive)

    def _as_called(self, train: Tensor) -> Tensor:
        """`[steps, B, L, ...]` with batch and length in the order in which the input has them."""
        return train if self.settings["batch_first"] else train.transpose(1, 2)

    def layer_train(
        self, result: Signal, current: Any, start: Any = None, row: int = 0, lengths: Tensor | None = None
    ) -> LayerTrain:
        return layer_train(self.settings, result, lengths)

    def work(
        self, result: Provenance, current: Provenance, start: Any = None, row: int = 0, lengths: Tensor | None = None
    ) -> Work:
        """What the recurrence itself does, at real positions alone."""
        hidden, layer = current.shape[2], self.layer_train(result.signal, current, start, row, lengths)
        batch = current.shape[0 if self.settings["batch_first"] else 1]
        positions = layer.neurons // hidden
        # A bias of its own is part of the drive, where there is one.
        biases = float(positions * hidden) if self.bias is not None and not current.is_driven else 0.0
        spikes = by_step(passed_on(self._as_called(result.spikes_over(-1)), self.settings["reverse"], layer.lengths))
        own = Work(accumulates=spikes * hidden, awake=biases, dense=float((positions - batch) * hidden**2))
        return current.one_to_one() * layer.share + own

    def follow(
        self,
        follower: Follower,
        current: Abstract,
        start: Abstract | Tensor | None = None,
        row: int = 0,
        lengths: Abstract | Tensor | None = None,
    ) -> Abstract:
        length = current.shape[1 if self.settings["batch_first"] else 0]
        samples = recurrent_samples(follower, current, self.settings["batch_first"], [start], lengths)
        if self.charge is not None:
            follower.note(self.charge)
        arriving = longest_train(current, start)
        return follower.signal(current.shape, samples, self.train_lengths.longest(follower.run, arriving, length))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        *read, spikes = (entries(each) for each in signals)
        return 8 * max(read, default=0) + 2 * spikes  # currents in the widest type; room for spikes is made in pieces

    def later(self, follower: Follower, signals: list[Abstract]) -> int:
        return self.working(follower, signals)

    def _compiled(
        self,
        run: Run,
        current: Signal,
        initial: Signal | None,
        lengths: Tensor | None,
        potential: Tensor | None,
        summed: bool,
    ) -> kernels.RecurrentSpikes | None:
        """The spikes by the compiled kernel, in int32; None where it is not there or int32 might not hold a sum."""
        exponent, train = self.settings["exponent"], current.train
        neuron = run.kernel_neuron
        if neuron is None or not run.numerics.is_exact or not kernels.ready(train, self.weight):
            return None
        reach = current.bound * run.peak
        if initial is not None:
            reach += initial.bound * run.peak + initial.drive_reach
        if potential is not None:
            reach += float(potential.abs().max())
        packed = self.product.packed(self.weight, exponent, run.peak)
        limit, margin = 0.0, None
        if packed is not None and packed.exponent - exponent <= 30:
            limit = self._limit(run, reach + packed.reach, exponent)
        if limit <= 0:
            arriving = current.steps + (0 if initial is None else initial.steps)
            found = self._rounded(run, current, arriving, reach)
            if found is None:
                return None
            packed, margin = found
            limit = self._limit(run, reach + packed.reach, packed.exponent)
        assert packed is not None
        unit = exponent if margin is None else packed.exponent
        batch_first = self.settings["batch_first"]
        rows = current.lazy_drive if isinstance(current.lazy_drive, TableRows) else None
        drive, index, train = as_the_kernels_read(current, None if rows is None else rows.table, batch_first)
        if not train.dtype.is_floating_point:
            train = train.double()
        flowing, start = None, None
        if initial is not None:
            flowing, start = initial.drive, initial.train.double().contiguous() if initial.steps else None
        units, begun = (self._units(each, unit, torch.int32) for each in (flowing, potential))
        exact = None
        if margin is not None:
            begins, begun_at = (self._units(each, exponent, torch.float64) for each in (flowing, potential))
            threshold = math.ldexp(self.settings["threshold"], -exponent)
            drive = drive if drive is None or drive.stride(-1) == 1 else drive.contiguous()
            exact = kernels.ExactCurrents(exponent, threshold, margin, begins, begun_at, drive)
            if rows is not None:  # half as much to read
                drive = self.kept(rows.table, "rounded", rows.table.float)
        lengths = None if lengths is None else lengths.contiguous()
        sequences = kernels.Sequences(drive, index, train, units, lengths, self.settings["reverse"], begun, start)
        spikes = kernels.recurrence(
            packed,
            sequences,
            unit,
            round(math.ldexp(self.settings["threshold"], -unit)),
            limit,
            neuron,
            positions_first=not batch_first,
            tally=run.row_counts is not None,
            guess=self.train_lengths.guess(neuron.most),
            exact=exact,
            summed=summed,
        )
        if spikes is not None:
            self.train_lengths.note(neuron.most, len(spikes.train))
        return spikes

    def _limit(self, run: Run, reach: float, unit: int) -> float:
        """The largest drive, in units of `2**unit`, beside currents of this reach, for which no sum leaves int32."""
        # As potential_dtype bounds it: every sum over all steps, and the threshold beside it.
        units = math.ldexp(reach + self.settings["threshold"], -unit)
        return kernels.INT32_UNITS / (run.total + 1) - units - 2

    def _rounded(
        self, run: Run, current: Signal, arriving: int, reach: float
    ) -> tuple[kernels.PackedWeights, kernels.Margin] | None:
        """The recurrent weights rounded so that int32 holds every sum, and the margin of what that leaves out, where trains
        arrive for so many steps in all.

        It is summed only for neurons nearer than that to a decision. Weights in int16 are the cheapest to sum, where such
        neurons are rare.

        Raises:
            ExactnessError: float64 does not hold the sums as they are.
        """
        drive, threshold, exponent = current.lazy_drive, self.settings["threshold"], self.settings["exponent"]
        if isinstance(drive, TableRows):
            largest_drive = self.kept(drive.table, "largest", partial(largest, drive.table))
        else:
            largest_drive = current.drive_reach
        whole = (run.total + 1) * (reach + self.reach + largest_drive + threshold)
        run.potential_dtype(reach + self.reach, largest_drive, threshold, exponent, self.settings["name"])
        widest = binade(whole) - kernels.SUM_BITS
        for unit, near in ((max(widest, self.narrow_exponent), kernels.NEAR), (widest, 1.0)):
            rounding = kernels.Rounding(unit, exponent, run.total)
            packed = self.product.packed(self.weight, exponent, run.peak, rounding)
            if packed is None or packed.left_out is None:
                continue
            # Of the drive, in float32, the initial current and the threshold at each count, of currents at each step, of
            # the potential once.
            flow = 3 + math.ceil(2.0 * math.ldexp(largest_drive, -24 - unit))
            margin = math.ceil(run.total * (packed.left_out.largest + 0.5 * flow) + 0.5 * arriving + 1.0)
            if margin < near * math.ldexp(threshold, -unit):  # else every neuron would be near a decision, always
                return packed, kernels.Margin(margin, flow)
        return None

    def _units(self, values: Tensor | None, exponent: int, dtype: torch.dtype) -> Tensor | None:
        """`[..., hidden]` in whole units of `2**exponent`."""
        if values is None:
            return None
        units = (values * 2.0**-exponent).round().to(dtype)
        return units.expand(*units.shape[:-1], len(self.weight)).contiguous()

    def _by_visits(
        self, run: Run, current: Signal, initial: Signal | None, lengths: Tensor | None, potential: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Spikes of all positions, `[steps, B, L, hidden]`: one product and one scan for each position; and potentials,
        where they are recorded."""
        name, exponent, threshold = (self.settings[key] for key in ("name", "exponent", "threshold"))
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        order = Order.of(batch, length, lengths, self.settings["reverse"], current.device)
        drive, train = current.drive, current.train
        reach = current.bound + self.reach
        begins: Tensor | None = None
        flowing: Tensor | None = None
        if initial is not None:
            begins, flowing = initial.train[:, order.rows], initial.drive
            flowing = None if flowing is None else flowing[order.rows]
            reach += initial.bound + initial.drive_reach
        if potential is not None:
            reach += float(potential.abs().max())
        dtype = run.potential_dtype(reach, 0.0 if drive is None else largest(drive), threshold, exponent, name)
        product = run.numerics.dtype(self.reach * run.peak, exponent, name)
        drive = None if drive is None else run.numerics.snap(drive, exponent)
        if not self.settings["batch_first"]:
            drive, train = None if drive is None else drive.transpose(0, 1), train.transpose(1, 2)
        hidden = self.weight.shape[0]
        emitted: list[tuple[Tensor, Tensor, int]] = []
        potentials: list[tuple[Tensor, Tensor, int]] = []
        before = train.new_zeros((0, 0, hidden), dtype=torch.int8)
        for position, size, known in order.visits:
            rows = order.rows[:size]
            received = [(slice(0, size), train[:, rows, position])]
            if before.shape[0]:
                recurrent = self.product(before[:, :known], self.weight, exponent, run.peak, product)
                received.append((slice(0, known), recurrent))
            if begins is not None and known < size:
                received.append((slice(known, size), begins[:, known:size]))
            arriving = together(received, size, dtype)
            wake = None if drive is None else drive[rows, position].to(dtype)
            if flowing is not None and known < size:
                wake = torch.zeros((size, hidden), dtype=dtype, device=train.device) if wake is None else wake
                wake[known:] += flowing[known:size].to(dtype)
            before = run.fire(arriving, wake, threshold, dtype, potential)
            emitted.append((before, rows, position))
            after = run.taken_potential()
            if after is not None:
                potentials.append((after, rows, position))
        placed = partial(by_position, shape=(*train.shape[1:3], hidden))
        return placed(emitted, pad=zero_padded), placed(potentials, pad=last_repeated) if potentials else None

    @staticmethod
    def _with_bias(current: Signal, bias: Tensor) -> Signal:
        rows = current.lazy_drive
        if isinstance(rows, TableRows):
            return replace(current, lazy_drive=TableRows(rows.table.double() + bias, rows.index))
        drive = current.drive
        return replace(current, lazy_drive=bias.expand(current.shape) if drive is None else drive + bias)

    def _initial_current(self, run: Run, start: Start, row: int, batch: int) -> Signal | None:
        """The current `[B, hidden]` of an initial state; None: it is zero."""
        hidden = self.weight.shape[0]
        if isinstance(start, Signal):
            name, exponent = self.settings["name"], self.settings["exponent"]
            require_state(start.shape, name, batch, hidden)
            start = divided(start, run, exponent, name)
            return replace(start, lazy_drive=start.drive_on_grid(run.numerics, exponent))
        if start is None or not bool((start != 0).any()):
            return None
        if start.dim() != 3 or tuple(start.shape[1:]) != (batch, hidden) or start.shape[0] <= row:
            raise InputError(
                f"{self.settings['name']}: expected hx of shape [cells, {batch}, {hidden}]; got {list(start.shape)}"
            )
        name, exponent = self.settings["name"], self.settings["exponent"]
        state = run.numerics.drive(start[row].double() / self.settings["scale"], INPUT_EXPONENT)
        if not float(state.abs().max()) < run.numerics.input_reach:
            raise InputError(f"{name}: the initial state must be finite and below {run.numerics.input_reach:g}")
        current = exact_product(run.numerics, state, self.weight, INPUT_EXPONENT, exponent, name)
        return Signal(current.new_zeros((0, *current.shape)), run.numerics.snap(current, exponent), None, 0.0)
