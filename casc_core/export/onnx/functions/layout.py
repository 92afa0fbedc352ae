"""Layout: other shapes and orders, entries that are taken, parts and joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.functions import Function
from casc_core.engine.leaves import leaves
from casc_core.export.onnx.functions.table import functions, result_of
from casc_core.export.onnx.graph import SIZES, Graph, SymbolicSize, SymbolicTensor, at, fixed_size, likes
from casc_core.export.onnx.signals import unsupported


@functions("Tensor torch", "reshape flatten unflatten ravel view squeeze unsqueeze")
def _reshape(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    first, second = (function(x.like[size], *at(list(args), size), **at(kwargs, size)).shape for size in SIZES)
    return graph.reshape(x, (first, second))


@functions("Tensor torch", "permute transpose t movedim swapaxes swapdims")
def _transpose(graph: Graph, function: Function, x: SymbolicTensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    # Dimensions are told apart by their sizes.
    told = torch.empty(list(range(2, 2 + x.dim)), device="meta")
    return graph.transpose(x, [size - 2 for size in function(told, *args, **kwargs).shape])


@functions("Tensor", "expand")
@functions("Tensor torch", "broadcast_to")
def _expand(graph: Graph, function: Function, x: SymbolicTensor | Tensor, *args: Any, **kwargs: Any) -> SymbolicTensor:
    x = graph.tensor(x)
    like = likes(lambda x, args, kwargs: function(x, *args, **kwargs), x, list(args), kwargs)
    sizes = list(args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args) or list(kwargs["size"])
    ahead = len(sizes) - x.dim
    sizes = [graph.size(x, dim - ahead) if size == -1 else size for dim, size in enumerate(sizes)]
    return SymbolicTensor(graph.node("Expand", x.name, graph.shape(sizes).name)[0], like)


@functions("Tensor torch", "select narrow")
def _taken(graph: Graph, function: Function, x: SymbolicTensor, dim: int, *where: Any) -> SymbolicTensor:
    places: list[Any] = [slice(None)] * x.dim
    places[dim] = where[0] if function.name.endswith("select") else slice(where[0], where[0] + where[1])
    return _basic(graph, x, places)


@functions("operator", "getitem")
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
    return rearranged(graph, function, x, index)


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


@functions("Tensor torch", "gather")
def _gather(graph: Graph, function: Function, x: Any, dim: int, index: Any) -> SymbolicTensor:
    places, read = graph.tensor(index, torch.int64), graph.tensor(x)
    graph.require(graph.compare("GreaterOrEqual", places, graph.tensor(0, torch.int64)))

    def like(x: Tensor, index: Tensor) -> Tensor:
        return x.new_empty(index.shape)

    return graph.apply("GatherElements", like, read, places, axis=dim % read.dim)


@functions("Tensor torch", "index_select")
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


@functions("Tensor torch", "chunk split split_with_sizes unbind")
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


@functions("torch", "cat stack")
def _joined(graph: Graph, function: Function, tensors: Sequence[Any], dim: int = 0) -> SymbolicTensor:
    kind = result_of(function, list(tensors), dim).dtype
    parts = [graph.tensor(each, kind) for each in tensors]
    if function.name == "torch.stack":
        dim %= parts[0].dim + 1
        parts = [graph.unsqueeze(part, dim) for part in parts]
    return graph.concat(parts, dim)


def rearranged(graph: Graph, function: Function, x: Any, *args: Any, **kwargs: Any) -> SymbolicTensor:
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
