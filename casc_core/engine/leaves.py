"""Nested arguments of a program: the leaves of tuples, lists, dicts and slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with `function` applied to each leaf of its tuples, lists, dicts and slices."""
    if isinstance(value, (tuple, list)):
        return type(value)(map_leaves(item, function) for item in value)
    if isinstance(value, dict):
        return {key: map_leaves(item, function) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_leaves(part, function) for part in (value.start, value.stop, value.step)))
    return function(value)


def leaves(value: Any) -> list[Any]:
    """What stands in the tuples, lists, dicts and slices of `value`."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return leaves(list(value.values()))
    if isinstance(value, slice):
        return leaves([value.start, value.stop, value.step])
    return [value]
