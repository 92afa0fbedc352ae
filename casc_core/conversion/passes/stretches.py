"""Which grids there are for the network as trained: one choice for all that lies between the same populations.

Signals meet in sums, and a sum is on the finest grid of its terms. So the grid is chosen once for each stretch of the
graph, between the populations whose spikes enter it and those that it reaches, by the largest sums in it. A product of
spikes is whole numbers as well, and begins a stretch as they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from casc_core.conversion.graph import Encoded, Factor, Graph, Node, PopulationNode, Product, SpikingNode
from casc_core.conversion.graph.signals import Applied, Concatenation, Maximum, Sum
from casc_core.conversion.grids import LARGEST_DENOMINATOR, Reach, Stretch


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
    fired: set[Node] = set()
    depths: dict[Node, int] = {}
    for node in nodes:
        own = first[node]
        is_population = isinstance(node, PopulationNode)
        reach = node.potential(reaches.__getitem__) if isinstance(node, PopulationNode) else reaches[node].total
        largest[own] = max(largest.get(own, 0.0), reach)
        joins = isinstance(node, (Sum, Concatenation))
        deep = [depths[source] + (joins and _is_rescaled(source)) for source in node.sources]
        before = sum(deep) if isinstance(node, Product) else max(deep, default=0)  # its bits are those of both together
        maps[own] = max(maps.get(own, 0), before)
        depths[node] = 0 if is_population else before + (node.is_snapped and node.has_spikes)
        maps[own] = max(maps.get(own, 0), depths[node])
        if isinstance(node, Encoded) and node.is_unknown:
            driven.add(own)
        if is_population:
            fired.add(own)
    found = {own: Stretch.of(largest[own], maps[own], levels, own in driven, own in fired) for own in largest}
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
            if not source.is_whole:
                parent[root(source)] = root(node)
    return {node: root(node) for node in nodes}


def _is_rescaled(node: Node) -> bool:
    """Whether spikes are multiplied by a number of many bits where this is brought to one scale with others."""
    scale = Fraction(1)
    while isinstance(node, (Applied, Factor, Maximum)):
        scale *= 1 if isinstance(node, Maximum) else node.scale if isinstance(node, Applied) else node.factor
        node = node.sources[0]
    if isinstance(node, PopulationNode):
        scale *= node.worth
    return max(scale.numerator, scale.denominator) > LARGEST_DENOMINATOR
