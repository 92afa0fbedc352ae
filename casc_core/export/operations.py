"""The engine's operations as nodes, but for populations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    Add,
    AffineMap,
    Attribute,
    Bin,
    Constant,
    Convolution,
    Convolution3d,
    Embed,
    Encode,
    Interpolate,
    Linear,
    MaskedFill,
    Max,
    MaxPool,
    Multiply,
    Op,
    Pick,
    PoolAt,
    RequireFeatures,
    Round,
    Scale,
    Silence,
    Sum,
    TimesInput,
    Unbin,
    as_integers,
    dims_of,
)
from casc_core.engine.ops import Call as Function
from casc_core.engine.ops.affine import aligned
from casc_core.engine.ops.pooling import Average, AveragePool
from casc_core.engine.products.pooling_windows import per_dimension
from casc_core.export.graph import OperationCall, Plain, Value, depends, ones_like
from casc_core.export.integer_form import integer_form, moved
from casc_core.export.integers import MINUS_INFINITY, Array, bits_of, finest_exponent, magnitude_units, units
from casc_core.export.places import along, parts, reduced, windows
from casc_core.numerics import AsTrained


@integer_form.register(Function)
@integer_form.register(Attribute)
@integer_form.register(Constant)
def _plain(op: Op, call: OperationCall, *args: Any, **kwargs: Any) -> Any:
    made = any(isinstance(leaf, Tensor) for leaf in leaves(call.result))  # and no mere size
    return Plain(call.result, made and depends((args, kwargs)))


@integer_form.register
def _encode(op: Encode, call: OperationCall, value: Any) -> Value:
    drive = call.result.drive
    exponent = op.settings["exponent"]
    origin = {"input": call.graph.kept_real("input", drive)} if depends(value) else None
    return Value(None, 0, call.result, depends(value), exponent, origin)


@integer_form.register(Embed)
@integer_form.register(Silence)
def _without_train(op: Op, call: OperationCall, value: Any) -> Value:
    grid = call.graph.weights.of(op, "table", lambda: op.table)[1] if isinstance(op, Embed) else None
    return Value(None, 0, call.result, depends(value), grid)


@integer_form.register
def _round(op: Round, call: OperationCall, value: Value) -> Value:
    return replace(value, signal=call.result, drive_exponent=op.settings["exponent"], origin=None)


@integer_form.register(RequireFeatures)
@integer_form.register(Unbin)
def _as_it_is(op: Op, call: OperationCall, value: Value) -> Value:
    return replace(value, signal=call.result)


@integer_form.register
def _bin(op: Bin, call: OperationCall, value: Value) -> Value:
    if value.node is None or call.result.period == 1:
        return replace(value, signal=call.result)
    node, _ = call.node("bin", [value.node], value.exponent, period=call.result.period)
    return replace(value, node=node, signal=call.result)


@integer_form.register
def _pick(op: Pick, call: OperationCall, values: Sequence[Value]) -> Value:
    part: Value = values[op.settings["index"]]
    return part


integer_form.register(MaskedFill, moved)


@integer_form.register(Linear)
@integer_form.register(Convolution)
@integer_form.register(Convolution3d)
def _affine(op: AffineMap, call: OperationCall, value: Value) -> Value:
    kind, fields = ("linear", {}) if isinstance(op, Linear) else ("convolution", _geometry(op))
    origin = _map_of_input(op, call, value, kind, fields)
    result = call.value(None, 0, value, drive_exponent=_drive_grid(op, call, value), origin=origin)
    if value.node is None or op.weight is None:
        return result
    weight = op.weight
    name, own = call.graph.tensor(op, "weight", lambda: _natural(op, weight))
    node, exponent = _spread(op, call, value), value.exponent + own
    # What is on no finer grid than the one that it is rounded to stays as it is.
    if not op.settings["rounds"] or (exponent >= op.settings["exponent"] and op.settings["held"] is None):
        made = call.node(kind, [node], exponent, weight=name, **fields)
        call.graph.bits[made[0]] = {"sum": _sum_bits(call, exponent)}
        return replace(result, node=made[0], exponent=exponent)
    rounds, out = call.rounds(exponent, op.settings["exponent"], _limit(op, call))
    made = call.node(kind, [node], out, weight=name, rounds=rounds, **fields)
    totals = value.signal.bound * call.run.total * float(weight.double().abs().flatten(1).sum(1).max())
    call.graph.bits[made[0]] = {"sum": bits_of(magnitude_units(totals, exponent))}
    return replace(result, node=made[0], exponent=out)


def _drive_grid(op: Op, call: OperationCall, value: Value) -> int | None:
    """The grid of a result's drive; as trained, what comes of inputs is on none before neurons receive it."""
    unrounded = isinstance(call.run.numerics, AsTrained) and value.signal.lazy_drive is not None
    return None if unrounded else op.settings["drive_exponent"]


