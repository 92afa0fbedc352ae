"""The passes of a conversion: a traced forward is read, folded, snapped and emitted.

1. **read** (`passes.read`): each operation's rule reads it as a node of a graph, in the user's own numbers, or refuses it.
2. **fold** (`passes.fold`): factors, normalisations and thresholds go into the maps before or behind them; for the network
   as trained, maps in a row become one (`passes.compose`).
3. **snap** (`passes.snap`): every number is put on its grid, and operations of the engine are called in order.
4. **emit** (`passes.emit`): the calls that something reads become a `Program`; equal operations are shared.

>>> from casc_core import CQReLU, Exact
>>> from casc_core.conversion.rules import RULES
>>> from casc_core.conversion.tracing.trace import trace
>>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), CQReLU(2), nn.Flatten(), nn.Linear(4, 2)).eval()
>>> graph = Reader(model, RULES, Exact()).read(trace(model, RULES.is_leaf))
>>> print(graph)
%0 = Argument 'input'
%1 = Encoded of %0
%2 = ConvolutionMap '0' [4, 1, 3, 3], biased of %1
%3 = Normalisation [4] along 1 of %2
%4 = Population '2' of %3
%5 = Applied torch.flatten of %4
%6 = LinearMap '4' [2, 4], biased of %5
output: %6
>>> print(fold(graph))
%0 = Argument 'input'
%1 = Encoded of %0
%2 = ConvolutionMap '0' [4, 1, 3, 3], biased of %1
%3 = Population '2' of %2
%4 = Applied torch.flatten of %3
%5 = LinearMap '4' [2, 4], biased of %4
output: %5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import fx, nn

from casc_core.conversion.graph import Graph
from casc_core.conversion.passes.emit import OpPool, emit
from casc_core.conversion.passes.fold import fold
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.passes.snap import snap
from casc_core.conversion.rule_table import RuleTable
from casc_core.engine.program import Program
from casc_core.errors import ConversionError
from casc_core.numerics import AsTrained, Numerics

__all__ = ["OpPool", "Reader", "emit", "fold", "lower", "lower_each", "read_each", "snap"]

T = TypeVar("T")
Way = fx.Graph | ConversionError


def lower(graph: Graph, numerics: Numerics, steps: int, pool: OpPool) -> Program:
    """The program of what has been read."""
    return emit(snap(fold(graph, isinstance(numerics, AsTrained)), numerics, steps), pool)


def lower_each(
    model: nn.Module, ways: Iterable[Way], rules: RuleTable, numerics: Numerics, steps: int, pool: OpPool
) -> list[tuple[Program, tuple[str, ...]]]:
    """The programs of those ways of calling the model that can be lowered, each with the names of its populations.

    Raises:
        ConversionError: none can; the error is that of the way that got furthest.
    """

    def lowered(reader: Reader, way: fx.Graph) -> tuple[Program, tuple[str, ...]]:
        graph = reader.read(way)
        return lower(graph, numerics, steps, pool), graph.layers

    return _each(model, ways, rules, numerics, lowered)


def read_each(model: nn.Module, ways: Iterable[Way], rules: RuleTable, numerics: Numerics) -> list[Graph]:
    """The graphs of those ways of calling the model that can be read; no weight is computed.

    Raises:
        ConversionError: none can; the error is that of the way that got furthest.
    """
    return _each(model, ways, rules, numerics, Reader.read)


def _each(
    model: nn.Module,
    ways: Iterable[Way],
    rules: RuleTable,
    numerics: Numerics,
    attempt: Callable[[Reader, fx.Graph], T],
) -> list[T]:
    done: list[T] = []
    refusals: list[tuple[float, ConversionError]] = []
    with torch.no_grad():
        for way in ways:
            if isinstance(way, ConversionError):
                refusals.append((math.inf, way))
                continue
            reader = Reader(model, rules, numerics)
            try:
                done.append(attempt(reader, way))
            except ConversionError as error:
                refusals.append((reader.left, error))
    if not done:
        raise min(refusals, key=lambda refusal: refusal[0])[1]
    return done
