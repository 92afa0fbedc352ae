"""The third pass: every number is put on its grid, and operations of the engine are called in order.

The nodes are walked once, in the order in which they are computed. Each is snapped once: when it is its turn, or when
another asks for it. Which grids there are is for `conversion.grids` to say, and `conversion.snapping` puts numbers on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from casc_core.conversion.graph import Graph, InputNode, Node, PopulationNode, Snapped, Snapping, SpikingNode
from casc_core.conversion.grids import Form, Reach, Stretch
from casc_core.conversion.passes.refusing import refusing
from casc_core.conversion.passes.stretches import stretches
from casc_core.conversion.passes.times import Time, times
from casc_core.engine.leaves import map_leaves
from casc_core.engine.ops import Bin, Op, Unbin
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
    if isinstance(numerics, AsTrained):
        walk = _Walk(numerics, stretches(graph, steps), times(graph))
    else:
        walk = _Walk(numerics, {}, {})
    for node in graph.nodes:
        walk.line = None if node.place is None else node.place.line
        if isinstance(node, SpikingNode):
            node.settle()
            walk.reach_of(node)  # as is settled what it knows
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

    def __init__(self, numerics: Numerics, stretches: dict[Node, Stretch], times: dict[Node, Time]) -> None:
        self._stretches, self._times = stretches, times
        # Nodes that are being snapped, each for the one before.
        self._readers: list[tuple[Numerics, Time | None]] = [(numerics, None)]
        self._moved: dict[tuple[Node, Time], Snapped] = {}
        self.calls: list[OpCall] = []
        self.line: str | None = None
        self.known: dict[Node, Snapped] = {}
        self.reaches: dict[Node, Reach] = {}

    @property
    def numerics(self) -> Numerics:
        return self._readers[-1][0]

    def numerics_of(self, node: Node) -> Numerics:
        return self._stretches.get(node, self.numerics)

    def reach_of(self, node: Node) -> Reach:
        if node not in self.reaches:
            assert isinstance(node, SpikingNode)
            self.reaches[node] = node.reach(self.reach_of)
        return self.reaches[node]

    def of(self, node: Node) -> Snapped:
        _, time = self._readers[-1]
        if node not in self.known:
            # A node that another made only now is of that one's stretch.
            self._readers.append((self.numerics_of(node), self._time_read(node)))
            self.known[node] = node.snap(self)
            self._readers.pop()
        known, given = self.known[node], self._time_of(node)
        if None in (given, time) or given is time:
            return known
        assert time is not None
        if (node, time) not in self._moved:
            op = Unbin() if time is Time.STEPS else Bin(at_end=time is Time.END)
            self._moved[node, time] = replace(known, ref=self._called(op, (known.ref,), {}))
        return self._moved[node, time]

    def _time_read(self, node: Node) -> Time | None:
        """In which time it reads signals; None: in any, as what asks for their shape does."""
        return Time.STEPS if isinstance(node, PopulationNode) else self._time_of(node)

    def _time_of(self, node: Node) -> Time | None:
        """In which time it gives a signal; None: it gives none."""
        if not isinstance(node, SpikingNode):
            return None
        if node.is_whole:
            return Time.STEPS
        if node not in self._times:  # it was made only now: in that of what it reads
            read = (self._time_of(source) for source in node.sources)
            self._times[node] = next((time for time in read if time not in (None, Time.STEPS)), None) or Time.STEPS
        return self._times[node]

    def call(self, op: Op, *args: Any, **kwargs: Any) -> Ref:
        def ref(value: Any) -> Any:
            return self.of(value).ref if isinstance(value, Node) else value

        given = tuple(map_leaves(value, ref) for value in args)
        named = {name: map_leaves(value, ref) for name, value in kwargs.items()}
        return self._called(op, given, named)

    def _called(self, op: Op, given: tuple[Any, ...], named: dict[str, Any]) -> Ref:
        result = Ref(f"%{len(self.calls)}")  # no argument of a forward can be called so
        self.calls.append(OpCall(op, given, named, result, self.line))
        return result
