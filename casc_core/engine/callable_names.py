"""The functions a lowered network may call, by name: on its inputs (tokens, lengths, masks), or on a signal's layout.

A saved network names them, so only what stands here can ever be called by one that is loaded; and whatever it calls them
with, they read no attribute that is not listed, write to nothing they are given, and make no more than they are allowed.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.conditions import expect, expect_parts
from casc_core.errors import InputError

# Rearranging elements: linear with coefficients 0 and 1, so allowed on signals as well.
_LAYOUT_METHODS = (
    "view reshape flatten permute transpose t squeeze unsqueeze contiguous expand select narrow chunk split "
    "split_with_sizes unbind "
    "index_select gather flip roll movedim swapaxes clone detach unflatten tile repeat"
).split()
_LAYOUT_FUNCTIONS = (
    "reshape flatten permute transpose t squeeze unsqueeze select narrow chunk split split_with_sizes unbind "
    "index_select gather flip "
    "roll movedim swapaxes clone tile unflatten"
).split()
# Rearrangements of images, called through torch.nn.functional.
_LAYOUT_OF_IMAGES = ("pad", "interpolate", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
_INPUT_METHODS = (
    "add sub mul div subtract multiply divide true_divide negative addcmul addcdiv lerp where "
    "ne eq lt le gt ge logical_and logical_or logical_not bitwise_and float long int bool double to "
    "type type_as clamp clip clamp_min clamp_max maximum minimum fmax fmin sum amax amin max min any all cumsum "
    "masked_fill size dim numel "
    "new_zeros new_ones new_full item abs neg remainder argmax count_nonzero cpu pow sqrt sort argsort"
).split()
_INPUT_FUNCTIONS = (
    "add sub mul div subtract multiply divide true_divide negative rsub addcmul addcdiv lerp "
    "ne eq lt le gt ge logical_and logical_or logical_not arange eye tensor zeros ones full "
    "zeros_like ones_like full_like "
    "clamp clip clamp_min clamp_max maximum minimum fmax fmin "
    "sum amax amin max min any all cumsum where cat stack masked_fill abs neg remainder argmax "
    "count_nonzero floor_divide pow sqrt sort argsort"
).split()
_OPERATORS = "add sub mul truediv floordiv mod ne eq lt le gt ge and_ or_ not_ invert neg getitem pow".split()
_MATH = ("ceil", "floor", "sqrt")
FLOATING = (torch.float32, torch.float64)
"""Types to which a cast of spike counts rounds nothing."""
# These give at most as many elements as they are given; of all others `_SIZES` says how many.
_NEVER_MORE = frozenset(
    "view reshape flatten permute transpose t squeeze unsqueeze contiguous select narrow chunk split "
    "split_with_sizes unbind flip roll "
    "movedim swapaxes clone detach unflatten pixel_shuffle pixel_unshuffle channel_shuffle logical_not float long int "
    "bool double to type type_as sum amax amin any all cumsum size dim numel item abs argmax count_nonzero cpu sqrt "
    "sort argsort zeros_like ones_like full_like requires_grad_ not_ invert getattr expect expect_parts "
    "tensor negative "
    "require_floating ceil floor".split()
)
ATTRIBUTES = ("shape", "device", "dtype", "ndim", "T", "mT")
"""What a network may read of a signal."""
_READ: dict[type, frozenset[str]] = {
    Tensor: frozenset((*ATTRIBUTES, "H", "mH", "data", "is_cuda", "requires_grad", "itemsize", "nbytes")),
    torch.device: frozenset(("type", "index")),
    torch.dtype: frozenset(("is_floating_point", "itemsize")),
}
"""What it may read of what is computed from its inputs."""
FIELDS = ("values", "indices")
DTYPES: Mapping[str, torch.dtype] = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
        torch.float32, torch.float64,
    )
}  # fmt: skip
"""The types of numbers that a network may name."""
# Of a keyword of torch's functions, these alone have effects beyond the result.
_NEVER_GIVEN = frozenset(("out", "requires_grad", "pin_memory", "generator", "names"))
_LARGEST_INTEGER = 2**63
_LONGEST_SEQUENCE = 2**12


def may_read(name: str) -> bool:
    """Whether a network may read an attribute of this name of anything that is computed from its inputs."""
    return name in FIELDS or any(name in known for known in _READ.values())


def _read(value: Any, name: str) -> Any:
    """An attribute of a tensor, a device or a type; or one of the two parts of what `max` and `sort` return."""
    if isinstance(value, tuple) and name in FIELDS and len(value) == len(FIELDS):
        return value[FIELDS.index(name)]
    for kind, known in _READ.items():
        if isinstance(value, kind) and name in known:
            return getattr(value, name)
    said = repr(name) if isinstance(name, str) else f"an attribute named by a {type(name).__name__}"
    raise InputError(f"a network cannot read {said:.80} of a {type(value).__name__}")


def _itself(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stands for what would only change how gradients are taken."""
    return x


