"""How the functions that a network calls on its inputs, and on the layout of signals, are written: a table by name.

What is known of a result, its shape and its type, is what the function itself makes of tensors without numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from casc_core.engine.functions import FUNCTIONS, Function
from casc_core.engine.leaves import leaves
from casc_core.export.onnx.graph import SIZES, Graph, SymbolicSize, SymbolicTensor, at, fixed_size, likes
from casc_core.export.onnx.signals import unsupported

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)
RULES: dict[str, Rule] = {}
"""By name of the function: called as `rule(graph, function, *args, **kwargs)`."""


def written(graph: Graph, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the function of this name gives.

    Raises:
        ConversionError: it cannot be written.
    """
    function = FUNCTIONS[name]
    there = [*leaves(args), *leaves(tuple(kwargs.values()))]
    if not any(isinstance(each, (SymbolicTensor, SymbolicSize)) for each in there):
        return function(*args, **kwargs)
    rule = RULES.get(name) or (_rearranged if function.rearranges else None)
    if rule is None:
        raise unsupported(f"{name}()", "there is no rule for it")
    try:
        return rule(graph, function, *args, **kwargs)
    except TypeError as error:
        raise unsupported(f"{name}()", f"called like this: {error}") from error


def _functions(owners: str, names: str) -> Callable[[RuleT], RuleT]:
    """Decorator of the rule of these functions."""

    def register(rule: RuleT) -> RuleT:
        RULES.update({f"{owner}.{name}": rule for owner in owners.split() for name in names.split()})
        return rule

    return register


def _result(function: Function, *args: Any, **kwargs: Any) -> Any:
    """What the function makes of tensors without numbers, at the first size."""
    return function(*at(list(args), 0), **at(kwargs, 0))


# Arithmetic.

_OPERATORS = {
    "add": "Add", "sub": "Sub", "subtract": "Sub", "mul": "Mul", "multiply": "Mul", "maximum": "Max", "minimum": "Min",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "ne": "Equal",
    "and_": "And", "logical_and": "And", "bitwise_and": "And", "or_": "Or", "logical_or": "Or",
    "truediv": "Div", "div": "Div", "divide": "Div", "true_divide": "Div",
}  # fmt: skip
_COMPARISONS = ("eq", "lt", "le", "gt", "ge", "ne")


@_functions("operator Tensor torch", " ".join(_OPERATORS))
@_functions("operator torch", "floordiv floor_divide")
def _by_entry(graph: Graph, function: Function, a: Any, b: Any) -> Any:
    name = function.name.rsplit(".", 1)[-1]
    if not any(isinstance(each, (SymbolicTensor, Tensor)) for each in (a, b)):
        return _of_sizes(graph, function, a, b)
    result = _result(function, a, b).dtype
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


def _of_sizes(graph: Graph, function: Function, a: Any, b: Any) -> Any:
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


@_functions("Tensor torch operator", "neg negative abs")
def _one_argument(graph: Graph, function: Function, x: SymbolicTensor) -> SymbolicTensor:
    return graph.unary("Abs" if function.name.endswith("abs") else "Neg", x)


@_functions("operator Tensor torch", "invert logical_not")
def _not(graph: Graph, function: Function, x: SymbolicTensor) -> SymbolicTensor:
    if x.dtype != torch.bool:
        raise unsupported(f"{function.name}()", "of numbers")
    return graph.unary("Not", x)


