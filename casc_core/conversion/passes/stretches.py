"""Which grids there are for the network as trained: one choice for all that is added up between the same places.

Signals meet in sums, and a sum is on the finest grid of its terms. So the grid is chosen once for each stretch of the
graph, from where whole numbers of spikes enter it to the populations that it reaches, by the largest sums in it. What
multiplies numbers that are on a fine grid already (a map behind a map, factors, a gate) is a running function of their
totals, rounded to a grid of its own: it begins a stretch, which shares nothing with the one before. So does a linear map
at the end, which gives an output: what it reads is summed first, and its weights are on no grid that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from casc_core.conversion.graph import (
    Applied,
    ComparingNode,
    Factor,
    Graph,
    LinearMap,
    MapNode,
    Node,
    PopulationNode,
    Product,
    SpikingNode,
)
from casc_core.conversion.grids import Reach, Stretch
from casc_core.engine.ops import DividedByInput, Layout

# A running map is held within so many times what its neurons can spike and what else they may receive.
HELD = 4.0
# Numbers that no neurons read are on grids no coarser than `2**COARSEST`.
COARSEST = -10


def stretches(graph: Graph, steps: int) -> dict[Node, Stretch]:
    """The stretch of each spiking node of a folded graph; that of a population is what it reads.

    Args:
        steps: how often a neuron may spike, and how many wake steps there may be.
    """
    nodes = spiking_nodes(graph)
    readouts = _readouts(graph, nodes)
    first = joined(nodes, lambda node, source: not (source.is_whole or node.is_running or node in readouts))
    reaches: dict[Node, Reach] = {}
    neurons, divided = _neurons_behind(graph, nodes), _divided(nodes)
    held: dict[Node, float] = {}
    for node in nodes:
        reach = node.reach(reaches.__getitem__)
        endless = reach.is_unknown or (reach.is_summed and any(source.is_driven for source in node.sources))
        if node in neurons and not (endless or node in divided):
            most = HELD * (reach.drive + neurons[node])
            if 0 < most < reach.most:
                held[node], reach = most, replace(reach, train=most, is_unheld=False)
        reaches[node] = reach
    largest: dict[Node, Reach] = {}
    for node in nodes:
        own = first[node]
        reach = node.potential(reaches.__getitem__) if isinstance(node, PopulationNode) else reaches[node]
        largest[own] = largest.get(own, Reach()).joined(reach.room)
    found = {own: Stretch.of(reach, steps) for own, reach in largest.items()}
    _refuse_coarse(nodes, first, found)
    found |= {readout: Stretch.of_readout(largest[readout]) for readout in readouts}
    return {node: replace(found[first[node]], held=held.get(node)) for node in nodes}


def _refuse_coarse(nodes: list[SpikingNode], first: dict[Node, Node], found: dict[Node, Stretch]) -> None:
    """Refuse numbers that may be so large that no fraction of them is left, where no neurons say what they can tell apart.

    Raises:
        ConversionError: there are such numbers.
    """
    compared = {first[node] for node in nodes if isinstance(node, PopulationNode)}
    for node in nodes:
        finest = found[first[node]].finest
        if isinstance(node, Product) and first[node] not in compared and finest > COARSEST:
            raise node.refuse(
                f"products of products as large as these may be are exact to {2.0**finest:.2g} alone: make the factors "
                "smaller, or put an activation between the products"
            )


def _neurons_behind(graph: Graph, nodes: list[SpikingNode]) -> dict[Node, float]:
    """By running map or product that one population reads, and nothing else: the largest threshold that it meets.

    Factors and rearrangements may stand between them.
    """
    readers: dict[Node, list[SpikingNode]] = {}
    for node in nodes:
        for source in node.sources:
            readers.setdefault(source, []).append(node)
    outputs = set(graph.outputs)

    def threshold(node: Node, factor: float) -> float | None:
        reader = readers.get(node, [])
        if len(reader) != 1 or node in outputs:
            return None
        (only,) = reader
        if isinstance(only, Factor):
            return threshold(only, factor * abs(float(only.factor)))
        if isinstance(only, Applied) and isinstance(only.op, Layout):
            return threshold(only, factor)
        return only.compared_with(node) / factor if isinstance(only, ComparingNode) else None

    behind = {node: threshold(node, 1.0) for node in nodes if isinstance(node, (MapNode, Product)) and node.is_running}
    return {node: most for node, most in behind.items() if most is not None}


def _divided(nodes: list[SpikingNode]) -> set[Node]:
    """The nodes that carry a divisor beside their numbers, as trained: a rounded quotient has none."""
    found: set[Node] = set()
    for node in nodes:
        divides = isinstance(node, Applied) and node.divides
        if isinstance(node, Applied) and isinstance(node.op, DividedByInput) and node.is_running:
            divides = False
        if node.is_divided and (divides or any(source in found for source in node.sources)):
            found.add(node)
    return found


def spiking_nodes(graph: Graph) -> list[SpikingNode]:
    """The spiking nodes of a graph, inputs first."""
    return list(dict.fromkeys(_computed([*graph.nodes, *graph.outputs], set())))


def _computed(nodes: list[Node], seen: set[Node]) -> Iterator[SpikingNode]:
    """The spiking nodes among these and all that they read, inputs first."""
    for node in nodes:
        if node not in seen:
            seen.add(node)
            yield from _computed(list(node.inputs), seen)
            if isinstance(node, SpikingNode):
                yield node


def joined(nodes: list[SpikingNode], joins: Callable[[SpikingNode, SpikingNode], bool]) -> dict[Node, Node]:
    """For each node, the same one of all those that belong together: a node and a source of it, if `joins` says so."""
    parent: dict[Node, Node] = {node: node for node in nodes}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for source in node.sources:
            if joins(node, source):
                parent[root(source)] = root(node)
    return {node: root(node) for node in nodes}


def _readouts(graph: Graph, nodes: list[SpikingNode]) -> set[Node]:
    """The linear maps that give an output, and nothing else."""
    read = {source for node in nodes for source in node.sources}
    return {output for output in graph.outputs if isinstance(output, LinearMap) and output not in read}
