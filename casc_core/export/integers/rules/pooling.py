"""Pools and interpolations as nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from casc_core.engine.ops import AdaptiveAveragePool, AdaptiveMaxPool, Interpolate, MaxPool, PoolAt
from casc_core.engine.ops.pooling import Average, AveragePool
from casc_core.engine.products.pooling_windows import per_dimension
from casc_core.export.integers.call import OperationCall, plain_dims
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Value
from casc_core.export.integers.places import along, parts, windows
from casc_core.export.integers.rules.reduction import rounded_mean, running_maximum, sums


@integer_form.register(AveragePool)
@integer_form.register(AdaptiveAveragePool)
def _average(op: Average, call: OperationCall, value: Value, outputs: Any = None) -> Value:
    if outputs is not None:
        op = AdaptiveAveragePool(op.settings["name"], per_dimension(plain_dims(outputs), op.dims), op.settings["grids"])
    size = tuple(value.signal.shape[-op.dims :])
    counts, grids = op.counts(size), op.settings["grids"]
    if isinstance(op, AveragePool):
        lines = [windows(window, each) for window, each in zip(op.windows, size, strict=True)]
    else:
        lines = [parts(each, count or each) for each, count in zip(size, op.settings["outputs"], strict=True)]
    index = along(value.signal.shape, lines)
    if grids is not None:
        return rounded_mean(call, value, index, grids, counts)
    return sums(call, value, index, math.lcm(*counts.unique().tolist()) // counts if op.divides else None)


@integer_form.register
def _pool_at(op: PoolAt, call: OperationCall, value: Value, kernel: Any, stride: Any = None) -> Any:
    given = (plain_dims(each) for each in (kernel, stride))
    pool = op.pool(*given)
    return integer_form(pool, replace(call, op=pool), value)


@integer_form.register
def _interpolate(op: Interpolate, call: OperationCall, value: Value, size: Any = None) -> Value:
    lines = op.lines(value.signal.shape[2:], call.result.shape[2:])
    index = along(value.signal.shape, [torch.stack([each.low, each.high], 1).numpy() for each in lines])
    weights = np.ones((1,), dtype=np.int64)
    for each in lines:
        own = torch.stack([each.below, each.above], 1).numpy()
        weights = (weights[..., None, :, None] * own[:, None, :]).reshape(*weights.shape[:-1], len(own), -1)
    name = call.graph.constant(f"{call.name}.weights", weights[None, None])
    result = call.value(None, 0, value)
    if value.node is None:
        return result
    node = call.gathered([(value.node, value.exponent)], index, call.result.shape, False, weights=name)
    return replace(result, node=node[0], exponent=node[1])


@integer_form.register
def _max_pool(op: MaxPool, call: OperationCall, value: Value) -> Value:
    size = value.signal.shape[-len(op.windows) :]
    lines = [windows(window, each) for window, each in zip(op.windows, size, strict=True)]
    return running_maximum(call, value, along(value.signal.shape, lines))


@integer_form.register
def _adaptive_max_pool(op: AdaptiveMaxPool, call: OperationCall, value: Value, outputs: Any = None) -> Value:
    given = (
        op.settings["outputs"] if outputs is None else per_dimension(plain_dims(outputs), len(op.settings["outputs"]))
    )
    size = value.signal.shape[-len(given) :]
    lines = [parts(each, count or each) for each, count in zip(size, given, strict=True)]
    return running_maximum(call, value, along(value.signal.shape, lines))
