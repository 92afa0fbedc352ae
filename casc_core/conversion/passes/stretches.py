"""Which grids there are for the network as trained: one choice for all that lies between the same populations.

Signals meet in sums, and a sum is on the finest grid of its terms. So the grid is chosen once for each stretch of the
graph, between the populations whose spikes enter it and those that it reaches, by the largest sums in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from casc_core.conversion.graph import Encoded, Graph, Node, PopulationNode, SpikingNode
from casc_core.conversion.grids import Onward, Reach, Stretch


def stretches(graph: Graph, steps: int) -> dict[Node, Stretch]:
    """The stretch of each spiking node of a folded graph; that of a population is what it reads.

    Args:
        steps: how often a neuron may spike, and how many wake steps there may be.
    """
    nodes = list(dict.fromkeys(_computed([*graph.nodes, graph.output], set())))
    first = _joined(nodes)
    reaches: dict[Node, Reach] = {}
    for node in nodes:
        reaches[node] = node.reach(reaches.__getitem__)
    largest: dict[Node, float] = {}
    driven: set[Node] = set()
    for node in nodes:
        own = first[node]
        reach = node.potential(reaches.__getitem__) if isinstance(node, PopulationNode) else reaches[node].total
        largest[own] = max(largest.get(own, 0.0), reach)
        if isinstance(node, Encoded) and node.is_unknown:
            driven.add(own)
    found = {own: Stretch.of(reach, steps, own in driven) for own, reach in largest.items()}
    ahead = _ahead(nodes)
    return {node: replace(found[first[node]], ahead=ahead[node]) for node in nodes}


def _ahead(nodes: list[SpikingNode]) -> dict[Node, tuple[Onward, ...]]:
    """The ways from each node to the neurons ahead: of those with as many maps, the one with the least gain."""
    least: dict[Node, dict[int, int]] = {node: {} for node in nodes}
    for node in reversed(nodes):
        ahead = {} if isinstance(node, PopulationNode) else least[node]
        ways = [Onward(*each) for each in ahead.items()] or [Onward()]
        for source in node.sources:
            for way in ways:
                whole = node.onward(source).then(way)
                before = least[source].get(whole.maps, whole.gain)
                least[source][whole.maps] = min(before, whole.gain)
    return {
        node: (Onward(),)
        if isinstance(node, PopulationNode) or not each
        else tuple(Onward(*one) for one in each.items())
        for node, each in least.items()
    }


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
