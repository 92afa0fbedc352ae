"""How rearranging, picking and joining signals is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from casc_core.engine.ops import Join, Layout, Pick
from casc_core.export.onnx.functions import written
from casc_core.export.onnx.graph import SymbolicTensor
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import SymbolicSignal, Writer, unsupported


@writes(Layout)
def _layout(writer: Writer, op: Layout, signal: SymbolicSignal, *args: Any, **kwargs: Any) -> Any:
    def call(x: SymbolicTensor) -> Any:
        return written(writer.graph, op.settings["function"], (x, *args), kwargs)

    parts = call(signal.framed)
    if not isinstance(parts, (tuple, list)):
        return writer.map(signal, call)
    return tuple(writer.map(signal, partial(_part, call, index)) for index in range(len(parts)))


def _part(split: Callable[[SymbolicTensor], Sequence[SymbolicTensor]], index: int, x: SymbolicTensor) -> SymbolicTensor:
    return split(x)[index]


@writes(Pick)
def _pick(writer: Writer, op: Pick, values: Sequence[SymbolicSignal]) -> SymbolicSignal:
    count = op.settings["count"]
    if count is not None and len(values) != count:
        raise unsupported("an unpacking", f"{count} parts are expected; these inputs give {len(values)}")
    part: SymbolicSignal = values[op.settings["index"]]
    return part


@writes(Join)
def _join(writer: Writer, op: Join, signals: Sequence[SymbolicSignal], dim: int = 0) -> SymbolicSignal:
    graph, stack = writer.graph, op.settings["stack"]
    dim %= signals[0].dim + stack
    common, divisor = _over_one_divisor(writer, signals, dim, stack)

    def joined(parts: Sequence[SymbolicTensor | None]) -> SymbolicTensor | None:
        if all(part is None for part in parts):
            return None
        zero = graph.constant(0.0)
        whole = [writer.full(part or zero, signal) for part, signal in zip(parts, common, strict=True)]
        return graph.concat([graph.unsqueeze(part, dim) for part in whole] if stack else whole, dim)

    return SymbolicSignal(
        joined([signal.total for signal in common]), joined([signal.drive for signal in common]), divisor,
        max(signal.bound for signal in common), max(signal.reach for signal in common),
        min(signal.grid for signal in common),
    )  # fmt: skip


def _over_one_divisor(
    writer: Writer, signals: Sequence[SymbolicSignal], dim: int, stack: bool
) -> tuple[Sequence[SymbolicSignal], SymbolicTensor | float]:
    """The signals multiplied so that all have one divisor along the dimension that joins them, and that divisor."""
    if not stack:
        signals = [writer.with_uniform_divisor(signal, [dim]) for signal in signals]
    divisors = [signal.divisor for signal in signals]
    known = [int(each) for each in divisors if isinstance(each, float)]
    named = {each.name: each for each in divisors if isinstance(each, SymbolicTensor)}
    least = float(math.lcm(*known)) if known else 1.0
    # As far as a power of two goes, the least common multiple and any other give the same bits.
    if len(named) > 1 or (named and int(least) & (int(least) - 1)):
        raise unsupported("a concatenation", "what it joins is divided by numbers of several inputs")
    varying = next(iter(named.values()), None)
    common = least if varying is None else writer.product(varying, least)
    together = []
    for signal in signals:
        own = signal.divisor
        by: SymbolicTensor | float = least / own if isinstance(own, float) else least
        if isinstance(own, float) and varying is not None:
            by = writer.product(varying, by)
        together.append(writer.multiplied(signal, by))
    if stack and isinstance(common, SymbolicTensor) and common.dim:
        common = writer.graph.unsqueeze(common, dim)
    return together, common
