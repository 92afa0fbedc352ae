"""How sums, products and quotients of signals are written."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from casc_core.engine.ops import (
    Add,
    Bin,
    DividedByInput,
    LevelTable,
    MaskedFill,
    Multiply,
    Op,
    RequireFeatures,
    TimesInput,
    Unbin,
)
from casc_core.engine.products.contraction import ELEMENTWISE
from casc_core.export.onnx.graph import SIZES, DynamicSizeError, Graph, SymbolicTensor, likes
from casc_core.export.onnx.rules.reduction import rounded_mean
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import SymbolicSignal, Writer, unsupported
from casc_core.numerics import largest


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
    grids = op.settings["grids"]
    if isinstance(divisor, (int, float)) and not isinstance(divisor, bool):
        if grids is not None:
            return rounded_mean(writer, signal, lambda x: x, float(divisor), grids)
        return replace(signal, divisor=writer.product(signal.divisor, float(divisor)))
    graph, by = writer.graph, writer.whole(divisor)
    graph.require(graph.compare("Greater", by, graph.constant(0.0)))
    if by.dim > signal.dim:
        signal = writer.map(signal, lambda x: writer.expanded(x, graph.mul(signal.framed, by)))
    if 0 < by.dim < signal.dim:
        missing = [1] * (signal.dim - by.dim)
        first, second = ([*missing, *like.shape] for like in by.like)
        by = graph.reshape(by, (first, second))
    if grids is not None:
        return rounded_mean(writer, signal, lambda x: x, by, grids)
    return replace(signal, divisor=writer.product(signal.divisor, by))


@writes(Multiply)
def _multiply(writer: Writer, op: Multiply, a: SymbolicSignal, b: SymbolicSignal) -> SymbolicSignal:
    graph, settings, levels, name = writer.graph, op.settings, writer.levels, op.settings["name"]
    exponent, arriving = settings["exponent"], settings["arriving"]
    terms, product = _terms(op, a, b), partial(_einsum, graph, op)
    read = [(writer.all_of(each), levels * (each.bound + each.reach)) for each in (a, b)]
    (one, reach_a), (other, reach_b) = read
    bound = 2 * reach_a * reach_b / levels * terms
    if arriving is None:
        writer.check(bound * levels, exponent, name)
        total = product(one, other)
    else:
        for (_, reach), grid in zip(read, arriving, strict=True):
            writer.check(reach, grid, name)
        exact = (
            writer.exact_product((one, reach_a, arriving[0]), (other, reach_b, arriving[1]), terms, product)
            if op.contraction.is_summed
            else product(one, other)
        )
        total, bound = writer.rounded(exact, exponent, settings["held"], bound)
        writer.check(bound * levels, exponent, name)
    return SymbolicSignal(total, None, _common_divisor(writer, op, a, b), bound)


def _terms(op: Multiply, a: SymbolicSignal, b: SymbolicSignal) -> int:
    """Of how many products an entry is the sum, a number that must not vary."""
    first, second = (op.contraction.at(a.like[size].shape, b.like[size].shape).terms for size in SIZES)
    if first != second:
        raise DynamicSizeError(f"{op.settings['name']} sums over a dimension whose size varies")
    return first


def _einsum(graph: Graph, op: Multiply, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
    """The product of two tensors, entry by entry or summed."""
    if op.settings["equation"] == ELEMENTWISE:
        return graph.mul(a, b)
    return graph.apply("Einsum", op.contraction, a, b, equation=op.contraction.between(a.dim, b.dim))


def _common_divisor(writer: Writer, op: Multiply, a: SymbolicSignal, b: SymbolicSignal) -> SymbolicTensor | float:
    """The divisor of a product, those of its factors being the same along the dimensions that are summed."""
    labels = op.contraction.at(a.like[0].shape, b.like[0].shape)
    uniform = [
        writer.with_uniform_divisor(each, [own.index(label) for label in labels.summed if label in own]).divisor
        for each, own in ((a, labels.a), (b, labels.b))
    ]
    if op.settings["equation"] == ELEMENTWISE or not any(
        isinstance(each, SymbolicTensor) and each.dim for each in uniform
    ):
        return writer.product(*uniform)
    whole = [
        _of_dims(writer.graph, divisor, each.dim) for divisor, each in zip(uniform, (a, b), strict=True)
    ]  # of size 1 where they are summed
    most = math.prod(writer.largest_whole(each) for each in uniform)
    return replace(_einsum(writer.graph, op, *whole), most=most)


def _of_dims(graph: Graph, x: SymbolicTensor | float, dims: int) -> SymbolicTensor:
    """A single number, or a tensor of so many dimensions, as one of so many dimensions."""
    if isinstance(x, float):
        return graph.constant(torch.full([1] * dims, x, dtype=torch.float64))
    return x if x.dim else graph.reshape(x, ([1] * dims, [1] * dims))


@writes(LevelTable)
def _level_table(writer: Writer, op: LevelTable, signal: SymbolicSignal) -> SymbolicSignal:
    graph, table, counts = writer.graph, op.table.double(), signal.total
    if counts is None:
        return signal
    places = graph.cast(
        graph.sub(writer.full(counts, signal), graph.constant(float(op.settings["lowest"]))), torch.int64
    )
    found = graph.gather(graph.constant(table), 0, places)
    return SymbolicSignal(found, None, signal.divisor, largest(table) / writer.levels)


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
