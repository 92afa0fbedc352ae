"""Which grids there are for the network as trained: one choice for all that lies between the same populations.

Signals meet in sums, and a sum is on the finest grid of its terms. So the grid is chosen once for each stretch of the
graph, between the populations whose spikes enter it and those that it reaches, by the largest sums in it. A product of
spikes is whole numbers as well, and begins a stretch as they do. A linear map at the end, which gives an output, is a
stretch of its own: what it reads is summed first, and its weights are on no grid that matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from casc_core.conversion.graph import Graph, LinearMap, Node, PopulationNode, SpikingNode
from casc_core.conversion.grids import Onward, Reach, Stretch


def stretches(graph: Graph, steps: int) -> dict[Node, Stretch]:
    """The stretch of each spiking node of a folded graph; that of a population is what it reads.

    Args:
        steps: how often a neuron may spike, and how many wake steps there may be.
    """
    nodes = list(dict.fromkeys(_computed([*graph.nodes, *graph.outputs], set())))
    readouts = _readouts(graph, nodes)
    first = _joined(nodes, readouts)
    reaches: dict[Node, Reach] = {}
    for node in nodes:
        reaches[node] = node.reach(reaches.__getitem__)
    largest: dict[Node, Reach] = {}
    for node in nodes:
        own = first[node]
        reach = node.potential(reaches.__getitem__) if isinstance(node, PopulationNode) else reaches[node]
        largest[own] = largest.get(own, Reach()).joined(reach)
    ahead = _ahead(nodes, readouts)
    shared = {
        first[node]
        for node in nodes
        if node not in readouts
        for source in node.sources
        for way in _through(node, ahead)
        if source.is_whole and node.onward(source).then(way).maps > 1
    }
    found = {own: Stretch.of(reach, steps, own in shared) for own, reach in largest.items()}
    found |= {readout: Stretch.of_readout(largest[readout]) for readout in readouts}
    return {node: replace(found[first[node]], ahead=_through(node, ahead)) for node in nodes}


def _readouts(graph: Graph, nodes: list[SpikingNode]) -> set[Node]:
    """The linear maps that give an output, and nothing else."""
    read = {source for node in nodes for source in node.sources}
    return {output for output in graph.outputs if isinstance(output, LinearMap) and output not in read}


def _ahead(nodes: list[SpikingNode], readouts: set[Node]) -> dict[Node, dict[int, Onward]]:
    """By the number of maps: the ways from what each node gives to the neurons ahead, the one with the least gain."""
    ahead: dict[Node, dict[int, Onward]] = {node: {} for node in nodes}
    for node in reversed(nodes):
        for source in node.sources:
            for way in _through(node, ahead):
                whole = Onward() if node in readouts else node.onward(source).then(way)
                known = ahead[source].get(whole.maps, whole)
                ahead[source][whole.maps] = min(known, whole, key=lambda each: each.gain)
    return ahead


def _through(node: Node, ahead: dict[Node, dict[int, Onward]]) -> tuple[Onward, ...]:
    """The ways that lead on from what arrives in a node: at neurons, and where all ends, none."""
    further = () if isinstance(node, PopulationNode) else ahead[node].values()
    return tuple(further) or (Onward(),)


def _computed(nodes: list[Node], seen: set[Node]) -> Iterator[SpikingNode]:
    """The spiking nodes among these and all that they read, inputs first."""
    for node in nodes:
        if node not in seen:
            seen.add(node)
            yield from _computed(list(node.inputs), seen)
            if isinstance(node, SpikingNode):
                yield node


def _joined(nodes: list[SpikingNode], readouts: set[Node]) -> dict[Node, Node]:
    """For each node, the same one of all those of its stretch."""
    parent: dict[Node, Node] = {node: node for node in nodes}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for source in node.sources:
            if not source.is_whole and node not in readouts:
                parent[root(source)] = root(node)
    return {node: root(node) for node in nodes}
