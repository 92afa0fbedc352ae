"""The functions that a program may call, each with what it does to the samples of a batch: a rule, applied to shapes alone.

They are called on the inputs of a network (tokens, lengths, masks); those that rearrange, on signals too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.batching.places import Axis, Mixed, Samples
from casc_core.engine.batching.samples import Abstract, Follower, abstracts, as_single, meta
from casc_core.engine.conditions import expect, expect_parts
from casc_core.engine.functions import sizes
from casc_core.engine.functions.calls import call, count_made, foreseen
from casc_core.engine.functions.reading import ATTRIBUTES, read_attribute, require_floating
from casc_core.engine.functions.table import FUNCTIONS, function, functions
from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.signal import broadcast


def followed(follower: Follower, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What is known before a run of the result of the function of this name.

    Raises:
        UnprovableError: nothing is.
    """
    there = abstracts((args, kwargs))
    if not there:
        result = call(name, follower.room, tuple(args), kwargs)
        follower.made = count_made(follower.made, result, follower.room)
        return result
    if args and there[0] is args[0]:
        given, named = (map_leaves(value, _like) for value in (tuple(args[1:]), kwargs))
        foreseen(name, follower.room, there[0].shape, given, named)
    function = FUNCTIONS[name]
    return function.rule(follower, function, *args, **kwargs)


def _like(value: Any) -> Any:
    return value.like if isinstance(value, Abstract) else value


@functions("Tensor torch operator", "add sub mul ne eq lt le gt ge neg pow", size=sizes.broadcast)
@functions("operator", "truediv floordiv mod and_ or_", size=sizes.broadcast)
@functions(
    "Tensor torch",
    "subtract multiply div divide true_divide remainder addcmul addcdiv lerp logical_and logical_or clamp clip clamp_min "
    "clamp_max maximum minimum fmax fmin where masked_fill",
    size=sizes.broadcast,
)
@functions("torch", "rsub floor_divide", size=sizes.broadcast)
@functions("Tensor", "bitwise_and", size=sizes.broadcast)
@functions("Tensor torch", "abs sqrt negative logical_not sign floor ceil round trunc")
@functions("operator", "invert")
@functions("math", "sqrt")
def _by_entry(follower: Follower, function: Any, *args: Any, **kwargs: Any) -> Abstract:
    result = function(*as_single(args), **as_single(kwargs))
    shape, samples = follower.together(*args, *kwargs.values())
    if not isinstance(result, Tensor) or result.shape != (1,) * len(shape):
        raise follower.unprovable("gives what is no tensor of its arguments' shape")
    return Abstract(meta(shape, result.dtype), samples)


