"""Sums, products, quotients and functions of signals as nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from casc_core.engine.ops import Add, DividedByInput, LevelTable, Multiply, TimesInput, as_integers
from casc_core.export.integers.call import OperationCall, depends, ones_like
from casc_core.export.integers.form import integer_form, moved
from casc_core.export.integers.graph import Value
from casc_core.export.integers.numbers import bits_of, magnitude_units
from casc_core.export.integers.rules.reduction import rounded_mean


@integer_form.register
def _add(op: Add, call: OperationCall, a: Value, b: Value) -> Value:
    result = call.value(None, 0, a, b)
    one, other = (ones_like(each.signal) for each in (a, b))
    factors = [each.train[0] for each in one.with_common_divisor(other)]
    of_inputs = result.of_inputs and any(each.signal.divisor is not None for each in (a, b))
    read = [
        call.scaled((each.node, each.exponent), factor, factor.shape, of_inputs)
        for each, factor in zip((a, b), factors, strict=True)
        if each.node is not None
    ]
    if not read:
        return result
    node, exponent = call.sum(read, call.result.shape)
    return replace(result, node=node, exponent=exponent)


@integer_form.register
def _times(op: TimesInput, call: OperationCall, value: Value, factor: Any) -> Value:
    result = call.value(None, 0, value, factor)
    if value.node is None:
        return result
    numbers = as_integers(call.args[1], "multiplied", value.signal)
    node = call.scaled((value.node, value.exponent), numbers, call.result.shape, depends(factor))
    return replace(result, node=node[0], exponent=node[1])


@integer_form.register
def _multiply(op: Multiply, call: OperationCall, a: Value, b: Value) -> Value:
    one, other = (call.driven(each) for each in (a, b))
    if one is None or other is None:
        return call.value(None, 0)
    exponent, labels = one[1] + other[1], op.contraction.at(a.signal.shape, b.signal.shape)
    rounds = (
        None if op.settings["arriving"] is None else call.rounds(exponent, op.settings["exponent"], op.settings["held"])
    )
    equation = op.contraction.between(len(a.signal.shape), len(b.signal.shape))
    node, out = call.product(one, other, call.result.shape, equation, rounds)
    totals = (_largest_total(call, value, read) for value, read in ((a, one), (b, other)))
    call.graph.bits[node] = {"sum": bits_of(math.ceil(labels.terms * math.prod(totals)))}
    return Value(node, out, call.result, depends((a, b)) and call.result.divisor is not None)


def _largest_total(call: OperationCall, value: Value, node: tuple[str, int]) -> float:
    """The largest magnitude that a value adds up to, in units of this node."""
    signal, exponent = value.signal, node[1]
    awake = magnitude_units(signal.drive, exponent) * call.graph.wake_steps
    return magnitude_units(signal.bound * call.run.total, exponent) + awake


@integer_form.register
def _divided(op: DividedByInput, call: OperationCall, value: Value, divisor: Any) -> Value:
    if op.settings["grids"] is None:
        quotient: Value = moved(op, call, value, divisor)
        return quotient
    shape = value.signal.shape
    index = np.broadcast_to(np.arange(shape.numel()).reshape(shape), call.result.shape)[..., None]
    counts = as_integers(call.args[1], "divided", value.signal)
    return rounded_mean(call, value, index, op.settings["grids"], counts, depends(divisor))


@integer_form.register
def _level_table(op: LevelTable, call: OperationCall, value: Value) -> Value:
    if value.node is None:
        return call.value(None, 0, value)
    table, exponent = call.graph.tensor(op, "table", lambda: op.table)
    node, _ = call.node("table", [value.node], exponent, table=table, lowest=op.settings["lowest"])
    return Value(node, exponent, call.result)
