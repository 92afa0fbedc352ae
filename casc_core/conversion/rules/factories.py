"""Rules of tensors that are made of the shape, type and device of a spiking one: they are functions of the inputs alone."""

from __future__ import annotations

import math
from typing import Any

import torch

from casc_core.conversion.graph import InputNode, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.casts import require_floating_type
from casc_core.conversion.rules.table import RULES

RULES.refuse(
    "its entries are whatever memory held; use torch.zeros",
    torch.empty, torch.empty_like, torch.empty_strided, "new_empty", anywhere=True,
)  # fmt: skip


@RULES.function(torch.zeros_like)
def _zeros_like(reader: Reader, input: SignalNode, **options: Any) -> InputNode:
    return _filled(reader, input, None, 0.0, **options)


@RULES.function(torch.ones_like)
def _ones_like(reader: Reader, input: SignalNode, **options: Any) -> InputNode:
    return _filled(reader, input, None, 1.0, **options)


@RULES.function(torch.full_like)
def _full_like(reader: Reader, input: SignalNode, fill_value: Any, **options: Any) -> InputNode:
    return _filled(reader, input, None, fill_value, **options)


@RULES.function("new_zeros")
def _new_zeros(reader: Reader, input: SignalNode, *size: Any, **options: Any) -> InputNode:
    return _filled(reader, input, size, 0.0, **options)


@RULES.function("new_ones")
def _new_ones(reader: Reader, input: SignalNode, *size: Any, **options: Any) -> InputNode:
    return _filled(reader, input, size, 1.0, **options)


@RULES.function("new_full")
def _new_full(reader: Reader, input: SignalNode, size: Any, fill_value: Any, **options: Any) -> InputNode:
    return _filled(reader, input, (size,), fill_value, **options)


def _filled(
    reader: Reader, x: SignalNode, size: tuple[Any, ...] | None, value: Any, *, dtype: Any = None, device: Any = None,
    layout: Any = torch.strided, requires_grad: bool = False, pin_memory: bool = False, memory_format: Any = None,
) -> InputNode:  # fmt: skip
    """A tensor of this size (None: that of `x`) full of `value`."""
    if isinstance(value, SignalNode):
        raise reader.refuse("it fills with a number that depends on spikes; expand() the spiking tensor in its place")
    require_floating_type(reader, dtype)
    if isinstance(size, tuple) and len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    shape = (reader.attribute(x, "shape"),) if size is None else size
    where = reader.attribute(x, "device") if device is None else device
    number = float(value) if isinstance(value, (int, float)) else None
    is_finite = number is not None and math.isfinite(number)
    filled = torch.tensor([number], dtype=torch.float64) if is_finite else None
    if number in (0.0, 1.0):
        return reader.call(f"torch.{'ones' if number else 'zeros'}", *shape, device=where, filled=filled)
    each = value if number is None else number
    return reader.call("torch.full", shape[0] if size is None else shape, each, device=where, filled=filled)
