"""How populations are written: in levels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from casc_core.engine.ops import Fire, FireByLevel, Op
from casc_core.errors import ExactnessError
from casc_core.export.onnx.graph import SymbolicTensor
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import SymbolicSignal, Writer
from casc_core.numerics import FLOAT64_UNITS, largest


@writes(Fire, FireByLevel)
def _fire(writer: Writer, op: Fire | FireByLevel, signal: SymbolicSignal) -> SymbolicSignal:
    graph, exponent, divisor = writer.graph, op.settings["exponent"], signal.divisor
    drive, reach = signal.drive, signal.reach
    if op.bias is not None:
        drive = writer.plus(drive, writer.constant(signal, _by_channel(op, op.bias, signal)))
        reach += largest(op.bias) * writer.largest_whole(divisor)
    charge = None if op.charge is None else writer.constant(signal, _by_channel(op, op.charge, signal))
    begins = 0.0
    if charge is not None:
        assert op.charge is not None
        charge = graph.snap(charge, exponent)
        begins = largest(op.charge) * writer.largest_whole(divisor)
    if drive is not None:
        drive = graph.snap(drive, exponent)
    check_potential(writer, op, signal.bound, reach, begins, drive)
    current = writer.all_of(replace(signal, drive=drive))
    if charge is not None:
        current = graph.add(charge, current)
    current = writer.full(current, signal)
    if isinstance(op, FireByLevel):
        bound = max(1.0, max(-int(op.settings["lowest"]), op.highest) / writer.levels)
        return SymbolicSignal(
            levels_reached(writer, current, op.by_level, op.settings["lowest"], divisor), None, bound=bound
        )
    thresholds = op.thresholds
    if thresholds is None:
        thresholds = torch.tensor(op.settings["threshold"], dtype=torch.float64)
    own = writer.constant(signal, _by_channel(op, thresholds, signal))
    return SymbolicSignal(levels_of(writer, current, own), None, bound=1.0)


def _by_channel(op: Fire | FireByLevel, value: Tensor, signal: SymbolicSignal) -> Tensor:
    """Numbers shaped to meet the signal; `[channels]` where thresholds are, too."""
    return value.reshape([-1] + [1] * (signal.dim - 2)) if op.thresholds is not None and value.dim() == 1 else value


def check_potential(
    writer: Writer, op: Op, bound: float, reach: float, begins: float, drive: SymbolicTensor | None
) -> None:
    """Refuse potentials that float64 might round; or require what a drive must be, where it is on a grid.

    As trained, a drive beyond that is beyond all thresholds, whatever it is rounded to.

    Raises:
        ExactnessError: spikes alone might make them too large.
    """
    exponent, name, graph = op.settings["exponent"], op.settings["name"], writer.graph
    own = begins + _largest_threshold(writer, op)
    writer.check((writer.levels + 1) * (bound + own), exponent, name)
    if writer.is_as_trained or drive is None:
        return
    try:
        writer.check((writer.levels + 1) * (bound + reach + own), exponent, name)
    except ExactnessError:
        most = math.ldexp(FLOAT64_UNITS, exponent) / (writer.levels + 1) - bound - own
        graph.require(graph.compare("Less", graph.unary("Abs", drive), graph.constant(most)))


def _largest_threshold(writer: Writer, op: Op) -> float:
    if isinstance(op, FireByLevel):
        return 2 * largest(op.by_level) / (writer.levels + 1)
    thresholds = getattr(op, "thresholds", None)
    return float(op.settings["threshold"]) if thresholds is None else largest(thresholds)


def levels_of(writer: Writer, current: SymbolicTensor, threshold: SymbolicTensor) -> SymbolicTensor:
    """`clip(floor(current / threshold), 0, levels)`, exactly."""
    graph, most = writer.graph, float(writer.levels)
    count = graph.clip(graph.unary("Floor", graph.div(current, threshold)), 0.0, most)
    # The quotient is rounded; the product of a count and a threshold is exact, so it decides.
    one = graph.constant(1.0)
    above = graph.compare("Greater", graph.mul(count, threshold), current)
    count = graph.sub(count, graph.cast(above, torch.float64))
    up = graph.add(count, one)
    reached = graph.compare("LessOrEqual", graph.mul(up, threshold), current)
    return graph.clip(graph.add(count, graph.cast(reached, torch.float64)), 0.0, most)


def levels_reached(
    writer: Writer, current: SymbolicTensor, thresholds: Tensor, lowest: int, scale: SymbolicTensor | float = 1.0
) -> SymbolicTensor:
    """The levels that are reached of those that have a threshold each."""
    graph = writer.graph
    values = graph.mul(
        graph.constant(thresholds.double()), scale if isinstance(scale, float) else graph.unsqueeze(scale, -1)
    )
    reached = graph.compare("LessOrEqual", values, graph.unsqueeze(current, -1))
    count = graph.reduce("ReduceSum", graph.cast(reached, torch.float64), [-1], False)
    return graph.add(count, graph.constant(float(lowest)))
