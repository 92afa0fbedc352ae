"""Sums, means and maxima over dimensions as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import Max, Sum, dims_of
from casc_core.export.integers.call import OperationCall, plain_dims
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Value
from casc_core.export.integers.numbers import MINUS_INFINITY, Array, magnitude_units, units
from casc_core.export.integers.places import reduced


@integer_form.register
def _sum(op: Sum, call: OperationCall, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = dims_of(value.signal.shape, plain_dims(dim))
    index, grids = reduced(value.signal.shape, dims), op.settings["grids"]
    if grids is None:
        return sums(call, value, index)
    counts = torch.tensor(float(math.prod(value.signal.shape[each] for each in dims)))
    return rounded_mean(call, value, index, grids, counts)


@integer_form.register
def _max(op: Max, call: OperationCall, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    shape = value.signal.shape
    return running_maximum(call, value, reduced(shape, dims_of(shape, plain_dims(dim))))


def rounded_mean(
    call: OperationCall, value: Value, index: Array, grids: Sequence[int], counts: Tensor, of_inputs: bool = False
) -> Value:
    """Sums of entries over counts, rounded to a grid.

    Args:
        of_inputs: whether the counts depend on what the inputs are.
    """
    known = call.value(None, 0, value, drive_exponent=None)
    result = replace(known, of_inputs=known.of_inputs or of_inputs)
    if value.node is None:
        return result
    rounds, out = call.rounds(value.exponent, grids[1])
    rounds["divisor"] = call.graph.kept(f"{call.name}.counts", units(counts, 0, "counts"), of_inputs)
    index = index.reshape(*call.result.shape, index.shape[-1])
    node, _ = call.gathered([(value.node, value.exponent)], index, call.result.shape, False, rounds=rounds)
    return replace(result, node=node, exponent=out)


def sums(call: OperationCall, value: Value, index: Array, factor: Tensor | None = None) -> Value:
    """Sums of entries, times a factor for each."""
    result, shape = call.value(None, 0, value), call.result.shape
    if value.node is None:
        return result
    index = index.reshape(*shape, index.shape[-1])
    node = call.gathered([(value.node, value.exponent)], index, shape, False)
    if factor is not None:
        node = call.scaled(node, factor.double(), shape, False)
    return replace(result, node=node[0], exponent=node[1])


def running_maximum(call: OperationCall, value: Value, index: Array) -> Value:
    """The running maximum of entries."""
    driven = call.driven(value)
    if driven is None:
        return call.value(None, 0, value)
    signal = value.signal
    reach = magnitude_units(signal.bound * call.run.total, driven[1])
    reach += magnitude_units(signal.drive, driven[1]) * call.graph.wake_steps
    if not reach < MINUS_INFINITY // call.graph.wake_steps:
        raise call.refuse(
            f"its entries may reach {reach:.3g} units, and what stands for minus infinity must be below them"
        )
    index = index.reshape(*call.result.shape, index.shape[-1])
    kept = call.graph.constant(f"{call.name}.index", index)
    node, exponent = call.node("max", [driven[0]], driven[1], index=kept)
    return Value(node, exponent, call.result, value.of_inputs and call.result.divisor is not None)
