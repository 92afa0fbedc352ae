"""A graph of operations, as it is handed from pass to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

from casc_core.conversion.graph.node import InputNode, Node, SignalNode
from casc_core.engine.structure import ONE, Returned, Structure


@dataclass(frozen=True)
class Graph:
    """What a forward computes for one way of calling it.

    Attributes:
        inputs: names of the arguments that are given.
        nodes: in the order in which they are computed. A node that only one other reads may be left out.
        checks: those that are called only for the errors that they may raise.
        outputs: what the forward returns, by number: signals that are read out, and what the inputs alone decide.
        structure: where they stand in it.
        layers: names of the populations.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    checks: tuple[InputNode, ...]
    outputs: tuple[Node, ...]
    layers: tuple[str, ...]
    structure: Structure = ONE

    @property
    def returned(self) -> Returned:
        """What the forward returns, and which of it neurons compute."""
        return Returned(self.structure, tuple(isinstance(output, SignalNode) for output in self.outputs))

    def pruned(self) -> Graph:
        """Without the nodes that nothing reads, but for those that check."""
        open_: list[Node] = [*self.outputs, *self.checks]
        needed = set(open_)
        while open_:
            for node in open_.pop().inputs:
                if node not in needed:
                    needed.add(node)
                    open_.append(node)
        return replace(self, nodes=tuple(node for node in self.nodes if node in needed))

    def __str__(self) -> str:
        """One line for each node: its number, its kind, what it is, and the numbers of the nodes that it reads.

        >>> from fractions import Fraction
        >>> from casc_core.conversion.graph import Argument, Encoded, Factor
        >>> x = Encoded(Argument("x"))
        >>> half = Factor(x, Fraction(1, 2))
        >>> print(Graph(("x",), (x.value, x, half), (), (half,), ()))
        %0 = Argument 'x'
        %1 = Encoded of %0
        %2 = Factor 1/2 of %1
        output: %2
        """
        numbers: dict[Node, int] = {}
        lines: list[str] = []

        def number(node: Node) -> int:
            if node not in numbers:
                inputs = ", ".join(f"%{number(each)}" for each in node.inputs)
                numbers[node] = len(numbers)
                said = [type(node).__name__, node.details(), f"of {inputs}" if inputs else ""]
                lines.append(f"%{numbers[node]} = {' '.join(filter(None, said))}")
            return numbers[node]

        for node in self.nodes:
            number(node)
        returned = ", ".join(f"%{number(output)}" for output in self.outputs)
        return "\n".join([*lines, f"output: {returned}"])
