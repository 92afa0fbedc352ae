"""At which steps what lies between populations is computed, for the network as trained.

A map of a map's currents is a dense product wherever it is computed, so what holds one is computed for several steps at a
time (`casc_core.engine.ops.bins`). Behind the last populations, where no neuron waits for it, it is computed at the end.
"""

from __future__ import annotations

from enum import Enum

from casc_core.conversion.graph import Graph, Node, PopulationNode, SpikingNode
from casc_core.conversion.passes.stretches import joined, spiking_nodes


class Time(Enum):
    """When a node is computed."""

    STEPS = "at each step"
    BINS = "for several steps at a time"
    END = "for all steps at once, where only the last readout is asked for"


def times(graph: Graph) -> dict[Node, Time]:
    """When each spiking node is computed, what it reads included, but for populations: they run at each step."""
    nodes = spiking_nodes(graph)
    first = joined(nodes, lambda node, source: not source.is_whole)
    in_a_row = {first[node] for node in nodes if node.is_running}
    before_neurons = {first[node] for node in nodes if isinstance(node, PopulationNode)}
    at_end = {first[output] for output in graph.outputs if isinstance(output, SpikingNode)}

    def time(place: Node) -> Time:
        if place not in in_a_row or (place in at_end and place in before_neurons):
            return Time.STEPS
        return Time.END if place in at_end else Time.BINS

    return {node: time(first[node]) for node in nodes}