@dataclass(frozen=True)
class _Method:
    """A method of tensors as a function; unlike a closure it can be pickled."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tensor) and not (isinstance(x, torch.Size) and self.name == "numel"):
            raise InputError(f"{self.name}() of a {type(x).__name__}: a network calls methods of tensors alone")
        return getattr(x, self.name)(*args, **kwargs)


@dataclass(frozen=True)
class _ByValue:
    """A rearrangement that torch knows for floating point alone; whole numbers up to 2**53 go through it and back."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved: Tensor = getattr(F, self.name)(x.double(), *args, **kwargs)
        return moved.to(x.dtype)


def require_floating(target: Any) -> None:
    """Raise `InputError` if a cast to this type, or to the type of this tensor, would round; a device is no type.

    >>> require_floating(torch.zeros(1)), require_floating(torch.device("cpu"))
    (None, None)
    """
    kind = target.dtype if isinstance(target, Tensor) else target
    if isinstance(kind, torch.dtype) and kind not in FLOATING:
        raise InputError(
            f"the network casts a spiking tensor to the type of an input, {kind}, which rounds it; give that input as "
            "torch.float32, or leave the cast out"
        )


def _named() -> dict[str, Callable[..., Any]]:
    table: dict[str, Callable[..., Any]] = {"getattr": _read, "Tensor.requires_grad_": _itself}
    for name in _LAYOUT_OF_IMAGES:
        table[f"F.{name}"] = _ByValue(name)
    for name in {*_LAYOUT_METHODS, *_INPUT_METHODS}:
        table[f"Tensor.{name}"] = _Method(name)
    for name in {*_LAYOUT_FUNCTIONS, *_INPUT_FUNCTIONS}:
        if hasattr(torch, name):
            table[f"torch.{name}"] = getattr(torch, name)
    for name in _OPERATORS:
        table[f"operator.{name}"] = getattr(operator, name)
    for name in _MATH:
        table[f"math.{name}"] = getattr(math, name)
    table |= {"expect": expect, "expect_parts": expect_parts, "require_floating": require_floating}
    return table


FUNCTIONS = _named()
LAYOUT = (
    {f"Tensor.{name}" for name in _LAYOUT_METHODS}
    | {f"torch.{name}" for name in _LAYOUT_FUNCTIONS if hasattr(torch, name)}
    | {f"F.{name}" for name in _LAYOUT_OF_IMAGES}
    | {"operator.getitem"}
)
_NAMES = {id(function): name for name, function in FUNCTIONS.items()} | {id(getattr): "getattr"}
_NAMES |= {
    id(getattr(operator, f"i{name}")): f"operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv")
}


