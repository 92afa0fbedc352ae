"""Containers that a forward makes of tensors: dataclasses, named tuples and ordered dicts.

A trace records each as a call of its class, as torch.fx does of most.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from casc_core.engine.structure import Record


def recorded(tracer: fx.Tracer, value: Any) -> fx.Node | None:
    """The node that makes a container of this type and of what `value` holds; None: it is none that tracing would lose."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):  # also one that is a dict as well, which tracing would take for a dict
        fields = {each.name: tracer.create_arg(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return tracer.create_node("call_function", type(value), (), fields)
    if isinstance(value, OrderedDict):
        pairs = [(key, tracer.create_arg(item)) for key, item in value.items()]
        return tracer.create_node("call_function", OrderedDict, (pairs,), {})
    return None


def is_container(kind: type) -> bool:
    """Whether calls of this class are recorded so."""
    named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return dataclasses.is_dataclass(kind) or kind is OrderedDict or named_tuple


def container_of(kind: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What such a call makes of what has been read."""
    return Record(kind, dict(kwargs)) if dataclasses.is_dataclass(kind) else kind(*args, **kwargs)


def opened(value: Any) -> Any:
    """The container that a node of a trace makes, with nodes in it; whatever else, as it is."""
    if isinstance(value, fx.Node) and isinstance(value.target, type) and is_container(value.target):
        return container_of(value.target, plain(value.args), plain(value.kwargs))
    return value


def plain(value: Any) -> Any:
    """The immutable containers of a trace as ordinary ones."""
    if isinstance(value, tuple):
        items = [plain(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        named = {key: plain(item) for key, item in value.items()}
        return OrderedDict(named) if isinstance(value, OrderedDict) else named
    return value
