"""What a forward still computes with its outputs, behind the last layer: what decodes boxes, or makes probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn


def has_weights(model: nn.Module, node: fx.Node) -> bool:
    """Whether an operation computes with parameters: those of its module, or those that it is given."""
    if node.op == "call_module":
        return any(True for _ in model.get_submodule(str(node.target)).parameters())
    return any(
        isinstance(_attribute(model, each), nn.Parameter) for each in node.all_input_nodes if each.op == "get_attr"
    )


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    value: Any = model
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


# They only move entries, or read sizes.
_UNSAID = frozenset(("getitem", "getattr", "size", "expect", "expect_parts", "opened"))


def what_follows(node: fx.Node, is_layer: Callable[[fx.Node], bool]) -> list[fx.Node] | None:
    """The operations whose result follows from that of this one, in order; None: a layer is among them.

    >>> from torch import nn
    >>> graph = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1), nn.Identity())).graph
    >>> nodes = list(graph.nodes)
    >>> [node.name for node in what_follows(nodes[2], lambda node: False)]
    ['_2']
    """
    following: set[fx.Node] = {node}
    found = []
    for each in node.graph.nodes:
        if each in following or each.op == "output" or following.isdisjoint(each.all_input_nodes):
            continue
        if is_layer(each):
            return None
        following.add(each)
        found.append(each)
    return found


def move_out(nodes: Sequence[fx.Node], following: Sequence[fx.Node], described: Callable[[fx.Node], str]) -> str:
    """What to do about operations behind the last layer: a sentence that names them and what follows from the first."""
    said = [f"{described(each)} ({_place(each)})" for each in following if _named(each) not in _UNSAID]
    further = f", and what follows from it: {_listed(said)}" if said else ""
    applied = _listed([described(each) for each in nodes])
    return (
        f"It stands behind the last layer: return what it reads, and apply {applied} to the converted network's outputs"
        f"{further}"
    )


def _listed(said: Sequence[str]) -> str:
    once = list(dict.fromkeys(said))
    return ", ".join(once[:6]) + (f" and {len(once) - 6} more" if len(once) > 6 else "")


def _place(node: fx.Node) -> str:
    """File and line, without the code."""
    line = str(node.meta.get("line", "?"))
    return ":".join(line.split(":")[:2]).rpartition("/")[2]


def _named(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