def filled_with(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """The number that every entry of a factory's result is; None: that is no such call, or not known.

    >>> filled_with("torch.zeros", (3,), {}), filled_with("Tensor.new_full", ("x", (3,), 0.5), {})
    (0.0, 0.5)
    """
    kind = name.rsplit(".", 1)[-1].removeprefix("new_").removesuffix("_like")
    if kind in ("zeros", "ones"):
        return float(kind == "ones")
    if kind != "full":
        return None
    value = kwargs.get("fill_value", args[-1] if "fill_value" not in kwargs and args else None)
    return float(value) if isinstance(value, (int, float)) else None


def name_of(target: Any, is_method: bool) -> str | None:
    """The name under which `target` stands in the table, or None; an operation in place stands under its plain name."""
    if is_method:
        name = f"Tensor.{target}"
        name = name if name in FUNCTIONS else name.removesuffix("_")
        return name if name in FUNCTIONS else None
    if isinstance(target, MethodDescriptorType):  # a method called on a parameter, which is no proxy
        return name_of(target.__name__, True)
    return _NAMES.get(id(target))


def call(function: str, room: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the function of this name gives, if that is harmless.

    Args:
        room: elements that a result may have more than what the function is given.

    Raises:
        InputError: the result would be larger, or the arguments are of a kind that no network has.

    >>> call("torch.arange", 10, (3,), {})
    tensor([0, 1, 2])
    >>> call("torch.arange", 10, (10**12,), {})
    Traceback (most recent call last):
    ...
    casc_core.errors.InputError: torch.arange() would make 1,000,000,000,000 numbers; a network may make 10 here
    """
    given = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
    check_keywords(function, kwargs)
    if not any(isinstance(leaf, Tensor) for leaf in given) and function.partition(".")[0] in ("operator", "math"):
        return _of_numbers(function, args)
    # Put together again and again, a tensor would double each time.
    more = 0 if function in _JOINS else _elements(given)
    check_room(f"{function}()", _made(function, args, kwargs), room + more)
    return FUNCTIONS[function](*args, **kwargs)


def count_made(made: int, result: Any, room: int) -> int:
    """How many numbers calls have made so far, with this result.

    Raises:
        InputError: they are more than a network makes of its inputs.
    """
    made += _elements(_leaves(result))
    check_room("all that the network computes from its inputs", made, _ROOMS * room)
    return made


def foreseen(function: str, room: int, shape: torch.Size, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Complain, as `call` does, about a rearrangement of a tensor of this shape that would make too much."""
    check_keywords(function, kwargs)
    all_args = (torch.empty(shape, device="meta"), *args)
    given = _leaves((all_args, tuple(kwargs.values())))
    check_room(f"{function}()", _made(function, all_args, kwargs), room + _elements(given))


def check_keywords(function: str, kwargs: Mapping[str, Any]) -> None:
    """Complain about a keyword that has effects beyond the function's result.

    Raises:
        InputError: it has.
    """
    if not _NEVER_GIVEN.isdisjoint(kwargs):
        raise InputError(f"{function}() cannot be given {', '.join(sorted(_NEVER_GIVEN & kwargs.keys()))} by a network")


def check_room(what: str, wanted: int, room: int) -> None:
    """Complain about more numbers than there is room for.

    Raises:
        InputError: there are.
    """
    if wanted > room:
        raise InputError(f"{what} would make {wanted:,} numbers; a network may make {room:,} here")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _elements(leaves: list[Any]) -> int:
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))


