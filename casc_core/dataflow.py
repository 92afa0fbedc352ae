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


def called_on(graphs: Iterable[fx.Graph], inputs: Sequence[str]) -> tuple[set[str], set[str]]:
    """Paths of the modules that are called on what follows from the inputs, and of those called on anything else."""
    of_inputs: set[str] = set()
    of_constants: set[str] = set()
    for graph in graphs:
        reading = reading_inputs(graph, inputs)
        for node in graph.nodes:
            if node.op == "call_module":
                (of_inputs if node in reading else of_constants).add(str(node.target))
    return of_inputs, of_constants
