"""What an operation is in integers: one form for each kind of operation, found by its class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import Op
from casc_core.engine.recording.provenance import Connection
from casc_core.engine.signal import Signal
from casc_core.export.integers.call import OperationCall, depends, ones_like
from casc_core.export.integers.graph import Plain, Value
from casc_core.export.integers.numbers import Array


@singledispatch
def integer_form(op: Op, call: OperationCall, *args: Any, **kwargs: Any) -> Any:
    """What an operation's result is in integers: a `Value` for each signal, a `Plain` for all else.

    Register a form for an operation of your own; one that only moves entries (`Connection.MOVES`, `KEEPS`) needs none.

    Args:
        args, kwargs: as the operation was called, a `Value` in the place of each signal, a `Plain` of anything else that
            was computed.

    Raises:
        ConversionError: it has none.
    """
    if op.connection in (Connection.KEEPS, Connection.MOVES):
        return moved(op, call, *args, **kwargs)
    raise call.refuse("no integer form of this operation is known")


def moved(op: Op, call: OperationCall, *args: Any, **kwargs: Any) -> Any:
    """The form of an operation that only moves entries, found by letting it move their numbers."""
    read = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Value)]
    places, last = {}, 0
    for each in read:
        if each.node is not None and id(each) not in places:
            places[id(each)] = last
            last += each.signal.shape.numel()

    def numbered(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf.value if isinstance(leaf, Plain) else leaf
        if id(leaf) not in places:
            return replace(ones_like(leaf.signal).map(torch.zeros_like), divisor=None)
        shape = leaf.signal.shape
        numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(1, *shape) + places[id(leaf)]
        return Signal(numbers, None, None, 1.0)

    def counted(leaf: Any) -> Any:
        return ones_like(leaf.signal) if isinstance(leaf, Value) else leaf.value if isinstance(leaf, Plain) else leaf

    def run(stand_in: Any) -> list[Any]:
        given, named = map_leaves((args, kwargs), stand_in)
        return leaves(op(call.run, *given, **named))

    nodes = [(each.node, each.exponent) for each in {id(each): each for each in read}.values() if each.node is not None]
    numbers, factors, of_inputs = run(numbered), run(counted), depends((args, kwargs))
    grid = call.value(None, 0, *read).drive_exponent
    of_values = depends([leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Plain)])
    brings_divisors = len(read) > 1 and any(each.signal.divisor is not None for each in read)
    whole = OperationCall(call.graph, call.run, op, call.result, call.args)

    def of(result: Any, index: int) -> Any:
        if not isinstance(result, Signal):
            return Plain(result, of_inputs)
        exponent = min((each for _, each in nodes), default=0)
        value = Value(None, exponent, result, of_inputs, grid, _origin_of(read, result))
        if not nodes:
            return value
        place = numbers[index].train[0].long().numpy() - 1
        if not of_values and len(nodes) == 1 and place.shape == tuple(read[0].signal.shape) and _is_identity(place):
            moved_node = nodes[0]
        else:
            moved_node = whole.gathered(nodes, place[..., None], result.shape, of_values)
        if brings_divisors:  # whose entries are multiplied until all have one divisor
            factor = torch.where(torch.as_tensor(place) >= 0, factors[index].train[0], 1.0)
            moved_node = whole.scaled(moved_node, factor, result.shape, of_inputs)
        return replace(value, node=moved_node[0], exponent=moved_node[1])

    count = itertools.count()
    return map_leaves(call.result, lambda leaf: of(leaf, next(count)))


def _origin_of(read: Sequence[Value], result: Signal) -> Any:
    """An input of which nothing but the shape has changed is still that input."""
    if len(read) != 1 or read[0].origin is None:
        return None
    before, after = read[0].signal.drive, result.drive
    if before is None or after is None or not torch.equal(before.reshape(-1), after.reshape(-1)):
        return None
    return read[0].origin


def _is_identity(place: Array) -> bool:
    return bool((place.reshape(-1) == np.arange(place.size)).all())
