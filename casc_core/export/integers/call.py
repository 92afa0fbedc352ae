"""A call of an operation in a run, as its nodes are made: what it reads, and the nodes that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import Op
from casc_core.engine.products.contraction import ELEMENTWISE
from casc_core.engine.signal import Signal, without_repeats
from casc_core.engine.spiking_run import SpikingRun
from casc_core.errors import ConversionError
from casc_core.export.grids import finest_exponent
from casc_core.export.integers.graph import Graph, Plain, Value
from casc_core.export.integers.numbers import Array, units
from casc_core.export.rules import called


@dataclass(frozen=True)
class OperationCall:
    """One call of an operation.

    Attributes:
        graph: to which its nodes are added.
        run, op, result: as it was called, and what it gave.
        args: what it was called with, by position.
    """

    graph: Graph
    run: SpikingRun
    op: Op
    result: Any
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        """What it is called in names of tensors."""
        return str(self.op.settings.get("name") or self.op.settings.get("function") or self.op.kind)

    def refuse(self, why: str) -> ConversionError:
        """The error that it has no integer form."""
        return ConversionError(f"{called(self.op)} cannot be exported: {why}")

    def value(self, node: str | None, exponent: int, *read: Any, **known: Any) -> Value:
        """What it gives, by this node, of what it reads; `known` are further attributes."""
        drives = [
            each.drive_exponent for each in read if isinstance(each, Value) and each.signal.lazy_drive is not None
        ]
        known_grids = [each for each in drives if each is not None]
        grid = min(known_grids) if drives and len(known_grids) == len(drives) else None
        return Value(node, exponent, self.result, depends(read), **{"drive_exponent": grid, **known})

    def node(
        self, kind: str, read: Sequence[str], exponent: int, shape: Sequence[int] | None = None, **fields: Any
    ) -> tuple[str, int]:
        """A node of the result's shape, or another, and the exponent of its unit."""
        shape = self.result.shape if shape is None else shape
        return self.graph.add(kind, read, shape, exponent, **fields), exponent

    def driven(self, value: Value, exponent: int | None = None, **fields: Any) -> tuple[str, int] | None:
        """The train of a value and its drive, as one node and the exponent of its unit; None: nothing ever arrives.

        Args:
            exponent: of a grid that the drive is on; None: that of the value, or the coarsest that there is.
            fields: further ones of the drive's node.
        """
        drive = value.signal.drive
        arriving = None if value.node is None else (value.node, value.exponent)
        if drive is None:
            return arriving
        if exponent is None:
            exponent = finest_exponent(drive) if value.drive_exponent is None else value.drive_exponent
        if arriving is not None and bool(torch.isneginf(drive).any()):  # which no shift is to make larger
            exponent = min(exponent, value.exponent)
        source = self.drive(drive, exponent, value.of_inputs, **fields)
        return source if arriving is None else self.sum([arriving, source], drive.shape)

    def drive(self, drive: Tensor, exponent: int, of_inputs: bool, **fields: Any) -> tuple[str, int]:
        """A node that gives a drive at each wake step."""
        graph = self.graph
        numbers = units(without_repeats(drive), exponent, f"{self.name}: what flows awake", graph.wake_steps)
        kept = graph.kept(f"{self.name}.drive", numbers, of_inputs)
        return self.node("drive", [], exponent, drive.shape, drive=kept, period=self.run.steps_at_once, **fields)

    def sum(self, read: Sequence[tuple[str, int]], shape: Sequence[int]) -> tuple[str, int]:
        """The sum of nodes, each with its exponent, and the exponent of its unit."""
        exponent = min(each for _, each in read)
        shifts = [each - exponent for _, each in read]
        return self.node("add", [node for node, _ in read], exponent, shape, shifts=shifts)

    def gathered(
        self, read: Sequence[tuple[str, int]], index: Array, shape: Sequence[int], of_inputs: bool, **fields: Any
    ) -> tuple[str, int]:
        """Entries of nodes, one behind another, put in other places: `index` `[*shape, terms]`, -1 for nothing."""
        exponent = min(each for _, each in read)
        shifts = [each - exponent for _, each in read]
        nodes = [node for node, _ in read]
        if not of_inputs and not fields and index.shape[-1] == 1 and self.graph.is_all_of(nodes, index):
            return self.node("reshape", nodes, exponent, shape)
        place = self.graph.kept(f"{self.name}.index", index, of_inputs)
        return self.node("gather", nodes, exponent, shape, shifts=shifts, index=place, **{"weights": None, **fields})

    def product(
        self,
        a: tuple[str, int],
        b: tuple[str, int],
        shape: Sequence[int],
        equation: str = ELEMENTWISE,
        rounds: tuple[dict[str, Any] | None, int] | None = None,
    ) -> tuple[str, int]:
        """The product of two nodes, by an equation of `einsum`, and the exponent of its unit.

        Args:
            rounds: to which it is rounded, as `rounds` gives it; None: it is exact.
        """
        fields, exponent = (None, a[1] + b[1]) if rounds is None else rounds
        return self.node("product", [a[0], b[0]], exponent, shape, equation=equation, rounds=fields)

    def rounds(self, exponent: int, to: int, held: float | None = None) -> tuple[dict[str, Any], int]:
        """Fields of a running function of totals in units of `2**exponent` that is rounded to units of `2**to`.

        Args:
            held: within so much for each step; None: it is not.
        """
        limit = None if held is None else math.ceil(math.ldexp(held * (self.run.total + 2), -to))
        return {"shift": exponent - to, "limit": limit, "divisor": None}, to

    def scaled(self, node: tuple[str, int], factor: Tensor, shape: Sequence[int], of_inputs: bool) -> tuple[str, int]:
        """A node times a factor, entry by entry."""
        keeps_shape = self.graph.size(node[0]) in (None, math.prod(shape))
        if not of_inputs and keeps_shape and bool((factor == 1).all()):
            return node
        exponent = 0 if of_inputs else finest_exponent(factor)  # those of inputs are whole numbers
        numbers = units(without_repeats(factor), exponent, f"{self.name}: a factor")
        kept = self.graph.kept(f"{self.name}.factor", numbers, of_inputs)
        return self.node("scale", [node[0]], node[1] + exponent, shape, factor=kept)


def plain_dims(value: Any) -> Any:
    """An argument of numbers, as the operation was called with it."""
    return map_leaves(value, lambda leaf: leaf.value if isinstance(leaf, Plain) else leaf)


def depends(values: Any) -> bool:
    """Whether any of these depends on what the inputs are."""
    return any(leaf.of_inputs for leaf in leaves(values) if isinstance(leaf, (Value, Plain)))


def ones_like(signal: Signal) -> Signal:
    """A signal of this shape and divisor whose train is one event of 1 everywhere."""
    train = torch.ones((1, *signal.shape), dtype=torch.float64)
    return Signal(train, None, signal.divisor, 1.0)
