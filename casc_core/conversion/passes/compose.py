"""For the network as trained: maps in a row become one where that is cheaper.

A map that reads spikes is a sparse sum; one that reads what another map or a factor gives is a dense product of totals,
rounded once more. Where two are composed, or the factor of one is taken to another place, spikes reach it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from casc_core.conversion.graph import (
    Addition,
    Applied,
    AttributeOf,
    Concatenation,
    ConvolutionMap,
    Factor,
    FunctionCall,
    LevelPopulation,
    LinearMap,
    MapNode,
    Maximum,
    Node,
    Normalisation,
    Population,
    Product,
    SignalNode,
    as_map,
    as_normalisation,
)
from casc_core.conversion.graph.signals import must_be_rescaled
from casc_core.engine.ops import AdaptiveAveragePool, AveragePool, Layout, MaxPool, Sum
from casc_core.engine.products.contraction import ELEMENTWISE
from casc_core.numerics import THRESHOLD_BITS

# Maps whose composition has more weights than this, and than themselves, stay apart.
LARGEST_MAP = 2**22
# Channels whose factors differ by more than this are not compared with thresholds that differ as much.
LARGEST_RATIO = 2.0**10
# Nor are channels divided by thresholds where that makes their weights differ by more than this.
LARGEST_SPREAD = 2.0**14


def composed(node: Node) -> Node:
    """What takes the place of a folded node whose inputs have been composed."""
    if isinstance(node, (LinearMap, ConvolutionMap)):
        return _map(node)
    if isinstance(node, Applied):
        return _applied(node)
    if isinstance(node, Concatenation):
        return _concatenation(node)
    if isinstance(node, Maximum):
        return _maximum(node)
    return _compared(_undivided(node)) if isinstance(node, Population) else node


def flattened(node: Node) -> Node:
    """A linear map of flattened channels with the factors of the channels in it, on any grid; other nodes as they are.

    A factor that stays before it would bring the bits of both into every sum.
    """
    if not isinstance(node, LinearMap) or not isinstance(node.x, Applied) or not _flattens(node.x):
        return node
    return _behind_flattening(replace(node, x=replace(node.x, args=(_factors_last(node.x.args[0]), *node.x.args[1:]))))


def _factors_last(x: SignalNode) -> SignalNode:
    """Maxima, means and moves of channels before the factors of the channels."""
    if isinstance(x, Maximum):
        return _maximum(replace(x, x=_factors_last(x.x)))
    if isinstance(x, Applied) and (_pools(x) or _moves_within_channels(x)):
        return _before_factors(replace(x, args=(_factors_last(x.args[0]), *x.args[1:])))
    return x


def _map(node: LinearMap | ConvolutionMap) -> SignalNode:
    if isinstance(node.x, Addition) and _is_better_apart(node, node.x) and _are_alike(node, node.x):
        a, b = (replace(node, x=node.x.a), replace(node, x=node.x.b, bias=None))
        return Addition(_map(a), _map(b), place=node.place)
    before = as_map(node.x)
    if before is None or not before.x.has_spikes:
        return _behind_flattening(node) if isinstance(node, LinearMap) else node
    return _together(before, node) or node


def _together(first: MapNode, then: LinearMap | ConvolutionMap) -> MapNode | None:
    """Both as one map, if there is one and it is not too large."""
    one = _linear(first, then) if isinstance(then, LinearMap) else _convolution(first, then)
    apart = first.weight.numel() + then.weight.numel()
    return None if one is None or one.weight.numel() > max(LARGEST_MAP, apart) else one


def _is_better_apart(node: LinearMap | ConvolutionMap, x: SignalNode) -> bool:
    """Whether a map of the sum of signals is better taken of each: it takes in a map or factors before one of them."""
    if isinstance(x, Addition):
        return _is_of_several_scales(x) or any(_is_better_apart(node, each) for each in (x.a, x.b))
    before = as_map(x)
    if before is None:
        return isinstance(node, LinearMap) and _behind_flattening(replace(node, x=x)).x is not x
    return before.x.has_spikes and _together(before, node) is not None


def _is_of_several_scales(x: Addition) -> bool:
    """Whether factors of many bits bring what it adds together."""
    return must_be_rescaled((x.a, x.b)) or any(_channel_factors(each) is not None for each in (x.a, x.b))


def _are_alike(node: MapNode, x: Addition) -> bool:
    """Whether the two that a map reads the sum of are known to be of one shape, where that matters."""
    a, b = x.a, x.b
    if _has_shape_of(a, b):
        return True
    axis = 1 if isinstance(node, ConvolutionMap) else -1
    widths = [_width(each, axis) for each in (a, b)]
    if None in widths or len(set(widths)) > 1:
        return False
    return not isinstance(node, ConvolutionMap) or _is_pointwise(node) or _sized_as(a) is _sized_as(b)


def _has_shape_of(a: Node, b: Node) -> bool:
    """Whether two signals are known to be of one shape: both were made of one by what leaves its shape, or by the same."""
    while True:
        a, b = _entry_by_entry(a), _entry_by_entry(b)
        if a is b:
            return True
        if not (isinstance(a, Applied) and isinstance(b, Applied)) or a.op is not b.op or a.args[1:] != b.args[1:]:
            return False
        if a.kwargs != b.kwargs:
            return False
        a, b = a.args[0], b.args[0]


def _entry_by_entry(x: Node) -> Node:
    """What `x` was made of, entry by entry."""
    while isinstance(x, (Factor, Population, LevelPopulation)) or (isinstance(x, Normalisation) and x.axis is not None):
        x = x.x
    return x


def _sized_as(x: Node) -> Node:
    """A node whose height and width `x` has."""
    while isinstance(x, (Factor, Normalisation, Population, LevelPopulation)) or (
        isinstance(x, ConvolutionMap) and _keeps_size(x)
    ):
        x = x.x
    return x


def _keeps_size(node: ConvolutionMap) -> bool:
    given, kernel = node.geometry, node.weight.shape[2:]
    if any(step != 1 for step in (*given["stride"], *given.get("spread", ()))):
        return False
    around = [before + after for before, after in zip(given["padding"][::2], given["padding"][1::2], strict=True)]
    return around == [by * (size - 1) for size, by in zip(kernel, given["dilation"], strict=True)]


def _linear(first: MapNode, then: LinearMap) -> LinearMap | None:
    if not isinstance(first, LinearMap) or len(first.weight) != then.weight.shape[1]:
        return None
    return replace(then, x=first.x, weight=then.weight @ first.weight, bias=_bias(first, then, then.weight))


def _convolution(first: MapNode, then: ConvolutionMap) -> ConvolutionMap | None:
    """Where one of the two is pointwise; the second must not pad what the first adds to."""
    if not isinstance(first, ConvolutionMap) or first.dims != then.dims:
        return None
    if len(first.weight) != then.weight.shape[1] * then.groups:
        return None
    pads = first.bias is not None and any(then.geometry["padding"])
    if not (_is_pointwise(then) or (_is_pointwise(first) and not pads)):
        return None
    inner, outer = _dense(first), _dense(then)
    weight = torch.einsum("om...,mc...->oc...", outer, inner)
    geometry = first.geometry if _is_pointwise(then) else then.geometry
    bias = _bias(first, then, outer.flatten(2).sum(2))
    return replace(then, x=first.x, weight=weight, bias=bias, groups=1, geometry=geometry)


def _bias(first: MapNode, then: MapNode, weight: Tensor) -> Tensor | None:
    if first.bias is None:
        return then.bias
    return weight @ first.bias + (0.0 if then.bias is None else then.bias)


def _is_pointwise(node: ConvolutionMap) -> bool:
    given = node.geometry
    steps = (*node.weight.shape[2:], *given["stride"], *given.get("spread", ()))
    return all(each == 1 for each in steps) and not any(given["padding"])


def _dense(node: ConvolutionMap) -> Tensor:
    """Its weights as those of one group."""
    outputs, inputs = node.weight.shape[:2]
    each = outputs // node.groups
    dense = node.weight.new_zeros((outputs, inputs * node.groups, *node.weight.shape[2:]))
    for group in range(node.groups):
        rows, columns = (slice(group * size, (group + 1) * size) for size in (each, inputs))
        dense[rows, columns] = node.weight[rows]
    return dense


def _channel_factors(x: Node) -> Normalisation | None:
    """Factors of each channel, and nothing else, that `x` ends in."""
    before = as_normalisation(x)
    if before is None or before.axis != 1 or bool(before.shift.any()):
        return None
    return before


def _behind_flattening(node: LinearMap) -> LinearMap:
    """Factors of channels before they are flattened become those of its columns."""
    flat = node.x
    if not isinstance(flat, Applied) or not _flattens(flat):
        return node
    before = _channel_factors(flat.args[0])
    if before is None or node.weight.shape[1] % len(before.factor):
        return node
    columns = before.factor.repeat_interleave(node.weight.shape[1] // len(before.factor))
    x = replace(flat, args=(before.x, *flat.args[1:]))
    return replace(node, x=x, weight=node.weight * columns)


def _flattens(node: Applied) -> bool:
    """Whether it flattens all but the first dimension."""
    if not isinstance(node.op, Layout):
        return False
    function, sizes = node.op.settings["function"], node.args[1:]
    if function in ("torch.flatten", "Tensor.flatten"):
        given = (*sizes, *(node.kwargs.get(name) for name in ("start_dim", "end_dim")[len(sizes) :]))
        return given[0] == 1 and given[1] in (None, -1)
    if function != "Tensor.reshape" or len(sizes) != 2 or sizes[1] != -1:
        return False
    batch = sizes[0]
    if not isinstance(batch, FunctionCall) or batch.function != "operator.getitem" or batch.args[1] != 0:
        return False
    return isinstance(batch.args[0], AttributeOf) and batch.args[0].name == "shape"


def _applied(node: Applied) -> SignalNode:
    """Sums and moves of a sum of several scales, as the sum of theirs, so that a map ahead can take the scales in."""
    x = node.args[0] if isinstance(node.op, (AveragePool, AdaptiveAveragePool, Sum, Layout)) else None
    if not isinstance(x, Addition) or not _is_of_several_scales(x) or not _has_shape_of(x.a, x.b):
        return _before_factors(node)
    a, b = (_applied(replace(node, args=(each, *node.args[1:]))) for each in (x.a, x.b))
    return Addition(a, b, place=node.place)


def _before_factors(node: Applied) -> SignalNode:
    """An average, or what moves entries within channels, before the factors of its channels."""
    before = _channel_factors(node.args[0]) if _pools(node) or _moves_within_channels(node) else None
    if before is None:
        return node
    return replace(before, x=replace(node, args=(before.x, *node.args[1:])), rank=None, place=node.place)


def _maximum(node: Maximum) -> SignalNode:
    """A maximum over the dimensions behind that of the channels before their factors, all of them positive."""
    before = _channel_factors(node.x)
    if before is None or node.dims is None or _rank(before.x) != node.dims + 2 or bool((before.factor <= 0).any()):
        return node
    return replace(before, x=replace(node, x=before.x), rank=None, place=node.place)


def _pools(node: Applied) -> bool:
    """Whether it averages over dimensions behind that of the channels."""
    if isinstance(node.op, (AveragePool, AdaptiveAveragePool)):
        return True
    dims = node.kwargs.get("dim") if isinstance(node.op, Sum) else None
    dims = dims if isinstance(dims, (tuple, list)) else [dims]
    if not all(isinstance(dim, int) for dim in dims):
        return False
    rank = 0 if min(dims) >= 0 else _rank(node.inputs[0]) or 0
    return all((dim if dim >= 0 else dim + rank) >= 2 for dim in dims)


def _moves_within_channels(node: Applied) -> bool:
    """Whether it moves, takes or repeats entries along dimensions behind that of the channels alone."""
    if not isinstance(node.op, Layout):
        return False
    function, given = node.op.settings["function"], node.args[1:]
    if function == "operator.getitem":
        return isinstance(given[0], tuple) and given[0][:2] == (slice(None), slice(None)) and _takes_slices(given[0])
    if function == "F.pad":
        return len(given[0]) <= 2 * ((_rank(node.args[0]) or 0) - 2)
    return bool(function == "F.interpolate")


def _takes_slices(index: tuple[Any, ...]) -> bool:
    return all(isinstance(each, slice) for each in index)


def _is_by_entry(x: Node) -> TypeGuard[Addition | Product]:
    """Whether two signals meet in it entry by entry."""
    return isinstance(x, Addition) or (isinstance(x, Product) and x.equation == ELEMENTWISE)


def _rank(x: Node) -> int | None:
    """How many dimensions a signal has, if a convolution says so."""
    while not isinstance(x, MapNode):
        if _is_by_entry(x):
            ranks = [_rank(each) for each in (x.a, x.b)]
            return None if None in ranks else max(rank or 0 for rank in ranks)
        if isinstance(x, Concatenation) and not x.stack:
            x = x.signals[0]
            continue
        if not (
            isinstance(x, (Factor, Population, LevelPopulation, Normalisation)) or _keeps_channels(x) or _keeps_rank(x)
        ):
            return None
        x = x.inputs[0]
    return x.rank


def _keeps_rank(x: Node) -> bool:
    """Whether it pads, or takes every so-manieth entry."""
    if not isinstance(x, Applied) or not isinstance(x.op, Layout):
        return False
    if x.op.settings["function"] == "F.pad":
        return True
    index = x.args[1] if x.op.settings["function"] == "operator.getitem" else None
    return isinstance(index, tuple) and _takes_slices(index)


def _concatenation(node: Concatenation) -> SignalNode:
    """Signals whose spikes are worth different amounts, as they are, and behind them a factor for each channel."""
    apart = [_channel_factors(signal) if node.dim == 1 else None for signal in node.signals]
    if node.stack or not (any(apart) or must_be_rescaled(node.signals)):
        return node
    axis = _axis(node)
    widths = [_width(signal, axis) for signal in node.signals]
    if axis is None or None in widths:
        return node
    plain: list[SignalNode] = []
    factors: list[Tensor] = []
    for signal, before, width in zip(node.signals, apart, widths, strict=True):
        scale = signal.worth
        plain.append(Factor(signal, 1 / scale, place=node.place) if before is None else before.x)
        factor = torch.tensor(float(scale), dtype=torch.float64) if before is None else before.factor
        factors.append(factor.expand(width or 0))
    factor = torch.cat(factors)
    nothing = torch.zeros_like(factor)
    x = replace(node, signals=tuple(plain))
    return Normalisation(x, factor, nothing, nothing, 1 if axis == 1 else None, place=node.place)


def _axis(node: Concatenation) -> int | None:
    """1 for channels of convolutions, -1 for features; None: it is not known which dimension it is along."""
    return node.dim if isinstance(node.dim, int) and node.dim in (1, -1) else None


def _width(x: Node, axis: int | None) -> int | None:
    """How many channels (axis 1) or features (axis -1) it has; None: that is not known."""
    while isinstance(x, (Factor, Population, LevelPopulation)) or (axis == 1 and _keeps_channels(x)):
        x = x.inputs[0]
    if isinstance(x, Concatenation) and not x.stack and x.dim == axis:
        widths = [_width(signal, axis) for signal in x.signals]
        return None if None in widths else sum(width or 0 for width in widths)
    origin = _origin(x, axis)
    return None if origin is None else len(origin.weight)


def _origin(x: Node, axis: int | None) -> MapNode | None:
    """A map of as many outputs, of as many dimensions, as `x` has channels (axis 1) or features (axis -1)."""
    while not isinstance(x, MapNode):
        if _is_by_entry(x):
            one, other = (_origin(each, axis) for each in (x.a, x.b))
            if one is None or other is None or len(one.weight) != len(other.weight) or one.rank != other.rank:
                return None
            return one
        if not isinstance(x, (Factor, Population, LevelPopulation)) and not (axis == 1 and _keeps_channels(x)):
            return None
        x = x.inputs[0]
    return x if isinstance(x, ConvolutionMap if axis == 1 else LinearMap) else None


def _keeps_channels(x: Node) -> bool:
    if isinstance(x, Normalisation):
        return x.axis == 1
    if isinstance(x, Maximum):
        return isinstance(x.op, MaxPool)
    return isinstance(x, Applied) and (_pools(x) or _moves_within_channels(x))


def _undivided(node: Population) -> Population:
    """Channels of very unlike thresholds meet them as they are: over its own, one of a tiny threshold would have weights so
    large that the grid were too coarse for the others. So do those of a map that does not take the thresholds in."""
    divided, whole = (None if each is None else as_map(each) for each in (node.divided, node.x))
    if divided is None and whole is not None:
        return replace(node, divided=None)
    if divided is None or whole is None or _spread(divided.weight) <= max(LARGEST_SPREAD, _spread(whole.weight)):
        return node
    return replace(node, divided=None)


def _spread(weight: Tensor) -> float:
    """How many times as large as its smallest row of weights, but for zeros, its largest is."""
    rows = weight.abs().flatten(1).sum(1)
    rows = rows[rows > 0]
    return float(rows.max() / rows.min()) if len(rows) else 1.0


def _compared(node: Population) -> Population:
    """What normalises the channels of sums goes into the thresholds, which then differ. Factors of few bits do not: sums
    times them are exact, and a third of a threshold is rounded, so that what lies on it might not reach it."""
    before = as_normalisation(node.x)
    if before is None or before.axis != 1 or not before.x.is_mapped:
        return node
    size = before.factor.abs()
    size = torch.where(size == 0, size.max(), size)
    if not bool((size > 0).all()) or float(size.max() / size.min()) > LARGEST_RATIO:
        return node
    if bool((size * 2.0**THRESHOLD_BITS % 1 == 0).all()) and bool((size.frexp().mantissa != 0.5).any()):
        return node
    nothing = torch.zeros_like(size)
    x: SignalNode = replace(before, factor=before.factor.sign(), centre=nothing, offset=before.shift / size)
    if bool((before.factor > 0).all()) and not bool(before.shift.any()):
        x = before.x
    return replace(node, x=x, divided=None, compared=torch.as_tensor(node.threshold, dtype=torch.float64) / size)