def _sum_bits(call: OperationCall, exponent: int) -> int:
    """Bits that are proven to hold what a map gives at one step, and the sums on the way to it."""
    return bits_of(math.ceil(magnitude_units(call.result.bound * call.run.peak, exponent)))


def _limit(op: AffineMap, call: OperationCall) -> int | None:
    held, exponent = op.settings["held"], op.settings["exponent"]
    return None if held is None else math.ceil(math.ldexp(held * (call.run.total + 2), -exponent))


def _map_of_input(op: AffineMap, call: OperationCall, value: Value, kind: str, fields: dict[str, Any]) -> Any:
    """How its drive is made of an input that it reads directly; None: it reads none, or something else besides."""
    is_spread = isinstance(op, Convolution) and op.is_spread
    if (
        value.origin is None
        or "weight" in value.origin
        or op.fine is None
        or value.signal.divisor is not None
        or is_spread
    ):
        return None
    fine, bias = op.fine, op.bias
    weight, exponent = call.graph.tensor(op, "fine", lambda: _natural(op, fine))
    origin = {**value.origin, "kind": kind, "weight": weight, "weight_exponent": exponent, **fields}
    is_rounded = not isinstance(call.run.numerics, AsTrained)
    origin |= {"rounds_to": op.settings["drive_exponent"] if is_rounded else None, "bias": None, "bias_exponent": 0}
    if bias is not None:
        origin["bias"], origin["bias_exponent"] = call.graph.tensor(op, "bias", lambda: bias)
    return origin


def _natural(op: AffineMap, weight: Tensor) -> Tensor:
    """Weights with as many dimensions as the convolution moves over."""
    return weight.squeeze(2) if isinstance(op, Convolution) and op.settings["dims"] == 1 else weight


def _geometry(op: AffineMap) -> dict[str, Any]:
    given = op.settings
    dims = given["dims"] if isinstance(op, Convolution) else 3
    is_cut = isinstance(op, Convolution) and op.is_cut  # then it is padded and cut beforehand
    around = [0] * 2 * dims if is_cut else given["padding"][-2 * dims :]
    return {
        "stride": list(given["stride"][-dims:]),
        "padding": [list(around[start : start + 2]) for start in range(0, 2 * dims, 2)],
        "dilation": list(given["dilation"][-dims:]),
        "groups": given["groups"],
    }


def _spread(op: AffineMap, call: OperationCall, value: Value) -> str:
    """The node that a convolution slides over: of a transposed one, with zeros between the entries."""
    assert value.node is not None
    if not isinstance(op, Convolution) or not op.is_spread:
        return value.node
    shape = value.signal.shape
    numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(shape)
    place = op.spread(numbers).long().numpy() - 1
    node, _ = call.gathered([(value.node, value.exponent)], place[..., None], place.shape, False)
    return node


