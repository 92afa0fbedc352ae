"""Sizes, conditions on them, and tensors that are made of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.functions import FUNCTIONS, Function
from casc_core.export.onnx.functions.arithmetic import of_sizes
from casc_core.export.onnx.functions.table import RULES, functions
from casc_core.export.onnx.graph import SIZES, Graph, SymbolicSize, SymbolicTensor, at
from casc_core.export.onnx.signals import unsupported


@functions("Tensor", "size")
def _size(graph: Graph, function: Function, x: SymbolicTensor, dim: int | None = None) -> Any:
    sizes = tuple(graph.size(x, each) for each in range(x.dim))
    return sizes if dim is None else sizes[dim]


RULES["Tensor.dim"] = lambda graph, function, x: x.dim


@functions("Tensor", "numel")
def _numel(graph: Graph, function: Function, x: Any) -> Any:
    sizes = x if isinstance(x, (tuple, list)) else _size(graph, function, x)
    total: Any = 1
    for size in sizes:
        total = of_sizes(graph, FUNCTIONS["operator.mul"], total, size)
    return total


@functions("torch", "broadcast_shapes")
def _broadcast_shapes(graph: Graph, function: Function, *shapes: Sequence[int | SymbolicSize]) -> tuple[Any, ...]:
    aligned = itertools.zip_longest(*map(reversed, shapes), fillvalue=1)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in aligned)[::-1]


def _getattr(graph: Graph, function: Function, x: Any, name: str) -> Any:
    if name == "shape":
        return _size(graph, function, x)
    if name == "mT" or (name == "T" and x.dim == 2):
        return graph.transpose(x, (*range(x.dim - 2), x.dim - 1, x.dim - 2))
    if name in ("ndim", "dtype"):
        return x.dim if name == "ndim" else x.dtype
    if name == "device":
        return torch.device("cpu")
    raise unsupported(f"reading {name!r} of a tensor", "there is no rule for it")


RULES["getattr"] = _getattr


def _expect(graph: Graph, function: Function, outcome: bool, condition: Any, line: str) -> None:
    """A condition on sizes, which the graph checks."""
    if not isinstance(condition, SymbolicTensor):
        raise unsupported("a condition on sizes", line)
    graph.require(condition if outcome else graph.unary("Not", condition))


RULES["expect"] = _expect

RULES["expect_parts"] = lambda graph, function, *args: function(*args)

RULES["require_floating"] = lambda graph, function, target: function(at(target, 0))


@functions("torch", "arange")
def _arange(graph: Graph, function: Function, *bounds: Any, **kwargs: Any) -> SymbolicTensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    named = {name: value for name, value in kwargs.items() if name != "device"}
    if not all(isinstance(each, (int, SymbolicSize)) for each in (start, end, step)):
        raise unsupported("torch.arange()", "of real numbers")
    whole = [graph.tensor(each, torch.int64) for each in (start, end, step)]
    sizes = tuple(torch.arange(*at(list(bounds), size), device="meta") for size in SIZES)
    counted = SymbolicTensor(graph.node("Range", *(each.name for each in whole))[0], (sizes[0], sizes[1]))
    return graph.cast(counted, named.get("dtype") or torch.int64)


@functions("Tensor", "new_zeros new_ones new_full")
@functions("torch", "zeros ones full zeros_like ones_like full_like")
def _filled(graph: Graph, function: Function, *args: Any, **kwargs: Any) -> SymbolicTensor:
    kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
    like = tuple(function(*at(list(args), size), **at(kwargs, size), device="meta") for size in SIZES)
    name = function.name.rsplit(".", 1)[-1]
    value = 0 if "zeros" in name else 1 if "ones" in name else kwargs.get("fill_value", args[-1])
    if name.endswith("_like"):
        sizes: Any = _size(graph, function, args[0])
    else:
        given = args[1:] if isinstance(args[0], (SymbolicTensor, Tensor)) else args
        sizes = kwargs.get("size", given[0] if given and isinstance(given[0], (tuple, list)) else given)
    one = graph.tensor(value, like[0].dtype)
    return SymbolicTensor(graph.node("Expand", one.name, graph.shape(list(sizes)).name)[0], (like[0], like[1]))
