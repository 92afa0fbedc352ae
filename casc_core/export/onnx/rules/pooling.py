"""How pools and interpolations are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import AdaptiveAveragePool, AdaptiveMaxPool, AveragePool, Interpolate, MaxPool, PoolAt
from casc_core.engine.ops.pooling import Average
from casc_core.engine.products.pooling_windows import Window, adaptive, per_dimension
from casc_core.export.onnx.graph import Cut, Graph, SymbolicSize, SymbolicTensor, fixed_size
from casc_core.export.onnx.rules.reduction import rounded_mean, running_maximum
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import SymbolicSignal, Writer, unsupported


def _sizes(signal: SymbolicSignal, dims: int, name: str) -> list[int]:
    """Those of the last dimensions, over which windows slide."""
    return [fixed_size(signal.framed, dim, name) for dim in range(-dims, 0)]


def _require_batch(signal: SymbolicSignal, dims: int, name: str) -> None:
    if signal.dim != dims + 2:
        raise unsupported(name, f"its input is {list(signal.like[0].shape)}, without a batch or channels")


def _given(sizes: Any, name: str) -> list[int]:
    """Sizes that come with a call, none of which may vary."""
    given = [sizes] if isinstance(sizes, (int, SymbolicSize)) else list(sizes)
    known = [each for each in given if isinstance(each, int)]
    if len(known) < len(given):
        raise unsupported(name, "its windows vary with the inputs")
    return known


@writes(MaxPool)
def _max_pool(writer: Writer, op: MaxPool, signal: SymbolicSignal) -> SymbolicSignal:
    graph, windows, dims, name = writer.graph, op.windows, len(op.windows), op.settings["name"]
    _require_batch(signal, dims, name)
    after = [window.padding for window in windows]
    if op.settings["ceil_mode"]:
        sizes = _sizes(signal, dims, name)
        after = [_after(window, size) for window, size in zip(windows, sizes, strict=True)]
    signal = writer.with_uniform_divisor(signal, range(-dims, 0))
    divisor = signal.divisor
    if isinstance(divisor, SymbolicTensor) and divisor.dim:
        raise unsupported(name, "what it reads is divided by numbers of the inputs")
    around = [(window.padding, each) for window, each in zip(windows, after, strict=True)]

    def pool(x: SymbolicTensor) -> SymbolicTensor:
        padded = graph.pad(x, around, -math.inf)
        attributes = {
            "kernel_shape": [window.kernel for window in windows],
            "strides": [window.stride for window in windows],
            "dilations": [window.dilation for window in windows],
        }

        def like(x: Tensor) -> Tensor:
            unpadded = [replace(window, padding=0, ceil_mode=False) for window in windows]
            return x.new_empty(
                [*x.shape[:2], *(window.outputs(size) for window, size in zip(unpadded, x.shape[2:], strict=True))]
            )

        return graph.apply("MaxPool", like, padded, **attributes)

    return running_maximum(writer, signal, divisor, pool)


def _after(window: Window, size: int) -> int:
    """How far the last window reaches beyond the input."""
    last = (window.outputs(size) - 1) * window.stride + window.dilation * (window.kernel - 1)
    return max(last + 1 - size - window.padding, 0)


def _parts(graph: Graph, x: SymbolicTensor, outputs: Sequence[int | None], operator: str, name: str) -> SymbolicTensor:
    """Each part of the last dimensions reduced to one entry, as adaptive pools cut them."""
    for dim, count in enumerate(outputs, -len(outputs)):
        if count is None:
            continue
        size = fixed_size(x, dim, name)
        if count == size:
            continue
        cuts = [Cut(dim, first, size - last) for first, last in adaptive(size, count)]
        reduced = [graph.reduce(operator, graph.slice(x, [cut]), [dim], keepdim=True) for cut in cuts]
        x = reduced[0] if count == 1 else graph.concat(reduced, dim)
    return x


@writes(AdaptiveMaxPool)
def _adaptive_max_pool(
    writer: Writer, op: AdaptiveMaxPool, signal: SymbolicSignal, outputs: Any = None
) -> SymbolicSignal:
    sizes, name = op.settings["outputs"], op.settings["name"]
    sizes = sizes if outputs is None else per_dimension(_given(outputs, name), len(sizes))
    signal = writer.with_uniform_divisor(signal, range(-len(sizes), 0))
    if isinstance(signal.divisor, SymbolicTensor) and signal.divisor.dim:
        raise unsupported(name, "what it reads is divided by numbers of the inputs")
    pool = partial(_parts, writer.graph, outputs=sizes, operator="ReduceMax", name=name)
    return running_maximum(writer, signal, signal.divisor, pool)


@writes(AveragePool)
def _average_pool(writer: Writer, op: AveragePool, signal: SymbolicSignal) -> SymbolicSignal:
    def sums(x: SymbolicTensor) -> SymbolicTensor:
        for dim, window in enumerate(op.windows, -op.dims):
            x = _sliding_sum(writer.graph, x, dim, window, op.settings["name"])
        return x

    return _averages(writer, op, signal, sums)


def _sliding_sum(graph: Graph, x: SymbolicTensor, dim: int, window: Window, name: str) -> SymbolicTensor:
    size = fixed_size(x, dim, name)
    count, after = window.outputs(size), _after(window, size)
    padded = graph.pad(x, [(window.padding, after), *[(0, 0)] * (-dim - 1)], 0.0)
    length, summed = size + window.padding + after, None
    for offset in range(window.kernel):
        last = offset + (count - 1) * window.stride + 1
        part = graph.slice(padded, [Cut(dim, offset, length - last, window.stride)])
        summed = part if summed is None else graph.add(summed, part)
    assert summed is not None
    return summed


@writes(AdaptiveAveragePool)
def _adaptive_average_pool(
    writer: Writer, op: AdaptiveAveragePool, signal: SymbolicSignal, outputs: Any = None
) -> SymbolicSignal:
    name = op.settings["name"]
    if outputs is not None:
        op = AdaptiveAveragePool(name, per_dimension(_given(outputs, name), op.dims), op.settings["grids"])
    sums = partial(_parts, writer.graph, outputs=op.settings["outputs"], operator="ReduceSum", name=name)
    return _averages(writer, op, signal, sums)


@writes(PoolAt)
def _pool_at(writer: Writer, op: PoolAt, signal: SymbolicSignal, kernel: Any, stride: Any = None) -> SymbolicSignal:
    name = op.settings["name"]
    stride = None if stride in (None, []) else _given(stride, name)
    pool = op.pool(_given(kernel, name), stride)
    return _max_pool(writer, pool, signal) if isinstance(pool, MaxPool) else _average_pool(writer, pool, signal)


def _averages(
    writer: Writer, op: Average, signal: SymbolicSignal, sums: Callable[[SymbolicTensor], SymbolicTensor]
) -> SymbolicSignal:
    """Sums over windows; what they are divided by, multiplied so that one divisor serves all."""
    graph, dims, name = writer.graph, op.dims, op.settings["name"]
    signal = writer.with_uniform_divisor(signal, range(-dims, 0))
    counts = op.counts(tuple(_sizes(signal, dims, name)))
    if op.settings["grids"] is not None:
        return rounded_mean(writer, signal, sums, graph.constant(counts.double()), op.settings["grids"])
    common = math.lcm(*counts.unique().tolist()) if op.divides else 1
    factor = common // counts if op.divides else torch.ones_like(counts)
    most = float((counts * factor).max())
    total, drive = signal.total, signal.drive
    if total is not None:
        total = sums(writer.full(total, signal))
    if drive is not None:
        drive = writer.whole_sum(writer.full(drive, signal), signal.reach, signal.grid, sums)
    if bool((factor != 1).any()):
        by = graph.constant(factor.double())
        total, drive = writer.times(total, by), writer.times(drive, by)
    divisor = writer.product(signal.divisor, float(common))
    return SymbolicSignal(total, drive, divisor, signal.bound * most, signal.reach * most, signal.grid)


@writes(Interpolate)
def _interpolate(writer: Writer, op: Interpolate, signal: SymbolicSignal, size: Any = None) -> SymbolicSignal:
    graph, dims, name = writer.graph, op.settings["dims"], op.settings["name"]
    _require_batch(signal, dims, name)
    signal = writer.with_uniform_divisor(signal, range(-dims, 0))
    sizes = _sizes(signal, dims, name)
    lines = op.lines(sizes, op.outputs(sizes, None if size is None else _given(size, name)))
    most = float(math.prod(each.parts for each in lines))

    def along(x: SymbolicTensor) -> SymbolicTensor:
        for dim, each in enumerate(lines, -dims):
            shape = [-1] + [1] * (-dim - 1)
            read = [
                graph.mul(graph.gather(x, dim, graph.constant(index)), graph.constant(weight.double().reshape(shape)))
                for index, weight in ((each.low, each.below), (each.high, each.above))
            ]
            x = graph.add(*read)
        return x

    total, drive = signal.total, signal.drive
    if total is not None:
        total = along(writer.full(total, signal))
    if drive is not None:
        drive = writer.whole_sum(writer.full(drive, signal), signal.reach, signal.grid, along)
    divisor = writer.product(signal.divisor, most) if op.divides else signal.divisor
    return SymbolicSignal(total, drive, divisor, signal.bound * most, signal.reach * most, signal.grid)
