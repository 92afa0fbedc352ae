"""How many elements a function would make of its arguments, before it is called."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def leaves_of(value: Any) -> list[Any]:
    """What stands in tuples and lists, one inside the other."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves_of(item)]
    return [value]


def elements(leaves: list[Any]) -> int:
    """How many elements the tensors among these have together."""
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))


def joined(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return elements(leaves_of(_given(args, kwargs, 0, "tensors")))


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, *names: str) -> Any:
    """An argument by its place, or by one of its names; None if it is not there."""
    if place < len(args):
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _whole(values: Any) -> list[int]:
    """Sizes that are given one by one, or in a tuple."""
    return [int(value) for value in leaves_of(values) if value is not None]


def _together(shapes: Sequence[Sequence[int]]) -> int:
    """Elements of the shape to which these broadcast, if they do; torch's own function takes a second at its first call."""
    return math.prod(max(sizes) for sizes in itertools.zip_longest(*map(reversed, shapes), fillvalue=1))


def broadcast(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    shapes = [leaf.shape for leaf in leaves_of((args, tuple(kwargs.values()))) if isinstance(leaf, Tensor)]
    return _together(shapes)


def factory(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    sizes = args[1:] if args and isinstance(args[0], Tensor) else args
    return math.prod(_whole(sizes if sizes else kwargs.get("size")))


def full(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return math.prod(_whole(_given(args, kwargs, 0, "size")))


def new_full(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return math.prod(_whole(_given(args, kwargs, 1, "size")))


def square(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    rows, columns = _given(args, kwargs, 0, "n"), _given(args, kwargs, 1, "m")
    return int(rows) * int(rows if columns is None else columns)


def arange(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    bounds = [float(value) for value in args]
    bounds += [float(kwargs[name]) for name in ("start", "end", "step") if kwargs.get(name) is not None]
    ends = [0.0, *bounds] if len(bounds) == 1 else bounds
    start, end, step = [*ends, 1.0][:3]
    return math.ceil(abs(end - start) / abs(step))


def linspace(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return int(_given(args, kwargs, 2, "steps"))


def grid(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """As many tensors as there are axes, each of all places."""
    axes = [axis.numel() for axis in leaves_of(args) if isinstance(axis, Tensor)]
    return len(axes) * math.prod(axes)


def classes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    x, count = args[0], _given(args, kwargs, 1, "num_classes")
    count = count if count is not None and count >= 0 else int(x.max()) + 1 if x.numel() else 0
    return int(x.numel() * count)


def windows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """`Tensor.unfold`: windows along one dimension."""
    x, dim, size, step = (
        args[0],
        *(_given(args, kwargs, at + 1, n) for at, n in enumerate(("dimension", "size", "step"))),
    )
    long = int(x.shape[dim])
    return int(x.numel() // max(1, long) * max(0, (long - size) // step + 1) * size)


def columns(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """`F.unfold`: the windows of an image, one behind the other."""
    shape: torch.Size = args[0].shape
    names = ("kernel_size", "dilation", "padding", "stride")
    given = [_given(args, kwargs, at + 1, name) for at, name in enumerate(names)]
    each = [
        [default, default] if value is None else _whole(value) * (2 // len(_whole(value)))
        for value, default in zip(given, (1, 1, 0, 1), strict=True)
    ]
    count = [
        (side + 2 * around - apart * (kernel - 1) - 1) // step + 1
        for side, kernel, apart, around, step in zip(shape[-2:], *each, strict=True)
    ]
    return int(math.prod(shape[:-2]) * math.prod(each[0]) * math.prod(count))


def expanded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    sizes = _whole(args[1:] or kwargs.get("size"))
    own = [1] * (len(sizes) - args[0].dim()) + list(args[0].shape)
    return int(math.prod(max(size, before) for size, before in zip(sizes, own, strict=True)))


def repeated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    times = _whole(args[1:] or [kwargs.get("repeats"), kwargs.get("dims")])
    return int(args[0].numel() * math.prod(times))


def gathered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return int(_given(args, kwargs, 2, "index").numel())


def selected(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    x, dim, index = args[0], _given(args, kwargs, 1, "dim"), _given(args, kwargs, 2, "index")
    return int(x.numel() // max(1, x.shape[dim]) * index.numel())


def padded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    around, sizes = _whole(_given(args, kwargs, 1, "pad")), list(args[0].shape)
    for number, more in enumerate(around):
        sizes[-1 - number // 2] += max(more, 0)
    return math.prod(sizes)


def resized(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    size, factor = _given(args, kwargs, 1, "size"), _given(args, kwargs, 2, "scale_factor")
    shape: torch.Size = args[0].shape
    given = leaves_of(factor if size is None else size)
    each = given * (len(shape) - 2) if len(given) == 1 else given
    grown: list[float] = each if size is not None else [by * before for by, before in zip(each, shape[2:], strict=True)]
    return math.prod(shape[:2]) * math.prod(math.ceil(side) for side in grown)


def indexed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Each index tensor takes the place of one dimension, all of them together that of their common shape."""
    x, index = args
    if not isinstance(x, Tensor):
        return 0
    parts = list(index) if isinstance(index, tuple) else [index]
    parts = [torch.as_tensor(part) if isinstance(part, (list, range)) else part for part in parts]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if any(part.dtype == torch.bool for part in tensors):  # a mask picks as many as it has entries at most
        return 0
    taken, dim = 1, 0
    for part in parts:
        if part is Ellipsis:
            dim = x.dim() - sum(each is not None and each is not Ellipsis for each in parts[parts.index(part) + 1 :])
        elif part is not None:
            taken, dim = taken * (x.shape[dim] if isinstance(part, Tensor) else 1), dim + 1
    return _together([part.shape for part in tensors]) * x.numel() // max(1, taken)
