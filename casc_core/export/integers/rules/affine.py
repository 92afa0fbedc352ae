"""Linear maps and factors as nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import AffineMap, Convolution, Convolution3d, Linear, Op, Scale
from casc_core.engine.ops.affine import aligned
from casc_core.export.grids import finest_exponent
from casc_core.export.integers.call import OperationCall
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Value
from casc_core.export.integers.numbers import bits_of, magnitude_units, units
from casc_core.numerics import AsTrained


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
    rounds, out = call.rounds(exponent, op.settings["exponent"], op.settings["held"])
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