def _made(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many elements a function would make, or more; 0 where they are never more than it is given."""
    owner, _, name = function.rpartition(".")
    if name not in _SIZES or (owner in ("Tensor", "F") and not (args and isinstance(args[0], Tensor))):
        return 0
    return int(_SIZES[name](args, kwargs))


def _joined(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return _elements(_leaves(_given(args, kwargs, 0, "tensors")))


_JOINS = ("torch.cat", "torch.stack")
# All calls of a run together may make so many times what one may.
_ROOMS = 8


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, *names: str) -> Any:
    """An argument by its place, or by one of its names; None if it is not there."""
    if place < len(args):
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _whole(values: Any) -> list[int]:
    """Sizes that are given one by one, or in a tuple."""
    return [int(value) for value in _leaves(values) if value is not None]


def _together(shapes: Sequence[Sequence[int]]) -> int:
    """Elements of the shape to which these broadcast, if they do; torch's own function takes a second at its first call."""
    return math.prod(max(sizes) for sizes in itertools.zip_longest(*map(reversed, shapes), fillvalue=1))


def _broadcast(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    shapes = [leaf.shape for leaf in _leaves((args, tuple(kwargs.values()))) if isinstance(leaf, Tensor)]
    return _together(shapes)


def _factory(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    sizes = args[1:] if args and isinstance(args[0], Tensor) else args
    return math.prod(_whole(sizes if sizes else kwargs.get("size")))


def _full(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return math.prod(_whole(_given(args, kwargs, 0, "size")))


def _new_full(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return math.prod(_whole(_given(args, kwargs, 1, "size")))


def _square(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    rows, columns = _given(args, kwargs, 0, "n"), _given(args, kwargs, 1, "m")
    return int(rows) * int(rows if columns is None else columns)


def _arange(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    bounds = [float(value) for value in args]
    bounds += [float(kwargs[name]) for name in ("start", "end", "step") if kwargs.get(name) is not None]
    start, end, step = (*((0.0, *bounds) if len(bounds) == 1 else bounds), 1.0)[:3]
    return math.ceil(abs(end - start) / abs(step))


def _expanded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    sizes = _whole(args[1:] or kwargs.get("size"))
    own = [1] * (len(sizes) - args[0].dim()) + list(args[0].shape)
    return math.prod(max(size, before) for size, before in zip(sizes, own, strict=True))


def _repeated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    times = _whole(args[1:] or [kwargs.get("repeats"), kwargs.get("dims")])
    return args[0].numel() * math.prod(times)


def _gathered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return _given(args, kwargs, 2, "index").numel()


def _selected(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    x, dim, index = args[0], _given(args, kwargs, 1, "dim"), _given(args, kwargs, 2, "index")
    return x.numel() // max(1, x.shape[dim]) * index.numel()


def _padded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    around, sizes = _whole(_given(args, kwargs, 1, "pad")), list(args[0].shape)
    for number, more in enumerate(around):
        sizes[-1 - number // 2] += max(more, 0)
    return math.prod(sizes)


def _resized(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    size, factor = _given(args, kwargs, 1, "size"), _given(args, kwargs, 2, "scale_factor")
    shape = args[0].shape
    given = _leaves(factor if size is None else size)
    each = given * (len(shape) - 2) if len(given) == 1 else given
    grown = each if size is not None else [by * before for by, before in zip(each, shape[2:], strict=True)]
    return math.prod(shape[:2]) * math.prod(math.ceil(side) for side in grown)


def _indexed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
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


_ELEMENTWISE = (
    "add sub mul div truediv floordiv floor_divide mod remainder pow ne eq lt le gt ge and_ or_ logical_and logical_or "
    "bitwise_and clamp clip clamp_min clamp_max min max where masked_fill neg subtract multiply divide true_divide rsub "
    "addcmul addcdiv lerp maximum minimum fmax fmin"
).split()
_SIZES: dict[str, Callable[[tuple[Any, ...], Mapping[str, Any]], Any]] = dict.fromkeys(_ELEMENTWISE, _broadcast) | {
    "cat": _joined, "stack": _joined, "zeros": _factory, "ones": _factory, "new_zeros": _factory, "new_ones": _factory,
    "full": _full, "new_full": _new_full,
    "eye": _square, "arange": _arange,
    "expand": _expanded, "repeat": _repeated, "tile": _repeated, "gather": _gathered, "index_select": _selected,
    "pad": _padded, "interpolate": _resized, "getitem": _indexed,
}  # fmt: skip


def _of_numbers(function: str, args: tuple[Any, ...]) -> Any:
    """Arithmetic on sizes, and on tuples of them; neither grows without bound."""
    name = function.partition(".")[2]
    if name in ("add", "mul", "mod", "pow") and any(isinstance(value, str) for value in args):
        raise InputError(f"{function}() of a string: a network calculates with numbers alone")
    counts = [len(value) for value in args if isinstance(value, (tuple, list))]
    if name == "mul" and counts:
        most = max((abs(value) for value in args if isinstance(value, int)), default=0)
        check_room(f"{function}()", max(counts) * most, _LONGEST_SEQUENCE)
    if name == "pow" and all(isinstance(value, int) for value in args):
        base, exponent = args
        if exponent > 0 and max(abs(base), 1).bit_length() * exponent > 2 * _LARGEST_INTEGER.bit_length():
            raise InputError(f"{function}({base}, {exponent}) is not a size that a network can have")
    result = FUNCTIONS[function](*args)
    if isinstance(result, int) and abs(result) > _LARGEST_INTEGER:
        raise InputError(f"{function}() gives {result:.3g}, which is not a size that a network can have")
    if isinstance(result, (tuple, list)):
        check_room(f"{function}()", len(result), _LONGEST_SEQUENCE)
    return result
