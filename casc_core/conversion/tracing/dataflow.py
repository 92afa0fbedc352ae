"""What in a traced forward depends on the model's inputs, and what on its parameters and buffers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx


def reading_inputs(graph: fx.Graph, inputs: Sequence[str]) -> set[fx.Node]:
    """The nodes whose value follows from one of the named inputs."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        given = node.op == "placeholder" and str(node.target) in inputs
        if given or any(before in found for before in node.all_input_nodes):
            found.add(node)
    return found


def reading_parameters(graph: fx.Graph, inputs: Sequence[str]) -> set[fx.Node]:
    """The nodes whose value follows from parameters and buffers alone."""
    reading = reading_inputs(graph, inputs)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        # A module without arguments computes from its own parameters.
        own = node.op == "get_attr" or (node.op == "call_module" and not node.args and not node.kwargs)
        if node not in reading and (own or any(before in found for before in node.all_input_nodes)):
            found.add(node)
    return found


def called_on(graphs: Iterable[fx.Graph], inputs: Sequence[str]) -> tuple[set[str], set[str]]:
    """Paths of the modules called on what follows from the inputs, and of those called on parameters and buffers alone."""
    of_inputs: set[str] = set()
    of_constants: set[str] = set()
    for graph in graphs:
        for nodes, paths in (
            (reading_inputs(graph, inputs), of_inputs),
            (reading_parameters(graph, inputs), of_constants),
        ):
            paths |= {str(node.target) for node in nodes if node.op == "call_module"}
    return of_inputs, of_constants
