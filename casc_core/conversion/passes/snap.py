"""The third pass: every number is put on its grid, and operations of the engine are called in order.

The nodes are walked once, in the order in which they are computed. Each is snapped once: when it is its turn, or when
another asks for it. Which grids there are is for `conversion.grids` to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from casc_core.conversion.graph import Graph, InputNode, Node, Snapped, Snapping, SpikingNode
from casc_core.conversion.grids import Form, Stretch
from casc_core.conversion.passes.refusing import refusing
from casc_core.conversion.passes.stretches import stretches
from casc_core.engine.leaves import map_leaves
from casc_core.engine.ops import Op
from casc_core.engine.program import Ref
from casc_core.engine.structure import Structure
from casc_core.numerics import AsTrained, Numerics


@dataclass(frozen=True)
class OpCall:
    """One call of an operation: its arguments (with `Ref`s inside), its result, and the user's line it comes from."""

    op: Op
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Ref
    line: str | None


@dataclass(frozen=True)
class Returned:
    """An output: the value that a call leaves, and the numbers in which it is; None: it is no signal."""

    ref: Ref
    form: Form | None


@dataclass(frozen=True)
class Calls:
    """Calls in order, for one way of calling the model: what a snapped graph is.

    Attributes:
        inputs: names of the arguments it takes.
        calls: some of which nothing may read.
        checks: the results of those that are called only for the errors that they may raise.
        outputs: by number, and the numbers in which they are.
        structure: where they stand in what the forward returns.
    """

    inputs: tuple[str, ...]
    calls: tuple[OpCall, ...]
    checks: tuple[Ref, ...]
    outputs: tuple[Returned, ...]
    structure: Structure


def snap(graph: Graph, numerics: Numerics, steps: int) -> Calls:
    """The operations that a folded graph becomes.

    Args:
        steps: how often a neuron may spike, and how many wake steps there may be.

    Raises:
        ConversionError: an operation cannot be converted. ExactnessError: no type holds its sums.
    """
    walk = _Walk(numerics, stretches(graph, steps) if isinstance(numerics, AsTrained) else {})
    for node in graph.nodes:
        walk.line = None if node.place is None else node.place.line
        if isinstance(node, SpikingNode):
            node.settle()
        with refusing(node.place):
            walk.of(node)
    checks = tuple(walk.of(check).ref for check in graph.checks)
    outputs = tuple(_returned(node, walk.of(node), numerics) for node in graph.outputs)
    return Calls(graph.inputs, tuple(walk.calls), checks, outputs, graph.structure)


def _returned(node: Node, snapped: Snapped, numerics: Numerics) -> Returned:
    if isinstance(node, InputNode):
        return Returned(snapped.ref, None)
    form = snapped.form
    if isinstance(numerics, AsTrained) and form.exponent is not None:
        form = replace(form, drive_exponent=None)  # it is added last, on no grid
    return Returned(snapped.ref, form)


class _Walk(Snapping):
    """One walk over a graph."""

    def __init__(self, numerics: Numerics, stretches: dict[Node, Stretch]) -> None:
        self._all, self._stretches = numerics, stretches
        self._snapped: list[Numerics] = []
        self.calls: list[OpCall] = []
        self.line: str | None = None
        self.known: dict[Node, Snapped] = {}

    @property
    def numerics(self) -> Numerics:
        return self._snapped[-1]

    def of(self, node: Node) -> Snapped:
        if node not in self.known:
            # A node that another made only now is of that one's stretch.
            self._snapped.append(self._stretches.get(node, self._snapped[-1] if self._snapped else self._all))
            self.known[node] = node.snap(self)
            self._snapped.pop()
        return self.known[node]

    def call(self, op: Op, *args: Any, **kwargs: Any) -> Ref:
        def ref(value: Any) -> Any:
            return self.of(value).ref if isinstance(value, Node) else value

        given = tuple(map_leaves(value, ref) for value in args)
        named = {name: map_leaves(value, ref) for name, value in kwargs.items()}
        result = Ref(f"%{len(self.calls)}")  # no argument of a forward can be called so
        self.calls.append(OpCall(op, given, named, result, self.line))
        return result
