"""Calling the functions of the table safely, whatever arguments a network has for them.

They read no attribute that is not listed, write to nothing they are given, and make no more than they are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.functions.sizes import elements, leaves_of
from casc_core.engine.functions.table import FUNCTIONS
from casc_core.errors import InputError

# Of a keyword of torch's functions, these alone have effects beyond the result.
_NEVER_GIVEN = frozenset(("out", "requires_grad", "pin_memory", "generator", "names"))
_LARGEST_INTEGER = 2**63
_LONGEST_SEQUENCE = 2**12
# Put together again and again, a tensor would double each time.
_JOINS = ("torch.cat", "torch.stack")
# All calls of a run together may make this many times what one may.
_ROOMS = 8


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
    given = [*leaves_of(args), *leaves_of(tuple(kwargs.values()))]
    check_keywords(function, kwargs)
    if not any(isinstance(leaf, Tensor) for leaf in given) and function.partition(".")[0] in ("operator", "math"):
        return _of_numbers(function, args)
    more = 0 if function in _JOINS else elements(given)
    check_room(f"{function}()", FUNCTIONS[function].makes(args, kwargs), room + more)
    return FUNCTIONS[function](*args, **kwargs)


def count_made(made: int, result: Any, room: int) -> int:
    """How many numbers calls have made so far, with this result.

    Raises:
        InputError: they are more than a network makes of its inputs.
    """
    made += elements(leaves_of(result))
    check_room("all that the network computes from its inputs", made, _ROOMS * room)
    return made


def foreseen(function: str, room: int, shape: torch.Size, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse, as `call` does, a rearrangement of a tensor of this shape that would make too much."""
    check_keywords(function, kwargs)
    all_args = (torch.empty(shape, device="meta"), *args)
    given = leaves_of((all_args, tuple(kwargs.values())))
    check_room(f"{function}()", FUNCTIONS[function].makes(all_args, kwargs), room + elements(given))


def check_keywords(function: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a keyword that has effects beyond the function's result.

    Raises:
        InputError: it has.
    """
    if not _NEVER_GIVEN.isdisjoint(kwargs):
        raise InputError(f"{function}() cannot be given {', '.join(sorted(_NEVER_GIVEN & kwargs.keys()))} by a network")


def check_room(what: str, wanted: int, room: int) -> None:
    """Refuse more numbers than there is room for.

    Raises:
        InputError: there are.
    """
    if wanted > room:
        raise InputError(f"{what} would make {wanted:,} numbers; a network may make {room:,} here")


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
