"""Which grids there are for the network as trained: one choice for all that lies between the same populations.

Signals meet in sums, and a sum is on the finest grid of its terms. So the grid is chosen once for each stretch of the
graph, between the populations whose spikes enter it and those that it reaches, by the largest sums in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from casc_core.conversion.graph import Encoded, Factor, Graph, Node, PopulationNode, SpikingNode
from casc_core.conversion.graph.signals import Concatenation, Sum
from casc_core.conversion.grids import Reach, Stretch


def stretches(graph: Graph, levels: int) -> dict[Node, Stretch]:
    """The stretch of each spiking node of a folded graph; that of a population is what it reads.

    Args:
        levels: that the network was trained with.
    """
    nodes = list(dict.fromkeys(_computed([*graph.nodes, graph.output], set())))
    first = _joined(nodes)
    reaches: dict[Node, Reach] = {}
    for node in nodes:
        reaches[node] = node.reach(reaches.__getitem__)
    largest: dict[Node, float] = {}
    maps: dict[Node, int] = {}
    driven: set[Node] = set()
    depths: dict[Node, int] = {}
    for node in nodes:
        own = first[node]
        is_population = isinstance(node, PopulationNode)
        reach = node.potential(reaches.__getitem__) if isinstance(node, PopulationNode) else reaches[node].total
        largest[own] = max(largest.get(own, 0.0), reach)
        before = max((depths[source] for source in node.sources if not isinstance(source, PopulationNode)), default=0)
        depths[node] = before if is_population else before + _factors(node)
        maps[own] = max(maps.get(own, 0), depths[node])
        if isinstance(node, Encoded) and node.is_unknown:
            driven.add(own)
    found = {own: Stretch.of(largest[own], maps[own], levels, own in driven) for own in largest}
    return {node: found[first[node]] for node in nodes}


def _computed(nodes: list[Node], seen: set[Node]) -> Iterator[SpikingNode]:
    """The spiking nodes among these and all that they read, inputs first."""
    for node in nodes:
        if node not in seen:
            seen.add(node)
            yield from _computed(list(node.inputs), seen)
            if isinstance(node, SpikingNode):
                yield node


def _joined(nodes: list[SpikingNode]) -> dict[Node, Node]:
    """For each node, the same one of all those of its stretch."""
    parent: dict[Node, Node] = {node: node for node in nodes}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for source in node.sources:
            if not isinstance(source, PopulationNode):
                parent[root(source)] = root(node)
    return {node: root(node) for node in nodes}


def _factors(node: SpikingNode) -> int:
    """How many numbers that take all the bits of a weight it multiplies spikes with."""
    if not node.has_spikes:
        return 0
    meets = isinstance(node, (Sum, Concatenation)) and any(isinstance(source, Factor) for source in node.sources)
    return int(node.is_snapped or meets)