@_functions("Tensor torch", "clamp clip clamp_min clamp_max")
def _clamp(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    names = {"clamp_min": ["min"], "clamp_max": ["max"]}.get(function.name.rsplit(".", 1)[-1], ["min", "max"])
    bounds = dict(zip(names, args, strict=False)) | kwargs
    kind = _result(function, x, *args, **kwargs).dtype
    result = graph.cast(x, kind)
    for operator, bound in (("Max", bounds.get("min")), ("Min", bounds.get("max"))):
        if bound is not None:
            result = graph.binary(operator, result, graph.tensor(bound, kind))
    return result


@_functions("Tensor torch", "where")
def _where(graph: Graph, function: Function, *args: Any) -> SymbolicTensor:
    kind = _result(function, *args).dtype
    mask, a, b = args if function.name.startswith("torch.") else (args[1], args[0], args[2])
    return graph.where(graph.tensor(mask, torch.bool), graph.tensor(a, kind), graph.tensor(b, kind))


@_functions("Tensor torch", "masked_fill")
def _masked_fill(graph: Graph, function: Function, x: Any, mask: Any, value: Any) -> SymbolicTensor:
    x = graph.tensor(x)
    return graph.where(graph.tensor(mask, torch.bool), graph.tensor(value, x.dtype), x)


@_functions("Tensor", "float double long int bool to type type_as cpu")
def _cast(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    kind: torch.dtype = _result(function, x, *_without_devices(args), **kwargs).dtype
    return graph.cast(x, kind)


def _without_devices(args: Sequence[Any]) -> list[Any]:
    return [each for each in args if not isinstance(each, torch.device)]


@_functions("Tensor torch", "contiguous detach clone requires_grad_")
def _same(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    return x


@_functions("Tensor torch", "sum amax amin any all max min count_nonzero")
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


# Sizes, and tensors that are made of them.


@_functions("Tensor", "size")
def _size(graph: Graph, function: Function, x: SymbolicTensor, dim: int | None = None) -> Any:
    sizes = tuple(graph.size(x, each) for each in range(x.dim))
    return sizes if dim is None else sizes[dim]


RULES["Tensor.dim"] = lambda graph, function, x: x.dim


@_functions("Tensor", "numel")
def _numel(graph: Graph, function: Function, x: Any) -> Any:
    sizes = x if isinstance(x, (tuple, list)) else _size(graph, function, x)
    total: Any = 1
    for size in sizes:
        total = _of_sizes(graph, FUNCTIONS["operator.mul"], total, size)
    return total


def _getattr(graph: Graph, function: Function, x: Any, name: str) -> Any:
    if name == "shape":
        return _size(graph, function, x)
    if name in ("T", "mT") and x.dim == 2:
        return graph.transpose(x, (1, 0))
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


@_functions("torch", "arange")
def _arange(graph: Graph, function: Function, *bounds: Any, **kwargs: Any) -> SymbolicTensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    named = {name: value for name, value in kwargs.items() if name != "device"}
    if not all(isinstance(each, (int, SymbolicSize)) for each in (start, end, step)):
        raise unsupported("torch.arange()", "of real numbers")
    whole = [graph.tensor(each, torch.int64) for each in (start, end, step)]
    sizes = tuple(torch.arange(*at(list(bounds), size), device="meta") for size in SIZES)
    counted = SymbolicTensor(graph.node("Range", *(each.name for each in whole))[0], (sizes[0], sizes[1]))
    return graph.cast(counted, named.get("dtype") or torch.int64)


@_functions("Tensor", "new_zeros new_ones new_full")
@_functions("torch", "zeros ones full zeros_like ones_like full_like")
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


# Layout.


@_functions("Tensor torch", "reshape flatten unflatten view squeeze unsqueeze")
def _reshape(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    first, second = (function(x.like[size], *at(list(args), size), **at(kwargs, size)).shape for size in SIZES)
    return graph.reshape(x, (first, second))


@_functions("Tensor torch", "permute transpose t movedim swapaxes")
def _transpose(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    # Dimensions are told apart by their sizes.
    told = torch.empty(list(range(2, 2 + x.dim)), device="meta")
    return graph.transpose(x, [size - 2 for size in function(told, *args, **kwargs).shape])


@_functions("Tensor", "expand")
def _expand(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    like = likes(lambda x, args, kwargs: function(x, *args, **kwargs), x, list(args), kwargs)
    sizes = list(args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args) or list(kwargs["size"])
    ahead = len(sizes) - x.dim
    sizes = [graph.size(x, dim - ahead) if size == -1 else size for dim, size in enumerate(sizes)]
    return SymbolicTensor(graph.node("Expand", x.name, graph.shape(sizes).name)[0], like)


@_functions("Tensor torch", "select narrow")
def _taken(graph: Graph, function: Function, x: SymbolicTensor, dim: int, *where: Any) -> SymbolicTensor:
    places: list[Any] = [slice(None)] * x.dim
    places[dim] = where[0] if function.name.endswith("select") else slice(where[0], where[0] + where[1])
    return _basic(graph, x, places)


@_functions("operator", "getitem")
def _getitem(graph: Graph, function: Function, x: Any, index: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return x[index]
    places = list(index) if isinstance(index, tuple) else [index]
    if isinstance(x, SymbolicTensor) and all(_is_basic(place) for place in places):
        return _basic(graph, x, places)
    whole = [place for place in places if isinstance(place, (SymbolicTensor, Tensor))]
    behind = places[len(whole) :]
    if places[: len(whole)] == whole and all(place == slice(None) for place in behind) and _are_places(whole):
        return _at_places(graph, function, x, whole, index)
    return _rearranged(graph, function, x, index)


def _are_places(tensors: Sequence[SymbolicTensor | Tensor]) -> bool:
    return all(not each.dtype.is_floating_point and each.dtype != torch.bool for each in tensors)


def _at_places(
    graph: Graph, function: Function, x: Any, places: Sequence[SymbolicTensor | Tensor], index: Any
) -> SymbolicTensor:
    """Entries that tensors name, one for each of the first dimensions."""
    like = likes(lambda x, index: x[index], x, index)
    named = [graph.tensor(each, torch.int64) for each in places]
    zeros = graph.mul(named[0], graph.tensor(0, torch.int64))
    for each in named[1:]:
        zeros = graph.mul(graph.add(zeros, each), graph.tensor(0, torch.int64))
    together = graph.concat([graph.unsqueeze(graph.add(each, zeros), -1) for each in named], -1)
    return SymbolicTensor(graph.node("GatherND", graph.tensor(x).name, together.name)[0], like)


@_functions("Tensor torch", "gather")
def _gather(graph: Graph, function: Function, x: Any, dim: int, index: Any) -> SymbolicTensor:
    places, read = graph.tensor(index, torch.int64), graph.tensor(x)
    graph.require(graph.compare("GreaterOrEqual", places, graph.tensor(0, torch.int64)))

    def like(x: Tensor, index: Tensor) -> Tensor:
        return x.new_empty(index.shape)

    return graph.apply("GatherElements", like, read, places, axis=dim % read.dim)


@_functions("Tensor torch", "index_select")
def _index_select(graph: Graph, function: Function, x: Any, dim: int, index: Any) -> SymbolicTensor:
    places = graph.tensor(index, torch.int64)
    graph.require(graph.compare("GreaterOrEqual", places, graph.tensor(0, torch.int64)))
    return graph.gather(graph.tensor(x), dim, places)


def _is_basic(place: Any) -> bool:
    numbers = (place.start, place.stop, place.step) if isinstance(place, slice) else (place,)
    whole = all(each is None or (isinstance(each, int) and not isinstance(each, bool)) for each in numbers)
    return place is None or place is Ellipsis or (whole and (not isinstance(place, slice) or (place.step or 1) > 0))


def _basic(graph: Graph, x: SymbolicTensor, places: list[Any]) -> SymbolicTensor:
    """Numbers, slices and new dimensions."""
    if Ellipsis in [place for place in places if not isinstance(place, slice)]:
        where = next(at for at, place in enumerate(places) if place is Ellipsis)
        named = sum(place is not None for place in places) - 1
        places = [*places[:where], *[slice(None)] * (x.dim - named), *places[where + 1 :]]
    dims = [place for place in places if place is not None]
    cuts = []
    for dim, place in enumerate(dims):
        if place == slice(None):
            continue
        if isinstance(place, int):
            cuts.append((dim, place, None if place == -1 else place + 1, 1))
        else:
            cuts.append((dim, place.start or 0, place.stop, place.step or 1))
    result = _cut(graph, x, cuts)
    first, second = (like[tuple(places)].shape for like in x.like)
    return result if result.like[0].shape == first else graph.reshape(result, (first, second))


def _cut(graph: Graph, x: SymbolicTensor, cuts: Sequence[tuple[int, int, int | None, int]]) -> SymbolicTensor:
    """Slices as Python has them."""
    if not cuts:
        return x
    end = 2**62

    def like(x: Tensor, *_: Tensor) -> Tensor:
        places = [slice(None)] * x.dim()
        for dim, start, stop, step in cuts:
            places[dim] = slice(start, stop, step)
        return x[tuple(places)]

    columns = ([cut[1] for cut in cuts], [end if cut[2] is None else cut[2] for cut in cuts], [cut[0] for cut in cuts],
               [cut[3] for cut in cuts])  # fmt: skip
    return graph.apply("Slice", like, x, *map(graph.constant, columns))


@_functions("Tensor torch", "chunk split split_with_sizes unbind")
def _split(
    graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any
) -> tuple[SymbolicTensor, ...]:
    parts = [function(x.like[size], *args, **kwargs) for size in SIZES]
    dim = kwargs.get("dim", args[-1] if len(args) == 2 or (args and function.name.endswith("unbind")) else 0) % x.dim
    fixed_size(x, dim, f"{function.name}()")
    taken, start = [], 0
    for index, part in enumerate(parts[0]):
        size = 1 if function.name.endswith("unbind") else part.shape[dim]
        cut = _cut(graph, x, [(dim, start, start + size, 1)])
        start += size
        shapes = part.shape, parts[1][index].shape
        taken.append(cut if cut.like[0].shape == part.shape else graph.reshape(cut, shapes))
    return tuple(taken)


@_functions("torch", "cat stack")
def _joined(graph: Graph, function: Function, tensors: Sequence[Any], dim: int = 0) -> SymbolicTensor:
    kind = _result(function, list(tensors), dim).dtype
    parts = [graph.tensor(each, kind) for each in tensors]
    if function.name == "torch.stack":
        dim %= parts[0].dim + 1
        parts = [graph.unsqueeze(part, dim) for part in parts]
    return graph.concat(parts, dim)


def _rearranged(graph: Graph, function: Function, x: Any, *args: Any, **kwargs: Any) -> SymbolicTensor:
    """Any rearrangement that treats each entry of dimension 0 alike, all other dimensions being of one size: by place."""
    name = f"{function.name}()"
    if not isinstance(x, SymbolicTensor) or any(
        isinstance(leaf, (SymbolicTensor, SymbolicSize)) for leaf in leaves((args, kwargs))
    ):
        raise unsupported(name, "at places that the inputs name")
    sizes = [fixed_size(x, dim, name) for dim in range(1, x.dim)]
    count = 1
    for size in sizes:
        count *= size
    # Two samples whose entries are numbered from 1: what is filled in is 0.
    numbered = torch.arange(1, 2 * count + 1, dtype=torch.int64).reshape(2, *sizes)
    placed = function(numbered, *args, **kwargs)
    first = placed[0] if placed.dim() and len(placed) == 2 else None
    if first is None or not torch.equal(placed[1], torch.where(first > 0, first + count, first)):
        raise unsupported(name, "along the first dimension, or with a fill other than zero")
    rows = [[like.shape[0], count] for like in x.like]
    flat = graph.pad(graph.reshape(x, (rows[0], rows[1])), [(1, 0)], 0.0)
    gathered = graph.gather(flat, 1, graph.constant(first.flatten()))
    shapes = [[like.shape[0], *first.shape] for like in x.like]
    return graph.reshape(gathered, (shapes[0], shapes[1]))
