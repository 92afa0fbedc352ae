"""How inputs and what is computed of them alone are written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import Attribute, Call, Constant, Embed, Encode, Round, Silence
from casc_core.export.grids import finest_exponent
from casc_core.export.onnx.functions import written
from casc_core.export.onnx.graph import SymbolicTensor
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import LOWEST, SymbolicSignal, Writer, unsupported
from casc_core.numerics import FLOAT64_UNITS, binade, coarsest, largest, on_grid

# Real-valued inputs are whole multiples of this power of two, or too small for the sums.
INPUT_GRID = -85
# A maximum over real-valued inputs leaves so many bits for sums behind it.
_SPARE_BITS = 7


@writes(Call)
def _call(writer: Writer, op: Call, *args: Any, **kwargs: Any) -> Any:
    return written(writer.graph, op.settings["function"], args, kwargs)


@writes(Constant)
def _constant(writer: Writer, op: Constant) -> Tensor:
    return op.value


@writes(Attribute)
def _attribute(writer: Writer, op: Attribute, of: SymbolicSignal | SymbolicTensor) -> Any:
    name = op.settings["name"]
    if name == "shape":
        framed = of if isinstance(of, SymbolicTensor) else of.framed
        return tuple(writer.graph.size(framed, dim) for dim in range(of.dim))
    return {"ndim": of.dim, "device": torch.device("cpu")}.get(name, torch.float32)


@writes(Encode)
def _encode(writer: Writer, op: Encode, value: Any) -> SymbolicSignal:
    if isinstance(value, (int, float)):  # of sizes that are fixed
        number = torch.tensor(value, dtype=torch.float64)
        exponent = op.settings["exponent"]
        on = number if exponent is None else on_grid(number, exponent)
        grid = coarsest(on, binade(largest(on)) - 52) if bool(on) else 0
        return SymbolicSignal(None, writer.graph.constant(float(on)), reach=largest(on), grid=grid)
    given = writer.graph.tensor(value)
    if given.dtype in (torch.float16, torch.bfloat16):
        raise unsupported("Encode", f"inputs of {given.dtype}; give float32")
    return real_input(writer, given, op.settings["exponent"])


def real_input(writer: Writer, value: SymbolicTensor, exponent: int | None) -> SymbolicSignal:
    """A real-valued input as a drive: as it is (None), or rounded once to a grid."""
    graph, grid = writer.graph, 0
    x = graph.cast(value, torch.float64)
    if exponent is not None:
        x, grid = graph.snap(x, exponent), exponent
    elif value.dtype.is_floating_point:
        grid = INPUT_GRID
        graph.require(graph.compare("Equal", x, graph.snap(x, grid)))
    graph.require(graph.compare("Less", graph.unary("Abs", x), graph.constant(writer.input_reach)))
    return SymbolicSignal(None, x, reach=writer.input_reach, grid=grid)


@writes(Round)
def _round(writer: Writer, op: Round, signal: SymbolicSignal) -> SymbolicSignal:
    graph, exponent, drive = writer.graph, op.settings["exponent"], signal.drive
    if drive is None:
        return signal
    most = math.ldexp(FLOAT64_UNITS, exponent - _SPARE_BITS) / (writer.levels + 1)
    rounded = graph.snap(drive, exponent)
    if signal.reach >= most:
        # What is masked is minus infinity.
        low, high = graph.constant(LOWEST), graph.constant(most)
        below = graph.compare("Less", rounded, low)
        graph.require(graph.apply("Or", torch.eq, below, graph.compare("Less", graph.unary("Abs", rounded), high)))
    return replace(signal, drive=rounded, reach=min(signal.reach, most), grid=exponent)


@writes(Silence)
def _silence(writer: Writer, op: Silence, value: Any) -> SymbolicSignal:
    return SymbolicSignal(writer.graph.tensor(value, torch.float64), None)


@writes(Embed)
def _embed(writer: Writer, op: Embed, tokens: Any) -> SymbolicSignal:
    graph, table = writer.graph, op.table
    index = graph.tensor(tokens, torch.int64)
    graph.require(graph.compare("GreaterOrEqual", index, graph.tensor(0, torch.int64)))
    rows = graph.gather(writer.weights(table), 0, index)
    return SymbolicSignal(None, rows, reach=largest(table.double()), grid=finest_exponent(table))
