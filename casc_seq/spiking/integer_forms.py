"""Recurrent layers in an export of integers: what happens at one position, and which spikes reach the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.export.grids import finest_exponent
from casc_core.export.integers.call import OperationCall, depends
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Value
from casc_core.export.integers.numbers import bits_of, magnitude_units, units
from casc_core.export.integers.rules.neurons import made, neuron_fields, potential_bits
from casc_core.extend import LevelThresholds, Signal
from casc_seq.spiking.gated_cells import GRURecurrence, LSTMRecurrence
from casc_seq.spiking.gated_recurrence import Emitted, GatedRecurrence
from casc_seq.spiking.level_thresholds import nearest_thresholds
from casc_seq.spiking.recurrence import Recurrence

Node = tuple[str, int]
"""A node, and the exponent of its unit."""


@integer_form.register
def _recurrence(op: Recurrence, call: OperationCall, value: Value, *args: Any, **kwargs: Any) -> Value:
    signal, initial, lengths, potential = op.received(call.run, *call.args)
    exponent, threshold, hidden = op.settings["exponent"], op.settings["threshold"], len(op.weight)
    drive = signal.drive_on_grid(call.run.numerics, exponent)
    length, first = signal.shape.numel() // hidden, _first(op, signal, lengths)
    flowing = None if initial is None else initial.drive
    if flowing is not None:
        each = torch.zeros(1, length, hidden, dtype=torch.float64)
        each[0, first] = flowing
        each = each.reshape(signal.shape)
        drive = each if drive is None else drive + each
    of_inputs = depends((value, args))
    x = _inputs(call, value, signal, drive, exponent, of_inputs, flowing is None)
    if args and isinstance(args[0], Value) and args[0].node is not None:
        place = np.full((length, hidden, 1), -1)
        place[first, :, 0] = np.arange(hidden)
        start = call.gathered([(args[0].node, args[0].exponent)], place, [length, hidden], depends(args))
        x = call.sum([x, start], [length, hidden])
    with call.graph.body() as body:
        received = call.sum([("x", x[1]), _recurrent(op, call, op.weight)], [hidden])
        fields = neuron_fields(call, op.settings["name"], exponent, threshold, potential)
        name = op.settings["name"]
        fired, _ = call.node(
            "population", [received[0]], 0, [hidden], layer=name, shift=received[1] - exponent, **fields
        )
    bound = signal.bound + op.reach + (0.0 if initial is None else initial.bound)
    reach, flow = magnitude_units(bound, exponent), magnitude_units(drive, exponent)
    call.graph.bits[fired] = {
        "sum": bits_of(math.ceil(reach * call.run.peak + flow)),
        "potential": potential_bits(
            call.run, reach * call.run.total + flow * call.graph.wake_steps, threshold, potential, exponent
        ),
    }
    (emitted,) = _node(op, call, x, body, {"h": (fired, None)}, [fired], lengths, args)
    return Value(emitted, 0, call.result)


@integer_form.register
def _gru(op: GRURecurrence, call: OperationCall, value: Value, *args: Any, **kwargs: Any) -> tuple[Value, ...]:
    q, (signal, initial, lengths) = op.q, op.received(call.run, *call.args)
    x = _gated_inputs(op, call, value, signal, args)
    (begins,) = _begins(op, call, initial, args)
    with call.graph.body() as body:
        recurrent = _recurrent(op, call, op.weight)
        both = call.sum([("x", x[1]), recurrent], [len(op.weight)])
        first, second, last = op.blocks
        gates = _Populations(op, call, signal)
        reset, update = (gates.fired(_rows(call, both, rows), op.sigmoid, 0, gates.current) for rows in (first, second))
        own = _rows(call, recurrent, last)
        if op.bias is not None:
            own = call.sum([own, call.drive(op.bias, op.settings["exponent"], False)], [op.hidden])
        new = _added(call, [_times(call, _rows(call, ("x", x[1]), last), q), _product(call, reset, own)])
        candidate = gates.fired(new, q * op.tanh.double(), -q, 2 * q * gates.current)
        state: Node = ("h", 0)
        new, old = (_product(call, update, each) for each in (candidate, state))
        kept = [_times(call, candidate, q), _times(call, new, -1), old]
        after = gates.fired(_added(call, kept), nearest_thresholds(q, q), -q, 2.0 * q * q)
    carries = {"h": (after[0], begins)}
    emitted = _node(op, call, x, body, carries, [each[0] for each in (reset, update, candidate, after)], lengths, args)
    return _values(call, emitted, body)


@integer_form.register
def _lstm(op: LSTMRecurrence, call: OperationCall, value: Value, *args: Any, **kwargs: Any) -> tuple[Value, ...]:
    q, (signal, initial, lengths) = op.q, op.received(call.run, *call.args)
    x = _gated_inputs(op, call, value, signal, args)
    begins, begins_cells = _begins(op, call, initial, args)
    with call.graph.body() as body:
        both = call.sum([("x", x[1]), _recurrent(op, call, op.weight)], [len(op.weight)])
        gates = _Populations(op, call, signal)
        taken, kept, candidate, shown = (
            gates.fired(_rows(call, both, rows), thresholds, lowest, gates.current)
            for rows, thresholds, lowest in zip(
                op.blocks, (op.sigmoid, op.sigmoid, op.tanh, op.sigmoid), (0, 0, -q, 0), strict=True
            )
        )
        before: Node = ("c", 0)
        products = [_product(call, kept, before), _product(call, taken, candidate)]
        cells = gates.fired(
            _added(call, products), nearest_thresholds(op.cells, q), -op.cells, 2.0 * q * (op.cells + q)
        )
        table, _ = call.graph.tensor(op, "cells", lambda: op.table)
        seen = call.node("table", [cells[0]], 0, [op.hidden], table=table, lowest=-op.cells)
        after = gates.fired(_product(call, shown, seen), nearest_thresholds(q, q), -q, 2.0 * q * q)
    carries = {"h": (after[0], begins), "c": (cells[0], begins_cells)}
    populations = (taken, kept, candidate, shown, cells, after)
    emitted = _node(op, call, x, body, carries, [each[0] for each in populations], lengths, args)
    return _values(call, emitted, body)


@integer_form.register
def _emitted(op: Emitted, call: OperationCall, value: Value, *args: Any) -> Value:
    assert value.node is not None
    call.graph.unnamed[value.node]["layer"] = op.settings["name"]
    return value


class _Populations:
    """The populations of one position of a gated layer.

    Attributes:
        current: the largest that a gate receives in a run, in the network's numbers.
    """

    def __init__(self, op: GatedRecurrence, call: OperationCall, signal: Signal) -> None:
        self.op, self.call = op, call
        self.exponent = op.settings["exponent"]
        own = 0.0 if not isinstance(op, GRURecurrence) or op.bias is None else float(op.bias.abs().max())
        drive = 0.0 if signal.drive is None else float(signal.drive.abs().max())
        self.current = call.run.total * (signal.bound + op.reach) + call.graph.wake_steps * (drive + own)

    def fired(self, received: Node, thresholds: Tensor, lowest: int, reach: float) -> Node:
        """A population with a threshold for each level, that receives at most so much in a run."""
        call, name = self.call, self.op.settings["name"]
        levels = LevelThresholds(thresholds.double(), lowest)
        potential = call.run.initial_potential(None, levels, self.exponent, levels.values.device)
        unit = min(received[1], finest_exponent(levels.values), 0 if potential is None else self.exponent)
        fields = neuron_fields(call, name, unit, levels, potential)
        shape = [self.op.hidden]
        node, _ = call.node("population", [received[0]], 0, shape, layer=None, shift=received[1] - unit, **fields)
        most = magnitude_units(reach, unit)
        call.graph.bits[node] = {
            "sum": bits_of(math.ceil(2 * most)), "potential": potential_bits(call.run, most, levels, potential, unit)
        }  # fmt: skip
        return node, 0


def _inputs(
    call: OperationCall,
    value: Value,
    signal: Signal,
    drive: Tensor | None,
    exponent: int,
    of_inputs: bool,
    as_made: bool,
) -> Node:
    """What arrives at all positions from outside, `[length, features]`."""
    width = signal.shape[-1]
    shape = [signal.shape.numel() // width, width]
    arriving = [] if value.node is None else [call.node("reshape", [value.node], value.exponent, shape)]
    if drive is not None or not arriving:
        drive = torch.zeros(signal.shape, dtype=torch.float64) if drive is None else drive
        reads = Value(value.node, value.exponent, signal, of_inputs, None, value.origin)
        origin = made(call, reads, exponent, None) if as_made else {}
        origin = origin if "table" in origin.get("made", {}) else {}
        arriving.append(call.drive(drive.reshape(shape), exponent, of_inputs, **origin))
    return arriving[0] if len(arriving) == 1 else call.sum(arriving, shape)


def _gated_inputs(op: GatedRecurrence, call: OperationCall, value: Value, signal: Signal, args: Any) -> Node:
    exponent = op.settings["exponent"]
    drive = signal.drive_on_grid(call.run.numerics, exponent)
    return _inputs(call, value, signal, drive, exponent, depends((value, args)), as_made=True)


def _begins(op: GatedRecurrence, call: OperationCall, initial: Sequence[Tensor], args: Any) -> Sequence[Tensor | str]:
    """What each state begins with: levels at the first step, or the node that gives them step by step."""
    given = args[0] if args else None
    given = given if isinstance(given, (tuple, list)) else [given] * len(op.STATES)

    def begins(train: Tensor, state: Any) -> Tensor | str:
        if isinstance(state, Value) and state.node is not None:
            return call.node("reshape", [state.node], 0, [op.hidden])[0]
        return train[0, 0] if len(train) and not isinstance(state, Value) else train.new_zeros(op.hidden)

    return [begins(*each) for each in zip(initial, given, strict=True)]


def _first(op: Recurrence, signal: Signal, lengths: Tensor | None) -> int:
    """The position that a recurrence visits first."""
    length = signal.shape[1 if op.settings["batch_first"] else 0]
    return (length if lengths is None else int(lengths[0])) - 1 if op.settings["reverse"] else 0


def _recurrent(op: Recurrence | GatedRecurrence, call: OperationCall, weight: Tensor) -> Node:
    """What the state of the position before brings."""
    name, exponent = call.graph.tensor(op, "weight", lambda: weight)
    return call.node("linear", ["h"], exponent, [len(weight)], weight=name)


def _node(
    op: Recurrence | GatedRecurrence, call: OperationCall, x: Node, body: list[dict[str, Any]],
    carries: Mapping[str, tuple[str, Tensor | str | None]], emits: Sequence[str], lengths: Tensor | None, args: Any,
) -> list[str]:  # fmt: skip
    """The node of a recurrence; the nodes that give what its populations emit, in the shape of the result."""
    graph, name, hidden = call.graph, op.settings["name"], op.weight.shape[1]
    of_inputs = depends(args)
    begins, read = {}, [x[0]]
    for state, (_, first) in carries.items():
        if isinstance(first, str):
            begins[state] = first
            read.append(first)
            continue
        levels = np.zeros(hidden, np.int64) if first is None else units(first, 0, f"{name}: an initial state")
        begins[state] = graph.kept(f"{name}.{state}", levels, of_inputs and first is not None)
    kept = None if lengths is None else graph.kept(f"{name}.lengths", units(lengths[0], 0, "a length"), of_inputs)
    results = call.result if isinstance(call.result, tuple) else (call.result,)
    length = results[0].shape.numel() // hidden
    call.node(
        "recurrence", read, 0, [length, hidden], reverse=op.settings["reverse"], lengths=kept, body=body,
        carries={state: [given, begins[state]] for state, (given, _) in carries.items()}, emits=list(emits),
    )  # fmt: skip
    return [call.node("reshape", [each], 0, result.shape)[0] for each, result in zip(emits, results, strict=True)]


def _values(call: OperationCall, emitted: Sequence[str], body: list[dict[str, Any]]) -> tuple[Value, ...]:
    populations = [node for node in body if node["kind"] == "population"]
    call.graph.unnamed |= dict(zip(emitted, populations, strict=True))
    return tuple(Value(node, 0, result) for node, result in zip(emitted, call.result, strict=True))


def _rows(call: OperationCall, node: Node, rows: slice) -> Node:
    index = np.arange(rows.start, rows.stop)[:, None]
    return call.gathered([node], index, [len(index)], False)


def _times(call: OperationCall, node: Node, factor: int) -> Node:
    return call.scaled(node, torch.tensor(float(factor), dtype=torch.float64), _shape(call), False)


def _product(call: OperationCall, one: Node, other: Node) -> Node:
    return call.product(one, other, _shape(call))


def _added(call: OperationCall, read: Sequence[Node]) -> Node:
    return call.sum(read, _shape(call))


def _shape(call: OperationCall) -> list[int]:
    assert isinstance(call.op, GatedRecurrence)
    return [call.op.hidden]