@integer_form.register
def _scale(op: Scale, call: OperationCall, value: Value) -> Value:
    result = call.value(None, 0, value, drive_exponent=_drive_grid(op, call, value))
    if value.node is None:
        return result
    _, (factor,) = aligned(value.signal, op.settings["axis"], op.factor)
    if op.settings["grids"] is None:
        node = call.scaled((value.node, value.exponent), factor, call.result.shape, False)
        return replace(result, node=node[0], exponent=node[1])
    own = finest_exponent(factor)
    kept = call.graph.constant(f"{call.name}.factor", units(factor, own, "a factor"))
    rounds, out = call.rounds(value.exponent + own, op.settings["grids"][1])
    node = call.node("scale", [value.node], out, factor=kept, rounds=rounds)
    return replace(result, node=node[0], exponent=node[1])


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
    read = [call.driven(each) for each in (a, b)]
    if None in read:
        return call.value(None, 0)
    (one, by_one), (other, by_other) = (each for each in read if each is not None)
    exponent, arriving = by_one + by_other, op.settings["arriving"]
    rounds, out = (None, exponent) if arriving is None else call.rounds(exponent, op.settings["exponent"])
    node, _ = call.node("product", [one, other], out, rounds=rounds)
    return Value(node, out, call.result, depends((a, b)) and call.result.divisor is not None)


@integer_form.register
def _sum(op: Sum, call: OperationCall, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = dims_of(value.signal.shape, plain_dims(dim))
    counts = torch.tensor(float(math.prod(value.signal.shape[each] for each in dims)))
    return _summed(call, value, reduced(value.signal.shape, dims), None, op.settings["grids"], counts)


@integer_form.register(AveragePool)
@integer_form.register(AdaptiveAveragePool)
def _average(op: Average, call: OperationCall, value: Value, outputs: Any = None) -> Value:
    if outputs is not None:
        op = AdaptiveAveragePool(op.settings["name"], per_dimension(plain_dims(outputs), op.dims), op.settings["grids"])
    size = tuple(value.signal.shape[-op.dims :])
    counts = op.counts(size)
    factor = None
    if op.divides and op.settings["grids"] is None:
        factor = math.lcm(*counts.unique().tolist()) // counts
    if isinstance(op, AveragePool):
        lines = [windows(window, each) for window, each in zip(op.windows, size, strict=True)]
    else:
        lines = [parts(each, count or each) for each, count in zip(size, op.settings["outputs"], strict=True)]
    return _summed(call, value, along(value.signal.shape, lines), factor, op.settings["grids"], counts)


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
    return _largest(call, value, along(value.signal.shape, lines))


@integer_form.register
def _adaptive_max_pool(op: AdaptiveMaxPool, call: OperationCall, value: Value, outputs: Any = None) -> Value:
    given = (
        op.settings["outputs"] if outputs is None else per_dimension(plain_dims(outputs), len(op.settings["outputs"]))
    )
    size = value.signal.shape[-len(given) :]
    lines = [parts(each, count or each) for each, count in zip(size, given, strict=True)]
    return _largest(call, value, along(value.signal.shape, lines))


@integer_form.register
def _max(op: Max, call: OperationCall, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    shape = value.signal.shape
    return _largest(call, value, reduced(shape, dims_of(shape, plain_dims(dim))))


def _summed(
    call: OperationCall, value: Value, index: Array, factor: Tensor | None, grids: Sequence[int] | None, counts: Tensor
) -> Value:
    """Sums of entries, times a factor for each, or means rounded to a grid."""
    result, shape = call.value(None, 0, value), call.result.shape
    if value.node is None:
        return result
    read = [(value.node, value.exponent)]
    index = index.reshape(*shape, index.shape[-1])
    if grids is not None:
        rounds, out = call.rounds(value.exponent, grids[1])
        rounds["divisor"] = call.graph.constant(f"{call.name}.counts", units(counts, 0, "counts"))
        return replace(result, node=call.gathered(read, index, shape, False, rounds=rounds)[0], exponent=out)
    node = call.gathered(read, index, shape, False)
    if factor is not None:
        node = call.scaled(node, factor.double(), shape, False)
    return replace(result, node=node[0], exponent=node[1])


def _largest(call: OperationCall, value: Value, index: Array) -> Value:
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


def plain_dims(value: Any) -> Any:
    """An argument of numbers, as the operation was called with it."""
    return map_leaves(value, lambda leaf: leaf.value if isinstance(leaf, Plain) else leaf)
