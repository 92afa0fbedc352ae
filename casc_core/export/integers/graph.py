"""A network as nodes of integer arithmetic: what one sample's run of its program does, step by step.

Every node gives integers at each time step, in units of a power of two. A program's operations become nodes while it runs
on a sample (`casc_core.export.integers.form`); whatever the inputs alone decide is computed by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from casc_core.engine.ops import Op
from casc_core.engine.signal import Signal
from casc_core.export.grids import finest_exponent
from casc_core.export.integers.numbers import Array, units


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
