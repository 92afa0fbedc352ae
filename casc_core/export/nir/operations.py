"""How operations are written as nodes of a NIR graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.ops import (
    Add,
    Attribute,
    AveragePool,
    Bin,
    Convolution,
    DividedByInput,
    Fire,
    Layout,
    Linear,
    RequireFeatures,
    Sum,
    by_channel,
    dims_of,
)
from casc_core.engine.signal import Signal
from casc_core.export.nir.graph import RULES, Graph, Source, writes
from casc_core.export.walk import Call

INPUT = "current"
_FLATTENING = ("flatten", "view", "reshape")


def first_layer(graph: Graph, call: Call) -> Source:
    """The first layer, whose current is the input of the graph.

    Raises:
        ConversionError: there is one already, or its current is not what the inputs alone decide.
    """
    op = call.op
    if not isinstance(op, Fire) or graph.current is not None:
        raise RULES.refused(op, "it begins at one layer of neurons, whose current the inputs decide; this is another")
    (signal,) = call.args
    current, divisor = _received(graph, op, signal), signal.divisor
    if current is None or signal.steps or (divisor is not None and divisor.dim()):
        raise RULES.refused(op, "its current is not what the inputs alone decide")
    graph.current = current.clone()
    graph.add(INPUT, graph.nir.Input(input_type={"input": np.array(signal.shape[1:])}), ())
    return _neurons(graph, call, Source((INPUT,), 1.0 if divisor is None else float(divisor), signal))


@writes(Fire)
def _fire(graph: Graph, call: Call, source: Source) -> Source:
    assert isinstance(call.op, Fire)
    graph.flow(call.op, _received(graph, call.op, source.signal), source)
    return _neurons(graph, call, source)


def _received(graph: Graph, op: Fire, signal: Signal) -> Tensor | None:
    """What neurons receive at each step besides what comes of spikes."""
    if op.bias is not None:
        drive = signal.constant(op.bias)
        signal = replace(signal, lazy_drive=drive if signal.drive is None else signal.drive + drive)
    return signal.drive_on_grid(graph.numerics, op.settings["exponent"])


def _neurons(graph: Graph, call: Call, source: Source) -> Source:
    """A population; its thresholds are multiplied by what its current is yet to be divided by."""
    op, shape = call.op, source.shape
    assert isinstance(op, Fire)
    if op.charge is not None:
        raise RULES.refused(
            op, "its neurons begin with a potential, which NIR's cannot (a half step, or a threshold's share)"
        )
    threshold = torch.tensor(op.settings["threshold"], dtype=torch.float64)
    if op.thresholds is not None:
        threshold = op.thresholds.double()
        threshold = by_channel(threshold, shape).squeeze(0) if len(shape) > 2 else threshold
    values = (threshold * source.divisor).expand(shape[1:]).contiguous()
    node = graph.nir.IF(r=np.ones(values.shape), v_threshold=values.cpu().numpy(), v_reset=np.zeros(values.shape))
    name = graph.neurons[op.settings["name"]] = graph.add(op.settings["name"], node, source.nodes)
    return Source((name,), 1.0, call.result)


def _next(graph: Graph, call: Call, source: Source, name: str, node: Any, divisor: float = 1.0) -> Source:
    """What a node gives that reads a source, its numbers to be divided by this as well."""
    return Source((graph.add(name, node, source.nodes),), source.divisor * divisor, call.result)


@writes(Linear)
def _linear(graph: Graph, call: Call, source: Source) -> Source:
    op = call.op
    assert isinstance(op, Linear)
    if len(source.shape) != 2:
        raise RULES.refused(op, f"an affine node reads features [batch, features]; this one reads {list(source.shape)}")
    return _next(graph, call, source, op.settings["name"], graph.nir.Affine(*_affine(op)))


@writes(Convolution)
def _convolution(graph: Graph, call: Call, source: Source) -> Source:
    op = call.op
    assert isinstance(op, Convolution)
    given, dims = op.settings, op.settings["dims"]
    around = [given["padding"][2 * at : 2 * at + 2] for at in (0, 1)][-dims:]
    if any(low != high or low < 0 for low, high in around) or op.is_spread:
        raise RULES.refused(op, "a convolution pads alike before and after, and does not spread its input")
    weight, bias = _affine(op)
    stride, dilation, padding = (
        tuple(each[-dims:]) for each in (given["stride"], given["dilation"], [low for low, _ in around])
    )
    sizes, groups = source.shape[2:], given["groups"]
    if dims == 1:
        node = graph.nir.Conv1d(int(sizes[0]), weight.squeeze(2), stride[0], padding[0], dilation[0], groups, bias)
    else:
        node = graph.nir.Conv2d(tuple(map(int, sizes)), weight, stride, padding, dilation, groups, bias)
    return _next(graph, call, source, given["name"], node)


def _affine(op: Linear | Convolution) -> tuple[Any, Any]:
    """Weights, and biases of zero: what flows at each step is put in where it is received."""
    if op.settings["rounds"] or op.weight is None:
        raise RULES.refused(op, "it rounds what it reads, which is no spikes")
    return op.weight.double().cpu().numpy(), np.zeros(op.outputs)


@writes(AveragePool)
def _average(graph: Graph, call: Call, source: Source) -> Source:
    op, sizes = call.op, source.shape[2:]
    assert isinstance(op, AveragePool)
    given, counts = op.settings, op.counts(tuple(sizes))
    floored = [
        (size + 2 * window.padding - window.kernel) // window.stride + 1
        for size, window in zip(sizes, op.windows, strict=True)
    ]
    if op.dims != 2 or given["grids"] is not None or floored != list(call.result.shape[2:]):
        raise RULES.refused(op, "a sum pool slides over two dimensions, with whole windows")
    if op.divides and len(counts.unique()) > 1:
        raise RULES.refused(op, "its windows hold unequal numbers of entries")
    pool = _sum_pool(graph, given["kernel"], given["stride"], given["padding"])
    return _next(graph, call, source, given["name"], pool, float(counts.flatten()[0]) if op.divides else 1.0)


def _sum_pool(graph: Graph, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Any:
    return graph.nir.SumPool2d(*(np.array(each) for each in (kernel, stride, padding)))


@writes(Sum)
def _sum(graph: Graph, call: Call, source: Source, dim: Any = None, keepdim: bool = False) -> Source:
    op, shape = call.op, source.shape
    plane = list(map(int, shape[2:]))
    if sorted(dims_of(shape, dim)) != [-2, -1] or len(shape) != 4 or op.settings["grids"] is not None:
        raise RULES.refused(op, "a sum over anything but height and width has no node")
    pool, count = _sum_pool(graph, plane, plane, [0, 0]), math.prod(plane) if op.settings["mean"] else 1
    pooled = _next(graph, call, source, "sum", pool, float(count))
    return pooled if keepdim else _flattened(graph, call, pooled, [shape[1], 1, 1])


def _flattened(graph: Graph, call: Call, source: Source, shape: Sequence[int]) -> Source:
    node = graph.nir.Flatten(input_type={"input": np.array(list(shape))}, start_dim=0, end_dim=-1)
    return _next(graph, call, source, "flatten", node)


@writes(Layout)
def _layout(graph: Graph, call: Call, source: Source, *args: Any, **kwargs: Any) -> Source:
    function, shape = call.op.settings["function"].rpartition(".")[2], source.shape
    if isinstance(call.result, Signal) and function in _FLATTENING:
        if call.result.shape == shape:
            return source
        if call.result.shape == torch.Size([shape[0], math.prod(shape[1:])]):
            return _flattened(graph, call, source, shape[1:])
    raise RULES.refused(call.op, "of layouts, it has flattening alone")


@writes(Add)
def _add(graph: Graph, call: Call, a: Source, b: Source) -> Source:
    if a.divisor != b.divisor or set(a.nodes) & set(b.nodes):
        raise RULES.refused(call.op, "what it adds is divided by unequal numbers, or one and the same")
    return Source((*a.nodes, *b.nodes), a.divisor, call.result)


@writes(DividedByInput)
def _divided(graph: Graph, call: Call, source: Source, divisor: Any) -> Source:
    if isinstance(divisor, Tensor) and divisor.dim():
        raise RULES.refused(call.op, "a divisor differs by sample")
    if call.op.settings["grids"] is not None:
        raise RULES.refused(call.op, "its quotient is rounded")
    return replace(source, divisor=source.divisor * float(divisor), signal=call.result)


@writes(Attribute)
def _attribute(graph: Graph, call: Call, source: Source) -> Any:
    return call.result  # a shape, which is of the run


@writes(Bin)
def _bin(graph: Graph, call: Call, source: Source) -> Source:
    raise RULES.refused(
        call.op,
        "maps in a row, as trained, are rounded and run in bins of several steps: convert with casc_core.Exact(8)",
    )


@writes(RequireFeatures)
def _require_features(graph: Graph, call: Call, source: Source) -> Source:
    return source
