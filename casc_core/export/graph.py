"""A network as nodes of integer arithmetic: what one sample's run of its program does, step by step.

Every node gives integers at each time step, in units of a power of two. A program's operations become nodes while it runs
on a sample (`casc_core.export.integer_form`); whatever the inputs alone decide is computed by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.leaves import leaves
from casc_core.engine.ops import Op
from casc_core.engine.signal import Signal, without_repeats
from casc_core.engine.spiking_run import SpikingRun
from casc_core.errors import ConversionError
from casc_core.export.integers import Array, finest_exponent, units


@dataclass(frozen=True)
class Value:
    """A signal of the run, and the node that gives its train.

    Attributes:
        node: its name; None: nothing arrives in spikes.
        exponent: of the unit of what the node gives.
        signal: as it is in this run.
        of_inputs: whether its drive or its divisor depends on what the inputs are, and not on their shapes alone.
        drive_exponent: the grid that its drive is on; None: on none that is known.
        origin: how its drive is made of an input, if by one map at most, as fields of a node of the drive.
    """

    node: str | None
    exponent: int
    signal: Signal
    of_inputs: bool = False
    drive_exponent: int | None = None
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plain:
    """What is no signal: computed from the inputs, their shapes or the model's parameters alone."""

    value: Any
    of_inputs: bool = False


@dataclass
class Weights:
    """The integers of operations' tensors, made once for all samples: by operation and name, numbers and exponent."""

    known: dict[tuple[int, str], tuple[Array, int]] = field(default_factory=dict)

    def of(self, op: Op, name: str, make: Callable[[], Tensor]) -> tuple[Array, int]:
        """A tensor, made if it is not known, on the coarsest grid that it is on."""
        key = id(op), name
        if key not in self.known:
            tensor = make()
            exponent = finest_exponent(tensor)
            self.known[key] = units(tensor, exponent, f"{op.settings.get('name', op.kind)}: {name}"), exponent
        return self.known[key]


class Graph:
    """The nodes of one sample's run.

    Attributes:
        nodes: as JSON, in the order in which they are computed at each step.
        constants: integers that are the same for all samples, by name. own: those of this sample.
        real: numbers of this sample, float64, for which no grid is known before all samples are.
        values: what is known of each value of the program, by name.
        unnamed: nodes of populations whose layer is not known yet, by the node that gives their spikes outside.
        bits: by node, how many are proven to hold what it computes, its drive being that of this sample.
        total: the largest spike count. wake_steps: how many there are in the run.
    """

    def __init__(self, weights: Weights, total: int, wake_steps: int) -> None:
        self.weights, self.total, self.wake_steps = weights, total, wake_steps
        self.nodes: list[dict[str, Any]] = []
        self.constants: dict[str, Array] = {}
        self.own: dict[str, Array] = {}
        self.real: dict[str, Tensor] = {}
        self.values: dict[str, Any] = {}
        self.unnamed: dict[str, dict[str, Any]] = {}
        self.bits: dict[str, dict[str, int]] = {}
        self._shared: dict[tuple[int, str], str] = {}
        self._count = 0

    def given(self, inputs: Mapping[str, Any]) -> None:
        """Note the inputs."""
        self.values = {name: Plain(value, of_inputs=True) for name, value in inputs.items()}

    def constant(self, name: str, values: Array) -> str:
        """The name under which integers are kept that are the same for all samples."""
        unique, count = name, 1
        while unique in self.constants:
            count += 1
            unique = f"{name}#{count}"
        self.constants[unique] = values
        return unique

    def tensor(self, op: Op, name: str, make: Callable[[], Tensor]) -> tuple[str, int]:
        """The name of a tensor of an operation as integers, and the exponent of their unit."""
        values, exponent = self.weights.of(op, name, make)
        key = id(op), name
        if key not in self._shared:
            self._shared[key] = self.constant(f"{op.settings.get('name', op.kind)}.{name}", values)
        return self._shared[key], exponent

    def kept(self, name: str, values: Array, of_inputs: bool) -> str:
        """The name under which integers are kept, of this sample alone or of all."""
        if not of_inputs:
            return self.constant(name, values)
        unique = f"{name}@{len(self.own)}"
        self.own[unique] = values
        return unique

    def kept_real(self, name: str, values: Tensor) -> str:
        """The name under which numbers of this sample are kept that are on no grid in particular."""
        unique = f"{name}@{len(self.real)}"
        self.real[unique] = values
        return unique

    def size(self, node: str) -> int | None:
        """How many entries a node gives; None: it stands elsewhere."""
        return next((math.prod(each["shape"]) for each in self.nodes if each["name"] == node), None)

    def is_all_of(self, nodes: Sequence[str], index: Array) -> bool:
        """Whether these places are all entries of a single node, in their order."""
        whole = len(nodes) == 1 and self.size(nodes[0]) == index.size
        return whole and bool((index.reshape(-1) == np.arange(index.size)).all())

    @contextmanager
    def body(self) -> Iterator[list[dict[str, Any]]]:
        """Within the block, nodes are added to a list of their own: those of one position of a recurrence."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def add(self, kind: str, read: Sequence[str], shape: Sequence[int], exponent: int, **fields: Any) -> str:
        """The name of a new node."""
        self._count += 1
        node = {"name": f"n{self._count}", "kind": kind, "read": list(read), "shape": list(shape), "exponent": exponent}
        self.nodes.append(node | fields)
        return str(node["name"])


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
        """What it is called in messages and names of tensors."""
        return str(self.op.settings.get("name") or self.op.settings.get("function") or self.op.kind)

    def refuse(self, why: str) -> ConversionError:
        """The error that it has no integer form."""
        return ConversionError(f"{self.name} ({self.op.kind}) cannot be exported: {why}")

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

    def rounds(self, exponent: int, to: int, limit: int | None = None) -> tuple[dict[str, Any], int]:
        """Fields of a running function of totals in units of `2**exponent` that is rounded to units of `2**to`."""
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


def depends(values: Any) -> bool:
    """Whether any of these depends on what the inputs are."""
    return any(leaf.of_inputs for leaf in leaves(values) if isinstance(leaf, (Value, Plain)))


def ones_like(signal: Signal) -> Signal:
    """A signal of this shape and divisor whose train is one event of 1 everywhere."""
    train = torch.ones((1, *signal.shape), dtype=torch.float64)
    return Signal(train, None, signal.divisor, 1.0)
