"""Arithmetic, comparisons, casts and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.functions import Function
from casc_core.export.onnx.functions.table import functions, result_of
from casc_core.export.onnx.graph import SIZES, Graph, SymbolicSize, SymbolicTensor, at
from casc_core.export.onnx.signals import unsupported

_OPERATORS = {
    "add": "Add", "sub": "Sub", "subtract": "Sub", "mul": "Mul", "multiply": "Mul", "maximum": "Max", "minimum": "Min",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "ne": "Equal",
    "and_": "And", "logical_and": "And", "bitwise_and": "And", "or_": "Or", "logical_or": "Or",
    "truediv": "Div", "div": "Div", "divide": "Div", "true_divide": "Div",
}  # fmt: skip

_COMPARISONS = ("eq", "lt", "le", "gt", "ge", "ne")


@functions("operator Tensor torch", " ".join(_OPERATORS))
@functions("operator torch", "floordiv floor_divide")
def _by_entry(graph: Graph, function: Function, a: Any, b: Any) -> Any:
    name = function.name.rsplit(".", 1)[-1]
    if not any(isinstance(each, (SymbolicTensor, Tensor)) for each in (a, b)):
        return of_sizes(graph, function, a, b)
    result = result_of(function, a, b).dtype
    kind = torch.result_type(at(a, 0), at(b, 0)) if name in _COMPARISONS else result
    whole = not kind.is_floating_point
    if name in ("floordiv", "floor_divide"):
        raise unsupported(f"{function.name}()", "of tensors")
    if name in ("and_", "logical_and", "bitwise_and", "or_", "logical_or") and kind != torch.bool:
        raise unsupported(f"{function.name}()", "of numbers")
    if kind == torch.bool and name not in ("and_", "logical_and", "bitwise_and", "or_", "logical_or"):
        kind = torch.int64
    if whole and kind != torch.bool:
        kind = torch.int64
    one, other = graph.tensor(a, kind), graph.tensor(b, kind)
    if name in _COMPARISONS or kind == torch.bool:
        found = graph.apply(_OPERATORS[name], torch.eq, one, other)
        return graph.apply("Not", lambda x: x, found) if name == "ne" else found
    return graph.cast(graph.binary(_OPERATORS[name], one, other), result)


def of_sizes(graph: Graph, function: Function, a: Any, b: Any) -> Any:
    """Arithmetic on sizes, and conditions on them."""
    name = function.name.rsplit(".", 1)[-1]
    values = tuple(function(at(a, size), at(b, size)) for size in SIZES)
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):  # one behind another
        return function(a, b)
    one, other = graph.tensor(a, torch.int64), graph.tensor(b, torch.int64)
    if name in _COMPARISONS:
        found = graph.compare(_OPERATORS[name], one, other)
        return graph.apply("Not", lambda x: x, found) if name == "ne" else found
    # Sizes are above 0, where a quotient of whole numbers is rounded down.
    operator = "Div" if name == "floordiv" else _OPERATORS.get(name)
    if operator is None or name == "truediv" or not all(isinstance(value, int) for value in values):
        raise unsupported(f"{function.name}()", "of sizes that vary")
    return SymbolicSize(graph.binary(operator, one, other).name, (int(values[0]), int(values[1])))


@functions("Tensor torch operator", "neg negative abs")
def _one_argument(graph: Graph, function: Function, x: SymbolicTensor) -> SymbolicTensor:
    return graph.unary("Abs" if function.name.endswith("abs") else "Neg", x)


@functions("operator Tensor torch", "invert logical_not")
def _not(graph: Graph, function: Function, x: SymbolicTensor) -> SymbolicTensor:
    if x.dtype != torch.bool:
        raise unsupported(f"{function.name}()", "of numbers")
    return graph.unary("Not", x)


@functions("Tensor torch", "clamp clip clamp_min clamp_max")
def _clamp(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    names = {"clamp_min": ["min"], "clamp_max": ["max"]}.get(function.name.rsplit(".", 1)[-1], ["min", "max"])
    bounds = dict(zip(names, args, strict=False)) | kwargs
    kind = result_of(function, x, *args, **kwargs).dtype
    result = graph.cast(x, kind)
    for operator, bound in (("Max", bounds.get("min")), ("Min", bounds.get("max"))):
        if bound is not None:
            result = graph.binary(operator, result, graph.tensor(bound, kind))
    return result


@functions("Tensor torch", "where")
def _where(graph: Graph, function: Function, *args: Any) -> SymbolicTensor:
    kind = result_of(function, *args).dtype
    mask, a, b = args if function.name.startswith("torch.") else (args[1], args[0], args[2])
    return graph.where(graph.tensor(mask, torch.bool), graph.tensor(a, kind), graph.tensor(b, kind))


@functions("Tensor torch", "masked_fill")
def _masked_fill(graph: Graph, function: Function, x: Any, mask: Any, value: Any) -> SymbolicTensor:
    x = graph.tensor(x)
    return graph.where(graph.tensor(mask, torch.bool), graph.tensor(value, x.dtype), x)


@functions("Tensor", "float double long int bool to type type_as cpu")
def _cast(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    kind: torch.dtype = result_of(function, x, *_without_devices(args), **kwargs).dtype
    return graph.cast(x, kind)


def _without_devices(args: Sequence[Any]) -> list[Any]:
    return [each for each in args if not isinstance(each, torch.device)]


@functions("Tensor torch", "contiguous detach clone requires_grad_")
def _same(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    return x


@functions("Tensor torch", "sum amax amin any all max min count_nonzero")
def _reduction(
    graph: Graph, function: Function, x: SymbolicTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    name = function.name.rsplit(".", 1)[-1]
    if kwargs or (name in ("max", "min") and dim is not None):
        raise unsupported(f"{function.name}()", "called like this")
    dims = list(range(x.dim) if dim in (None, ()) else [dim] if isinstance(dim, int) else dim)
    if name in ("any", "all"):
        operator, x, kind = ("ReduceMax" if name == "any" else "ReduceMin"), graph.cast(x, torch.bool), torch.bool
    elif name in ("sum", "count_nonzero"):
        if name == "count_nonzero":
            x = graph.unary("Not", graph.compare("Equal", x, graph.tensor(0, x.dtype)))
        if x.dtype.is_floating_point and x.most is None:
            raise unsupported(f"{function.name}()", "of real numbers, whose sum depends on its order")
        operator, kind = "ReduceSum", x.dtype if x.dtype.is_floating_point else torch.int64
        x = graph.cast(x, torch.int64)
    else:
        operator, kind = ("ReduceMax" if "max" in name else "ReduceMin"), x.dtype
    return graph.cast(graph.reduce(operator, x, dims, bool(keepdim)), kind)
