"""The second pass: factors, normalisations and thresholds go into maps, in the user's own numbers, before any grid.

First every node is folded in order: a map takes in what normalises its outputs, normalisations in a row become one, a
linear map of a table becomes a table, a maximum is taken before what normalises it. For the network as trained, maps in a
row are composed, else only what is flattened between them (`passes.compose`). Then maps absorb what is left before them.
What nothing reads any more is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from casc_core.conversion.graph import Folding, Graph, InputNode, Node, SpikingNode
from casc_core.conversion.passes.compose import composed, flattened
from casc_core.conversion.passes.refusing import refusing


def fold(graph: Graph, composes: bool = False) -> Graph:
    """The same graph with fewer and other nodes.

    Args:
        composes: maps in a row as well.

    Raises:
        ConversionError: an operation cannot be folded.
    """
    folded = _Folding(graph).rewritten(lambda folding, node: node.fold(folding)).pruned()
    compose = composed if composes else flattened
    folded = _Folding(folded).rewritten(lambda folding, node: compose(node)).pruned()
    return _Folding(folded).rewritten(lambda folding, node: node.absorb()).pruned()


class _Folding(Folding):
    """One walk over a graph, which rewrites it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.checks: list[InputNode] = []
        self.known: dict[Node, Node] = {}

    def require(self, check: InputNode) -> None:
        self.nodes.append(check)
        self.checks.append(check)

    def rewritten(self, rewrite: Callable[[_Folding, Node], Node]) -> Graph:
        """The graph of what `rewrite` makes of each node, whose inputs have been rewritten."""

        def of(node: Node) -> Node:
            if node not in self.known:
                with refusing(node.place):
                    self.known[node] = rewrite(self, node.with_inputs(of))
            return self.known[node]

        for node in self.graph.nodes:
            if isinstance(node, SpikingNode):
                node.settle()
            self.nodes.append(of(node))
        outputs = tuple(map(of, self.graph.outputs))
        checks = [check for check in map(of, self.graph.checks) if isinstance(check, InputNode)]
        nodes = tuple(dict.fromkeys(self.nodes))
        return replace(self.graph, nodes=nodes, checks=(*checks, *self.checks), outputs=outputs)
