"""How recurrent layers are written as ONNX: a scan over the positions, whose length may vary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from casc_core.export.onnx.graph import SymbolicTensor, likes
from casc_core.export.onnx.rules import writes
from casc_core.export.onnx.rules.affine import linear_product, on_grids
from casc_core.export.onnx.rules.inputs import real_input
from casc_core.export.onnx.rules.neurons import check_potential, levels_of, levels_reached
from casc_core.export.onnx.signals import SymbolicSignal, Writer, unsupported
from casc_core.numerics import INPUT_EXPONENT, largest
from casc_core.operations import weight_limbs
from casc_seq.spiking.gated_cells import GRURecurrence, LSTMRecurrence
from casc_seq.spiking.gated_recurrence import Emitted, GatedRecurrence
from casc_seq.spiking.last_state import LastState
from casc_seq.spiking.recurrence import Recurrence

Tensors = Sequence[SymbolicTensor]
Step = Callable[[Tensors, SymbolicTensor], Tensors]
"""Of the states and of what arrives at a position: the values that the layer gives there, by population."""


class _Sequences:
    """Currents `[B, L, rows]` or `[L, B, rows]`, and which positions of each text are real.

    Attributes:
        arriving: all that comes at each position.
        mask: `[B, L, 1]` or `[L, B, 1]`; None: all are real.
    """

    def __init__(
        self, writer: Writer, op: Recurrence | GatedRecurrence, arriving: SymbolicTensor, lengths: Any
    ) -> None:
        self.writer, self.arriving = writer, arriving
        self.axis = 1 if op.settings["batch_first"] else 0
        self.reverse = bool(op.settings["reverse"])
        self.mask = None if lengths is None else real_positions(writer, arriving, self.axis, lengths)

    def zeros(self, width: int) -> SymbolicTensor:
        """A state of nothing, `[B, width]`."""
        graph, batch = self.writer.graph, 1 - self.axis
        shape = graph.shape([graph.size(self.arriving, batch), width])
        like = likes(lambda x: x.new_empty((x.shape[batch], width)), self.arriving)
        return SymbolicTensor(graph.node("Expand", graph.constant(0.0).name, shape.name)[0], like)

    def run(self, states: Tensors, carried: Sequence[int], step: Step) -> list[SymbolicTensor]:
        """What each population gives at each position, zero where none is.

        Args:
            states: before the first position. carried: which populations go on as states to the next one.
        """
        graph = self.writer.graph
        read = [self.arriving] if self.mask is None else [self.arriving, self.mask]

        def one(before: Tensors, entries: Tensors) -> tuple[Tensors, Tensors]:
            given = step(before, entries[0])
            after = [given[place] for place in carried]
            if self.mask is not None:
                real, zero = entries[1], graph.constant(0.0)
                after = [graph.where(real, new, old) for new, old in zip(after, before, strict=True)]
                given = [graph.where(real, each, zero) for each in given]
            return after, given

        return graph.scan(states, read, self.axis, self.reverse, one)


def real_positions(writer: Writer, x: SymbolicTensor, axis: int, lengths: Any) -> SymbolicTensor:
    """Which positions are real, `[B, L, 1]` or, positions first, `[L, B, 1]`; lengths must lie in 1..L."""
    graph, given = writer.graph, writer.graph.tensor(lengths, torch.int64)
    longest, one = graph.tensor(graph.size(x, axis), torch.int64), graph.tensor(1, torch.int64)
    graph.require(graph.compare("GreaterOrEqual", given, one))
    graph.require(graph.compare("LessOrEqual", given, longest))
    return graph.unsqueeze(graph.compare("Less", _positions(writer, x, axis), _column(writer, given, axis)), -1)


def _positions(writer: Writer, x: SymbolicTensor, axis: int) -> SymbolicTensor:
    """The number of each position, `[1, L]` or `[L, 1]`."""
    graph = writer.graph
    ends = [graph.tensor(each, torch.int64) for each in (0, graph.size(x, axis), 1)]
    counted = graph.node("Range", *(each.name for each in ends))[0]
    like = likes(lambda x: torch.empty(x.shape[axis], dtype=torch.int64, device="meta"), x)
    return graph.unsqueeze(SymbolicTensor(counted, like), 1 - axis)


def _column(writer: Writer, lengths: SymbolicTensor, axis: int) -> SymbolicTensor:
    """Lengths `[B]` along the samples."""
    return writer.graph.unsqueeze(lengths, axis)


def _divided(writer: Writer, op: Recurrence | GatedRecurrence, current: SymbolicSignal) -> SymbolicSignal:
    """A real-valued current divided by what it carries and rounded once."""
    if current.divisor == 1.0:
        return current
    if current.total is not None or current.drive is None:
        raise unsupported(op.settings["name"], "its input is a mean over spikes")
    divided = writer.graph.div(current.drive, current.divisor)
    return replace(current, drive=divided, divisor=1.0)


def _arriving(
    writer: Writer, op: Recurrence | GatedRecurrence, current: SymbolicSignal, own: float, begins: float = 0.0
) -> tuple[SymbolicSignal, SymbolicTensor]:
    """The current, and all that it adds up to. Its drive is on the grid, and held where nothing else counts beside it.

    Args:
        own: the largest current for each spike of the layer itself, and its largest threshold.
        begins: largest magnitude of what is there before.
    """
    current, exponent = _divided(writer, op, current), op.settings["exponent"]
    if current.drive is not None:
        graph, unit = writer.graph, math.ldexp(1.0, exponent)
        drive, reach = graph.snap(writer.full(current.drive, current), exponent), current.reach
        if writer.is_as_trained:
            most = math.ceil(((writer.levels + 2) * (current.bound + own) + begins) / unit) * unit
            if reach > most:
                drive, reach = graph.clip(drive, -most, most), most
        current = replace(current, drive=drive, reach=reach)
    return current, writer.all_of(current)


@writes(Recurrence)
def _recurrence(
    writer: Writer, op: Recurrence, current: SymbolicSignal, start: Any = None, row: int = 0, lengths: Any = None
) -> SymbolicSignal:
    graph, settings, hidden = writer.graph, op.settings, op.weight.shape[0]
    exponent = settings["exponent"]
    if op.bias is not None:
        bias = graph.constant(op.bias.double())
        current = replace(
            current, drive=writer.plus(current.drive, bias), reach=current.reach + largest(op.bias.double())
        )
    charge = None if op.charge is None else writer.numerics.snap(op.charge, exponent)
    begins = 0.0 if charge is None else largest(charge)
    extra, flows, more = (None, 0.0, 0.0) if start is None else _initial_current(writer, op, start, row)
    current, arriving = _arriving(writer, op, current, op.reach + settings["threshold"] + flows + more, begins)
    check_potential(
        writer, op, current.bound + op.reach + more, current.reach + flows, begins,
        current.drive if extra is None else None,
    )  # fmt: skip
    if charge is not None:
        arriving = graph.add(arriving, graph.constant(charge))
    sequences = _Sequences(writer, op, arriving, lengths)
    weight, threshold = writer.weights(op.weight.T.contiguous()), graph.constant(float(settings["threshold"]))

    def step(before: Tensors, arrives: SymbolicTensor) -> Tensors:
        total = graph.add(arrives, graph.matmul(before[0], weight))
        if extra is None:
            return [levels_of(writer, total, threshold)]
        # The initial state flows into the first position of each text, and into no other.
        return [levels_of(writer, graph.add(total, before[1]), threshold), graph.mul(before[1], 0.0)]

    states = [sequences.zeros(hidden), *(() if extra is None else (extra,))]
    given = sequences.run(states, range(len(states)), step)
    return SymbolicSignal(given[0], None, bound=1.0)


def _initial_current(writer: Writer, op: Recurrence, start: Any, row: int) -> tuple[SymbolicTensor, float, float]:
    """What an initial state brings over all steps, `[B, hidden]`; how much at each wake step and for each spike at most."""
    graph, settings, weight = writer.graph, op.settings, op.weight
    if isinstance(start, SymbolicSignal):
        start = _divided(writer, op, start)
        if start.drive is not None:
            start = replace(start, drive=graph.snap(writer.full(start.drive, start), settings["exponent"]))
        return writer.all_of(start), start.reach, start.bound
    states = graph.tensor(start, torch.float64)
    if states.dim != 3:
        raise unsupported(settings["name"], "its initial state is not [cells, batch, hidden]")
    state = graph.div(graph.gather(states, 0, graph.constant(torch.tensor(row))), float(settings["scale"]))
    x = real_input(writer, state, None if writer.is_as_trained else INPUT_EXPONENT)
    assert x.drive is not None
    product = linear_product(writer)
    if writer.is_as_trained:
        current = writer.exact_sum(x.drive, x.reach, x.grid, weight_limbs(weight), product)
    else:
        current = on_grids(
            writer, x.drive, x.reach, weight, INPUT_EXPONENT, settings["exponent"], settings["name"], product
        )
    reach = x.reach * op.reach
    return graph.mul(graph.snap(current, settings["exponent"]), float(writer.levels)), reach, 0.0


def _initial_states(writer: Writer, op: GatedRecurrence, sequences: _Sequences, start: Any, row: int) -> Tensors:
    """The initial states in levels, `[B, hidden]` each."""
    graph, states = writer.graph, []
    given = start if isinstance(start, (tuple, list)) else [start] * len(op.STATES)
    for state, index in zip(given, op.STATES, strict=True):
        if state is None:
            states.append(sequences.zeros(op.hidden))
            continue
        if isinstance(state, SymbolicSignal):
            states.append(writer.all_of(state))
            continue
        highest = float(op.ranges[index][1])
        real = graph.gather(graph.tensor(state, torch.float64), 0, graph.constant(torch.tensor(row)))
        graph.require(graph.compare("Less", graph.unary("Abs", real), graph.constant(math.inf)))
        scaled = graph.mul(graph.clip(real, -highest, highest), float(op.q))
        states.append(graph.unary("Floor", graph.add(scaled, graph.constant(0.5))))
    return states


def _gated(
    writer: Writer, op: GatedRecurrence, current: SymbolicSignal, start: Any, row: int, lengths: Any, step: Step
) -> tuple[SymbolicSignal, ...]:
    """The populations of a gated layer."""
    current, arriving = _arriving(writer, op, current, op.spiking_reach)
    reach = current.bound + op.spiking_reach + current.reach
    writer.check(op.products * (op.q + 1) * reach, op.settings["exponent"], op.settings["name"])
    sequences = _Sequences(writer, op, arriving, lengths)
    given = sequences.run(_initial_states(writer, op, sequences, start, row), op.STATES, step)
    return tuple(
        SymbolicSignal(each, None, bound=float(highest)) for each, (_, highest) in zip(given, op.ranges, strict=True)
    )


class _Rows:
    """Blocks of rows of what arrives at a position, one for each gate."""

    def __init__(self, writer: Writer, hidden: int) -> None:
        self.writer, self.hidden = writer, hidden

    def __call__(self, x: SymbolicTensor, block: int) -> SymbolicTensor:
        places = torch.arange(block * self.hidden, (block + 1) * self.hidden)
        return self.writer.graph.gather(x, -1, self.writer.graph.constant(places))


@writes(GRURecurrence)
def _gru(
    writer: Writer, op: GRURecurrence, current: SymbolicSignal, start: Any = None, row: int = 0, lengths: Any = None
) -> tuple[SymbolicSignal, ...]:
    graph, q, rows = writer.graph, op.q, _Rows(writer, op.hidden)
    weight = writer.weights(op.weight.T.contiguous())
    bias = None if op.bias is None else graph.constant(op.bias.double() * float(writer.levels))

    def step(before: Tensors, arrives: SymbolicTensor) -> Tensors:
        (state,) = before
        recurrent = graph.matmul(state, weight)
        reset, update = (
            levels_reached(writer, graph.add(rows(arrives, gate), rows(recurrent, gate)), op.sigmoid, 0)
            for gate in (0, 1)
        )
        own = rows(recurrent, 2) if bias is None else graph.add(rows(recurrent, 2), bias)
        mixed = graph.add(graph.mul(rows(arrives, 2), float(q)), graph.mul(reset, own))
        candidate = levels_reached(writer, mixed, q * op.tanh.double(), -q)
        kept = graph.sub(graph.constant(float(q)), update)
        summed = graph.add(graph.mul(kept, candidate), graph.mul(update, state))
        return [reset, update, candidate, levels_nearest(writer, summed, q, q)]

    return _gated(writer, op, current, start, row, lengths, step)


@writes(LSTMRecurrence)
def _lstm(
    writer: Writer, op: LSTMRecurrence, current: SymbolicSignal, start: Any = None, row: int = 0, lengths: Any = None
) -> tuple[SymbolicSignal, ...]:
    graph, q, cells, rows = writer.graph, op.q, op.cells, _Rows(writer, op.hidden)
    weight, table = writer.weights(op.weight.T.contiguous()), graph.constant(op.table.double())

    def step(before: Tensors, arrives: SymbolicTensor) -> Tensors:
        state, cell = before
        total = graph.add(arrives, graph.matmul(state, weight))
        taken, kept, shown = (levels_reached(writer, rows(total, gate), op.sigmoid, 0) for gate in (0, 1, 3))
        candidate = levels_reached(writer, rows(total, 2), op.tanh, -q)
        mixed = graph.add(graph.mul(kept, cell), graph.mul(taken, candidate))
        after = levels_nearest(writer, mixed, cells, q)
        place = graph.cast(graph.add(after, graph.constant(float(cells))), torch.int64)
        seen = graph.mul(shown, graph.gather(table, 0, place))
        return [taken, kept, candidate, shown, after, levels_nearest(writer, seen, q, q)]

    return _gated(writer, op, current, start, row, lengths, step)


def levels_nearest(writer: Writer, x: SymbolicTensor, highest: int, unit: int) -> SymbolicTensor:
    """Whole totals in units, to the nearest one, halves to the even one, within `-highest..highest`."""
    return writer.graph.clip(
        writer.graph.unary("Round", writer.graph.div(x, float(unit))), -float(highest), float(highest)
    )


@writes(Emitted)
def _emitted(
    writer: Writer, op: Emitted, signal: SymbolicSignal, lengths: Any = None, *before: SymbolicSignal
) -> SymbolicSignal:
    return signal


@writes(LastState)
def _last_state(writer: Writer, op: LastState, output: SymbolicSignal, lengths: Any = None) -> SymbolicSignal:
    graph, axis = writer.graph, 1 if op.settings["batch_first"] else 0

    def picked(x: SymbolicTensor) -> SymbolicTensor:
        if op.settings["reverse"] or lengths is None:
            place = torch.tensor(0 if op.settings["reverse"] else -1)
            return graph.gather(x, axis, graph.constant(place))
        last = graph.sub(_column(writer, graph.tensor(lengths, torch.int64), axis), graph.tensor(1, torch.int64))
        is_last = graph.unsqueeze(graph.compare("Equal", _positions(writer, x, axis), last), -1)
        # All entries but one are zero.
        return graph.reduce("ReduceSum", graph.where(is_last, x, graph.constant(0.0)), [axis], keepdim=False)

    return writer.map(output, picked)
