"""How sums, means and maxima over dimensions are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from casc_core.engine.ops import Max, Sum
from casc_core.export.onnx.graph import SymbolicTensor
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import LOWEST, Map, SymbolicSignal, Writer


@writes(Sum)
def _sum(
    writer: Writer, op: Sum, signal: SymbolicSignal, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> SymbolicSignal:
    graph, dims = writer.graph, _dims(signal, dim)
    signal = writer.with_uniform_divisor(signal, dims)
    divisor = writer.reduced_divisor(signal, dims, keepdim)
    sums = partial(graph.reduce, "ReduceSum", dims=dims, keepdim=keepdim)
    sizes = [graph.size(signal.framed, each) for each in dims]
    known = [float(size) for size in sizes if isinstance(size, int)]
    count: SymbolicTensor | float = math.prod(known, start=1.0)
    for size in sizes:
        if not isinstance(size, int):
            count = writer.product(count, writer.whole(size))
    if op.settings["grids"] is not None:
        return replace(rounded_mean(writer, signal, sums, count, op.settings["grids"]), divisor=divisor)
    if op.settings["mean"]:
        divisor = writer.product(divisor, count)
    most = count if isinstance(count, float) else writer.largest_whole(count)
    drive = None
    if signal.drive is not None:
        drive = writer.whole_sum(writer.full(signal.drive, signal), signal.reach, signal.grid, sums)
    total = None if signal.total is None else sums(writer.full(signal.total, signal))
    return SymbolicSignal(total, drive, divisor, signal.bound * most, signal.reach * most, signal.grid)


def rounded_mean(
    writer: Writer, signal: SymbolicSignal, sums: Map,
    counts: SymbolicTensor | float, grids: Sequence[int],
) -> SymbolicSignal:  # fmt: skip
    """Means, rounded to a grid: `sums` of entries over `counts`; a divisor stays beside them.

    Args:
        grids: those of what arrives and of the result.
    """
    arriving, exponent = grids
    writer.check(writer.levels * signal.bound, arriving, "a mean")
    graph, means = writer.graph, []
    for x, reach, grid in (
        (signal.total, writer.levels * signal.bound, arriving),
        (signal.drive, signal.reach, signal.grid),
    ):
        whole = None if x is None else writer.whole_sum(writer.full(x, signal), reach, grid, sums)
        means.append(None if whole is None else graph.div(whole, counts))
    total = None if means[0] is None else graph.snap(means[0], exponent)
    bound = signal.bound + math.ldexp(1.0, exponent)
    # A quotient has as many bits as float64.
    grid = -1022 if means[1] is not None else 0
    return SymbolicSignal(total, means[1], signal.divisor, bound, signal.reach, grid)


def _dims(signal: SymbolicSignal, dim: int | Sequence[int] | None) -> list[int]:
    dims = range(signal.dim) if dim is None else [dim] if isinstance(dim, int) else dim
    return [each % signal.dim for each in dims]


@writes(Max)
def _max(
    writer: Writer, op: Max, signal: SymbolicSignal, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> SymbolicSignal:
    dims = _dims(signal, dim)
    signal = writer.with_uniform_divisor(signal, dims)
    divisor = writer.reduced_divisor(signal, dims, keepdim)
    pool = partial(writer.graph.reduce, "ReduceMax", dims=dims, keepdim=keepdim)
    return running_maximum(writer, signal, divisor, pool)


def running_maximum(
    writer: Writer,
    signal: SymbolicSignal,
    divisor: SymbolicTensor | float,
    pool: Map,
) -> SymbolicSignal:
    """The maximum of what a signal adds up to, over entries of one divisor."""
    graph, largest = writer.graph, pool(writer.full(writer.all_of(signal), signal))
    graph.require(graph.compare("Greater", largest, graph.constant(LOWEST)))
    return SymbolicSignal(largest, None, divisor, signal.bound + signal.reach)
