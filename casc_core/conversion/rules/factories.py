"""Rules of tensors that are made of the shape, type and device of a spiking one: they are functions of the inputs alone."""

from __future__ import annotations

import math
from typing import Any

import torch

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.casts import require_floating_type
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import InputValue, SignalValue
from casc_core.engine.ops import Attribute, Call

RULES.refuse(
    "its entries are whatever memory held; use torch.zeros",
    torch.empty, torch.empty_like, torch.empty_strided, "new_empty",
)  # fmt: skip


@RULES.function(torch.zeros_like)
def _zeros_like(low: Lowering, input: SignalValue, **options: Any) -> InputValue:
    return _filled(low, input, None, 0.0, **options)


@RULES.function(torch.ones_like)
def _ones_like(low: Lowering, input: SignalValue, **options: Any) -> InputValue:
    return _filled(low, input, None, 1.0, **options)


@RULES.function(torch.full_like)
def _full_like(low: Lowering, input: SignalValue, fill_value: Any, **options: Any) -> InputValue:
    return _filled(low, input, None, fill_value, **options)


@RULES.function("new_zeros")
def _new_zeros(low: Lowering, input: SignalValue, *size: Any, **options: Any) -> InputValue:
    return _filled(low, input, size, 0.0, **options)


@RULES.function("new_ones")
def _new_ones(low: Lowering, input: SignalValue, *size: Any, **options: Any) -> InputValue:
    return _filled(low, input, size, 1.0, **options)


@RULES.function("new_full")
def _new_full(low: Lowering, input: SignalValue, size: Any, fill_value: Any, **options: Any) -> InputValue:
    return _filled(low, input, (size,), fill_value, **options)


def _filled(
    low: Lowering, x: SignalValue, size: tuple[Any, ...] | None, value: Any, *, dtype: Any = None, device: Any = None,
    layout: Any = torch.strided, requires_grad: bool = False, pin_memory: bool = False, memory_format: Any = None,
) -> InputValue:  # fmt: skip
    """A tensor of this size (None: that of `x`) full of `value`."""
    if isinstance(value, SignalValue):
        raise low.refuse("it fills with a number that depends on spikes; expand() the spiking tensor in its place")
    require_floating_type(low, dtype)
    if isinstance(size, tuple) and len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    shape = (InputValue(low.emit(Attribute(name="shape"), x)),) if size is None else size
    where = InputValue(low.emit(Attribute(name="device"), x)) if device is None else device
    number = float(value) if isinstance(value, (int, float)) else None
    entries = torch.tensor([number], dtype=torch.float64) if number is not None and math.isfinite(number) else None
    if number in (0.0, 1.0):
        made = low.emit(Call(function=f"torch.{'ones' if number else 'zeros'}"), *shape, device=where)
    else:
        each = value if number is None else number
        made = low.emit(Call(function="torch.full"), shape[0] if size is None else shape, each, device=where)
    return InputValue(made, entries)
