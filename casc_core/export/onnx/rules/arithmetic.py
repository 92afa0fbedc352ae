"""How sums, products and quotients of signals are written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from casc_core.engine.ops import Add, Bin, DividedByInput, MaskedFill, Multiply, Op, RequireFeatures, TimesInput, Unbin
from casc_core.export.onnx.graph import SymbolicTensor, likes
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import SymbolicSignal, Writer, unsupported


@writes(RequireFeatures)
def _require_features(writer: Writer, op: RequireFeatures, signal: SymbolicSignal) -> SymbolicSignal:
    if signal.dim != 2:
        raise unsupported(op.settings["name"], "it reads features [batch, features] alone")
    return signal


@writes(Bin, Unbin)
def _bins(writer: Writer, op: Op, signal: SymbolicSignal) -> SymbolicSignal:
    return signal  # in levels there is one step


def _common(writer: Writer, a: SymbolicSignal, b: SymbolicSignal) -> tuple[SymbolicSignal, SymbolicSignal]:
    """Both over one divisor."""
    one, other = a.divisor, b.divisor
    same = one == other if isinstance(one, float) or isinstance(other, float) else one.name == other.name
    if same:
        return a, b
    common = writer.product(one, other)
    return replace(writer.multiplied(a, other), divisor=common), replace(writer.multiplied(b, one), divisor=common)


@writes(Add)
def _add(writer: Writer, op: Add, a: SymbolicSignal, b: SymbolicSignal) -> SymbolicSignal:
    a, b = _common(writer, a, b)
    total, drive = (
        other if one is None else one if other is None else writer.graph.add(one, other)
        for one, other in ((a.total, b.total), (a.drive, b.drive))
    )
    summed = SymbolicSignal(total, drive, a.divisor, a.bound + b.bound, a.reach + b.reach, min(a.grid, b.grid))
    shape = likes(torch.add, a.framed, b.framed)
    if [like.shape for like in summed.like] == [like.shape for like in shape]:
        return summed
    # Neither sum has the shape of both signals.
    frame = writer.graph.add(a.framed, b.framed)
    whole = drive if total is None else total
    assert whole is not None
    whole = writer.expanded(whole, frame)
    return replace(summed, total=whole) if total is not None else replace(summed, drive=whole)


@writes(TimesInput)
def _times_input(writer: Writer, op: TimesInput, signal: SymbolicSignal, factor: Any) -> SymbolicSignal:
    by = writer.whole(factor)
    total, drive = (None if each is None else writer.graph.mul(each, by) for each in (signal.total, signal.drive))
    most = writer.largest_whole(by)
    return replace(signal, total=total, drive=drive, bound=signal.bound * most, reach=signal.reach * most)


@writes(DividedByInput)
def _divided_by_input(writer: Writer, op: DividedByInput, signal: SymbolicSignal, divisor: Any) -> SymbolicSignal:
    if isinstance(divisor, (int, float)) and not isinstance(divisor, bool):
        return replace(signal, divisor=writer.product(signal.divisor, float(divisor)))
    graph, by = writer.graph, writer.whole(divisor)
    graph.require(graph.compare("Greater", by, graph.constant(0.0)))
    if by.dim > signal.dim:
        signal = writer.map(signal, lambda x: writer.expanded(x, graph.mul(signal.framed, by)))
    if 0 < by.dim < signal.dim:
        missing = [1] * (signal.dim - by.dim)
        first, second = ([*missing, *like.shape] for like in by.like)
        by = graph.reshape(by, (first, second))
    return replace(signal, divisor=writer.product(signal.divisor, by))


@writes(Multiply)
def _multiply(writer: Writer, op: Multiply, a: SymbolicSignal, b: SymbolicSignal) -> SymbolicSignal:
    graph, exponent, arriving = writer.graph, op.settings["exponent"], op.settings["arriving"]
    by_a, by_b, name = a.bound + a.reach, b.bound + b.reach, op.settings["name"]
    bound = 2 * writer.levels * by_a * by_b + (math.ldexp(1.0, exponent) if arriving else 0.0)
    writer.check(bound * writer.levels, exponent, name)
    for by, grid in zip((by_a, by_b), arriving or (), strict=False):
        writer.check(writer.levels * by, grid, name)
    product = graph.mul(writer.all_of(a), writer.all_of(b))
    product = graph.snap(product, exponent) if arriving else product
    return SymbolicSignal(product, None, writer.product(a.divisor, b.divisor), bound)


@writes(MaskedFill)
def _masked_fill(writer: Writer, op: MaskedFill, signal: SymbolicSignal, mask: Any) -> SymbolicSignal:
    graph, hidden = writer.graph, writer.graph.tensor(mask, torch.bool)
    value, below = float(op.settings["value"]), op.settings["below"]
    if below is not None and not signal.bound + signal.reach < below:
        raise unsupported("masked_fill() with a finite number", 'fill with float("-inf")')
    zero = graph.constant(0.0)
    total, drive = (
        None if each is None else graph.where(hidden, zero, writer.full(each, signal))
        for each in (signal.total, signal.drive)
    )
    divisor = signal.divisor
    if isinstance(divisor, SymbolicTensor) and divisor.dim:
        divisor = replace(graph.where(hidden, graph.constant(1.0), divisor), most=divisor.most)
    filled = replace(signal, total=total, drive=drive, divisor=divisor)
    if value == 0.0:
        return filled
    lowest = graph.constant(-math.inf)
    flowing = graph.where(hidden, lowest, zero if drive is None else drive)
    return replace(filled, drive=writer.full(flowing, filled))