def _itself(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stands for what would only change how gradients are taken."""
    return x


@functions("Tensor", "float double long int bool to type type_as cpu")
@functions("Tensor", "contiguous detach", rearranges=True)
@functions("Tensor torch", "clone", rearranges=True)
@function("Tensor.requires_grad_", _itself)
def _same_entries(follower: Follower, function: Any, x: Any, *args: Any, **kwargs: Any) -> Abstract | Tensor:
    def small(value: Any) -> Any:
        return torch.empty(0, dtype=value.dtype, device="cpu") if isinstance(value, Tensor) else value

    def ours(value: Any) -> Any:
        return "cpu" if isinstance(value, torch.device) else small(value)

    given, named = (map_leaves(as_single(value), ours) for value in (args, kwargs))
    like = x.like if isinstance(x, Abstract) else x
    dtype = function(torch.empty(0, dtype=like.dtype, device="cpu"), *given, **named).dtype
    return replace(x, like=meta(like.shape, dtype)) if isinstance(x, Abstract) else x.to(dtype)


def _dims(x: Any, dim: Any) -> list[int]:
    """The dimensions that an argument names; None: all."""
    count = len(x.shape)
    return list(range(count)) if dim is None else [dim] if isinstance(dim, int) else list(dim)


@functions("Tensor torch", "sum amax amin any all argmax count_nonzero")
@functions("Tensor torch", "max min", size=sizes.broadcast)
def _reduction(follower: Follower, function: Any, x: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    if isinstance(kwargs.get("other", dim), (Abstract, Tensor)):  # the larger of two tensors
        return _by_entry(follower, function, x, *([] if dim is None else [dim]), *args, **kwargs)
    _require(follower, x, dim, args, kwargs)
    dim = None if dim == () else dim
    result = function(as_single(x), *(() if dim is None else (dim,)), *args, **kwargs)
    dims = range(len(x.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    follower.note(args, kwargs)
    keepdim = kwargs.get("keepdim", args[0] if args else False) is True
    shape, samples = follower.reduced(x, dims, keepdim)
    return map_leaves(result, lambda part: Abstract(meta(shape, part.dtype), samples))


@functions("Tensor torch", "cumsum argsort sort")
def _along(follower: Follower, function: Any, x: Any, dim: int = -1, *args: Any, **kwargs: Any) -> Any:
    _require(follower, x, dim, args, kwargs)
    follower.note(dim % len(x.shape), args, kwargs)
    samples, result = follower.apart(x, [dim]), function(as_single(x), dim, *args, **kwargs)
    return map_leaves(result, lambda part: Abstract(meta(x.shape, part.dtype), samples))


def _require(follower: Follower, x: Any, *others: Any) -> None:
    """`x` alone is a tensor; all other arguments are numbers."""
    if not isinstance(x, Abstract) or any(isinstance(leaf, (Abstract, Tensor)) for leaf in leaves(others)):
        raise follower.unprovable("takes sizes or dimensions from a tensor's values")


@functions(
    "Tensor torch",
    "permute transpose t squeeze unsqueeze select narrow chunk split split_with_sizes unbind movedim swapaxes "
    "swapdims diagonal",
    rearranges=True,
)
@functions("Tensor", "expand", size=sizes.expanded, rearranges=True)
@functions("Tensor torch", "broadcast_to", size=sizes.expanded, rearranges=True)
@functions("Tensor", "unfold", size=sizes.windows, rearranges=True)
def _view(follower: Follower, function: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    _require(follower, x, args, kwargs)
    return follower.viewed(x, lambda like: function(like, *args, **kwargs))


@functions("Tensor torch", "reshape flatten unflatten ravel", rearranges=True)
@functions("Tensor", "view", rearranges=True)
def _reshape(follower: Follower, function: Any, x: Abstract, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, args, kwargs)
    result = function(x.like, *args, **kwargs)
    if result.dtype != x.like.dtype:
        raise follower.unprovable("reads the bits of a tensor as those of another type")
    return replace(x, like=result, samples=follower.reshaped(x, result.shape))


@functions("Tensor torch", "tile", size=sizes.repeated, rearranges=True)
@functions("Tensor", "repeat", size=sizes.repeated, rearranges=True)
def _repeat(follower: Follower, function: Any, x: Abstract, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, args, kwargs)
    times = function(as_single(x), *args, **kwargs).shape
    ahead, samples = len(times) - len(x.shape), x.samples
    if isinstance(samples, Axis):  # whole runs through the samples, one behind the other
        samples = Axis(samples.dim + ahead, samples.inner)
    sizes = [by * size for by, size in zip(times, [*[1] * ahead, *x.shape], strict=True)]
    return replace(x, like=meta(sizes, x.like.dtype), samples=samples)


@functions("Tensor torch", "flip roll", rearranges=True)
def _turn(follower: Follower, function: Any, x: Abstract, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, args, kwargs)
    function(as_single(x), *args, **kwargs)
    follower.note(args, kwargs)
    rolls = function.name.endswith(".roll")
    given = args[1:] if rolls and "shifts" not in kwargs else args
    dims = kwargs.get("dims", given[0] if len(given) == 1 else given)
    named = [dims] if isinstance(dims, int) else list(dims) or range(len(x.shape))
    return replace(x, samples=follower.apart(x, named, "moves entries from one sample to another"))


@functions("Tensor torch", "tril triu", rearranges=True)
def _triangle(follower: Follower, function: Any, x: Abstract, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, args, kwargs)
    function(as_single(x), *args, **kwargs)
    follower.note(args, kwargs)
    return replace(x, samples=follower.apart(x, [-2, -1], "keeps other entries of each sample"))


@functions("Tensor torch", "gather", size=sizes.gathered, rearranges=True)
def _gather(follower: Follower, function: Any, x: Abstract, dim: int, index: Any) -> Abstract:
    if not isinstance(x, Abstract):
        raise follower.unprovable("reads a constant at places that the inputs name")
    if len(index.shape) != len(x.shape):
        raise follower.unprovable("has an index of other dimensions")
    dim %= len(x.shape)
    follower.note(dim)
    taken = follower.apart(x, [dim], "takes entries from samples that its index names")
    if isinstance(taken, Axis) and index.shape[taken.dim] != x.shape[taken.dim]:
        taken = follower.mixed("takes some of the samples")
    # Along the other dimensions, an entry is taken from where its index stands.
    sizes = [1 if each == dim else size for each, size in enumerate(index.shape)]
    _, samples = follower.together(Abstract(meta(sizes), taken), index)
    return replace(x, like=meta(index.shape, x.like.dtype), samples=samples)


@functions("Tensor torch", "index_select", size=sizes.selected, rearranges=True)
def _index_select(follower: Follower, function: Any, x: Any, dim: int, index: Any) -> Abstract:
    if not isinstance(x, Abstract):
        raise follower.unprovable("reads a constant at places that the inputs name")
    places: list[Any] = [slice(None)] * len(x.shape)
    places[dim] = index
    return _indexed(follower, x, tuple(places))


@functions("operator", "getitem", size=sizes.indexed, rearranges=True)
def _getitem(follower: Follower, function: Any, x: Any, index: Any) -> Any:
    if not isinstance(x, (Abstract, Tensor)):
        if abstracts(index):
            raise follower.unprovable("takes a place from a tensor's values")
        return x[index]
    if isinstance(x, Tensor):
        raise follower.unprovable("reads a constant at places that the inputs name")
    places = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(place, (Abstract, Tensor, list)) for place in places):
        _require(follower, x, places)
        return follower.viewed(x, lambda like: like[index])
    return _indexed(
        follower, x, tuple(torch.tensor(place, device="cpu") if isinstance(place, list) else place for place in places)
    )


def _indexed(follower: Follower, x: Abstract, places: tuple[Any, ...]) -> Abstract:
    """Some of its places are named by tensors, which broadcast to one shape: the dimensions of the result that the
    first of them, or if others stand between them the whole result, begins with."""
    if any(place is None or isinstance(place, bool) for place in places):
        raise follower.unprovable("adds dimensions and reads places that a tensor names at once")
    if Ellipsis in [place for place in places if not isinstance(place, (Abstract, Tensor))]:
        at = next(at for at, place in enumerate(places) if place is Ellipsis)
        missing = len(x.shape) - len(places) + 1
        places = (*places[:at], *[slice(None)] * missing, *places[at + 1 :])
    places = (*places, *[slice(None)] * (len(x.shape) - len(places)))
    places = tuple(torch.tensor(place, device="cpu") if isinstance(place, int) else place for place in places)
    # What a slice takes is a view; then only tensors and whole dimensions are left.
    sliced = tuple(slice(None) if isinstance(place, (Abstract, Tensor)) else place for place in places)
    _require(follower, x, sliced)
    viewed: Abstract = follower.viewed(x, lambda like: like[sliced])
    tensors = {dim: place for dim, place in enumerate(places) if isinstance(place, (Abstract, Tensor))}
    if any(place.dtype == torch.bool for place in as_single(list(tensors.values()))):
        raise follower.unprovable("reads places that a mask names")
    dims, shape = sorted(tensors), broadcast(*(place.shape for place in tensors.values()))
    follower.note(dims)
    first = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    others = [size for dim, size in enumerate(viewed.shape) if dim not in tensors]
    like = meta([*others[:first], *shape, *others[first:]], x.like.dtype)
    return replace(viewed, like=like, samples=_named_places(follower, viewed, tensors))


def _named_places(follower: Follower, x: Abstract, tensors: dict[int, Any]) -> Samples:
    axis, named, dims = x.samples, dict(tensors), sorted(tensors)
    if isinstance(axis, Mixed):
        return axis
    shape = broadcast(*(place.shape for place in tensors.values()))
    neighbours = dims[-1] - dims[0] == len(dims) - 1
    first = dims[0] if neighbours else 0
    if axis is not None and axis.dim in tensors:
        # Each sample's own entries, if they are named in order: 0, 1, 2, ...
        own = named.pop(axis.dim)
        along = _counts(own, x.shape[axis.dim], shape) if isinstance(own, Tensor) else None
        if along is None:
            return follower.mixed("takes entries from samples that its index names")
        sizes = [x.shape[axis.dim] if dim == along else 1 for dim in range(len(shape))]
        _, samples = follower.together(Abstract(meta(sizes), Axis(along, axis.inner)), *named.values())
        return Axis(samples.dim + first, samples.inner) if isinstance(samples, Axis) else samples
    _, samples = follower.together(*named.values())
    if isinstance(samples, Axis):
        if axis is not None:
            return follower.mixed("reads, for each sample, entries of others")
        return Axis(samples.dim + first, samples.inner)
    if samples is not None or axis is None:
        return samples
    before = sum(dim < axis.dim for dim in dims)
    behind = 0 if neighbours and axis.dim < first else len(shape)
    return Axis(axis.dim - before + behind, axis.inner)


def _counts(index: Tensor, size: int, shape: torch.Size) -> int | None:
    """The dimension of `shape` along which an index that broadcasts to it counts 0, 1, ... up to a size; None: none."""
    dims = [dim for dim, each in enumerate(index.shape) if each == size and index.numel() == size]
    if not dims or not torch.equal(index.flatten().cpu(), torch.arange(size, device="cpu")):
        return None
    return dims[0] + len(shape) - index.dim()


@functions("torch", "cat stack", size=sizes.joined)
def _join(follower: Follower, function: Any, tensors: Any, dim: int = 0) -> Abstract:
    shape, samples = follow_join(follower, tensors, dim, function.name == "torch.stack")
    return Abstract(meta(shape, function(as_single(tensors), dim).dtype), samples)


def follow_join(follower: Follower, tensors: Sequence[Any], dim: int, stack: bool) -> tuple[list[int], Samples]:
    """Shape and samples of tensors put one behind another along a dimension of the result, which `stack` adds."""
    shape = list(tensors[0].shape)
    dim %= len(shape) + stack
    shape[dim : dim + (not stack)] = [len(tensors) if stack else sum(each.shape[dim] for each in tensors)]
    return shape, _samples_of_join(follower, tensors, dim, stack)


def _samples_of_join(follower: Follower, tensors: Sequence[Any], dim: int, stack: bool) -> Samples:
    follower.note(dim)
    there, known = abstracts(tensors), [each for each in tensors if isinstance(each, Tensor)]
    axes = [each.samples for each in there]
    if not stack and any(isinstance(axis, Axis) and axis.dim == dim for axis in axes):
        if not known and all(axis == axes[0] for axis in axes):
            return axes[0]  # one whole run through the samples behind another
        return follower.mixed("puts what is no sample's own among the samples")
    # Along the dimension that grows each has entries of its own; along the others they lie side by side.
    beside = there if stack else [_resized(each, dim, 1) for each in there]
    _, samples = follower.together(*beside)
    for each in known:
        row = follower.row_of(each, samples, each.dim()) if isinstance(samples, Axis) else each
        if row is None:
            return follower.mixed("meets numbers that are not the same for all samples")
        follower.note(row)
    return Axis(samples.dim + (stack and samples.dim >= dim), samples.inner) if isinstance(samples, Axis) else samples


def _resized(x: Abstract, dim: int, size: int) -> Abstract:
    return replace(x, like=meta([*x.shape[:dim], size, *x.shape[dim + 1 :]], x.like.dtype))


@functions("F", "pad", size=sizes.padded, rearranges=True)
def _pad(follower: Follower, function: Any, x: Abstract, pad: Any, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, pad, args, kwargs)
    follower.note(list(pad), args, kwargs)
    sizes, padded = list(x.shape), set()
    for at, size in enumerate(pad):
        sizes[len(sizes) - 1 - at // 2] += size
        padded |= {len(sizes) - 1 - at // 2} if size else set()
    return replace(x, like=meta(sizes, x.like.dtype), samples=follower.apart(x, padded, "pads along the samples"))


@functions("F", "pixel_shuffle pixel_unshuffle channel_shuffle", rearranges=True)
@functions("F", "interpolate", size=sizes.resized, rearranges=True)
@functions("F", "unfold", size=sizes.columns, rearranges=True)
def _image(follower: Follower, function: Any, x: Abstract, *args: Any, **kwargs: Any) -> Abstract:
    _require(follower, x, args, kwargs)
    if function.name == "F.unfold" and len(x.shape) != 4:
        raise follower.unprovable("takes an image alone, of no batch")
    follower.note(args, kwargs)
    samples = follower.apart(x, range(1, len(x.shape)), "moves entries from one sample to another")
    one = function(torch.empty([1, *x.shape[1:]], device="cpu"), *args, **kwargs)
    return replace(x, like=meta([x.shape[0], *one.shape[1:]], x.like.dtype), samples=samples)


@function("getattr", read_attribute)
def _attribute(follower: Follower, function: Any, x: Any, name: str) -> Any:
    if not isinstance(x, Abstract):  # the values and the indices of a maximum
        return getattr(x, name)
    if name == "device":
        return follower.device
    if name in ("T", "mT"):
        return follower.viewed(x, lambda like: getattr(like, name))
    if name not in ATTRIBUTES:
        raise follower.unprovable(f"reads {name!r} of a tensor")
    return getattr(x.like, name)


@functions("Tensor", "size dim numel")
def _size(follower: Follower, function: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    _require(follower, x, args, kwargs)
    return function(x.like, *args, **kwargs)


@function("require_floating", require_floating)
def _require_floating(follower: Follower, function: Any, target: Any) -> None:
    function(as_single(target))


@functions("torch", "zeros_like ones_like full_like")
def _filled_like(follower: Follower, function: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    _require(follower, x, args, kwargs)
    given = kwargs if kwargs.get("device") is not None else {**kwargs, "device": follower.device}
    one: Tensor = function(torch.empty([1] * len(x.shape), dtype=x.like.dtype, device="cpu"), *args, **given)
    return one.expand(x.shape)


@functions("Tensor", "new_zeros new_ones", size=sizes.factory)
@functions("Tensor", "new_full", size=sizes.new_full)
def _filled(follower: Follower, function: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    _require(follower, x, args, kwargs)
    return function(torch.empty(0, dtype=x.like.dtype, device=follower.device), *args, **kwargs)


@function("expect_parts", expect_parts)
def _expect_parts(follower: Follower, function: Any, parts: Sequence[Any], count: int, line: str) -> Any:
    return function(parts, count, line)


@function("F.one_hot", F.one_hot, size=sizes.classes)
def _one_hot(follower: Follower, function: Any, x: Abstract, num_classes: int = -1) -> Abstract:
    _require(follower, x, num_classes)
    if num_classes < 0:
        raise follower.unprovable("makes as many classes as the largest of a batch")
    follower.note(num_classes)
    return replace(x, like=meta([*x.shape, num_classes], torch.int64))


@functions("torch", "linspace", size=sizes.linspace)
@functions("torch", "meshgrid", size=sizes.grid)
@functions("torch", "broadcast_shapes")
@functions("torch", "zeros ones", size=sizes.factory)
@functions("torch", "full", size=sizes.full)
@functions("torch", "eye", size=sizes.square)
@functions("torch", "arange", size=sizes.arange)
@functions("torch", "tensor")
@functions("Tensor", "item")
@functions("operator", "not_")
@functions("math", "ceil floor")
@function("math.max", max)
@function("math.min", min)
@function("expect", expect)
def _by_value(follower: Follower, function: Any, *args: Any, **kwargs: Any) -> Any:
    raise follower.unprovable("reads a number from a tensor's values")
