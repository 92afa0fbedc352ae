"""Rules of sums, means and maxima over dimensions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import rescaled
from casc_core.conversion.rules.arithmetic import add, known
from casc_core.conversion.rules.casts import require_floating_type
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Form, InputValue, SignalValue, Unreadable
from casc_core.engine.ops import (
    Call,
    MaskedFill,
    Max,
    Sum,
    TimesInput,
)

# Sums over tokens are expected to stay below this many; only the choice of bits depends on it.
EXPECTED_TOKENS = 2.0**8
# Fills of less than this magnitude are no minus infinity.
SMALLEST_FILL = 1e4


def total(low: Lowering, x: Any, mean: bool, dim: Any, keepdim: bool) -> SignalValue:
    x = low.signal(x)
    ref, form = low.emit(Sum(mean=mean), x, dim=dim, keepdim=keepdim), x.form
    reach = form.drive_reach if form.is_summed else form.drive_reach * EXPECTED_TOKENS
    return SignalValue(ref, replace(form, drive_reach=reach, is_summed=True, is_divided=form.is_divided or mean))


@RULES.function(torch.sum, "sum")
def _sum(low: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalValue:
    require_floating_type(low, dtype)
    return total(low, input, False, dim, keepdim)


@RULES.function(torch.mean, "mean")
def _mean(low: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalValue:
    require_floating_type(low, dtype)
    return total(low, input, True, dim, keepdim)


INDICES = "it reads the indices of a maximum, which do not travel as spikes; use the values alone"


class MaxResult(NamedTuple):
    """What `x.max(dim)` returns. Indices that nothing reads do no harm: `values, _ = x.max(dim)`."""

    values: SignalValue
    indices: Unreadable = Unreadable(INDICES)


_OF_TWO = (
    "it is an elementwise maximum of two tensors. With zeros it is a ReLU: write torch.relu(x); else take a maximum over a "
    "dimension of their stack, torch.stack([a, b]).amax(0)"
)
RULES.refuse(_OF_TWO, torch.maximum, torch.fmax, "maximum", "fmax")


def maximum(low: Lowering, x: SignalValue, dim: Any, keepdim: bool) -> SignalValue:
    if x.form.scale < 0:
        x = rescaled(low, x)
    return SignalValue(low.emit(Max(), x, dim=dim, keepdim=keepdim), maximum_form(x.form))


def maximum_form(form: Form) -> Form:
    """What is known of a maximum: it is a train, whatever was in the drive."""
    exponents = [exponent for exponent in (form.exponent, form.drive_exponent) if exponent is not None]
    return replace(
        form, exponent=min(exponents), drive_exponent=None, drive_reach=0.0, is_filled=False, is_summed=False
    )


@RULES.function(torch.amax, "amax")
def _amax(low: Lowering, input: SignalValue, dim: Any = (), keepdim: bool = False) -> SignalValue:
    return maximum(low, input, dim if dim != () else None, keepdim)


@RULES.function(torch.max, "max")
def _max(
    low: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None
) -> SignalValue | MaxResult:
    if dim is None and other is None:
        return maximum(low, input, None, False)
    if not isinstance(dim, int):
        raise low.refuse(_OF_TWO)
    return MaxResult(maximum(low, input, dim, keepdim))


@RULES.function("masked_fill", torch.masked_fill, "masked_fill_")
def masked_fill(low: Lowering, input: SignalValue, mask: Any, value: Any) -> SignalValue:
    if not isinstance(mask, InputValue):
        raise low.refuse("its mask depends on spikes; a mask must be computed from the inputs")
    constant = low.constant(value)
    value = constant.item() if constant is not None and constant.numel() == 1 else value
    if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
        raise low.refuse(f"it fills with {value!r}; fill with a number, or with float('-inf') on the way to a maximum")
    if value > -SMALLEST_FILL and value != 0:
        return select(low, mask, value, input)
    if input.form.scale < 0:
        input = rescaled(low, input)
    # Any number below every sum acts as minus infinity under a maximum, which is the only place such a fill has.
    if value == 0:
        return SignalValue(low.emit(MaskedFill(value=0.0), input, mask), input.form)
    below = None if value == -math.inf else -value / input.form.factor
    form = replace(input.form, drive_exponent=input.form.drive_exponent or 0, is_filled=True)
    return SignalValue(low.emit(MaskedFill(value=-math.inf, below=below), input, mask), form)


@RULES.function(torch.where)
def _where(low: Lowering, condition: Any, input: Any, other: Any) -> SignalValue:
    return select(low, condition, input, other)


@RULES.function("where")
def _where_method(low: Lowering, input: Any, condition: Any, other: Any) -> SignalValue:
    return select(low, condition, input, other)


def select(low: Lowering, mask: Any, inside: Any, outside: Any) -> SignalValue:
    """`inside` where the mask holds, else `outside`: both times masks, and added."""
    if not isinstance(mask, InputValue):
        raise low.refuse("its mask depends on spikes; a mask must be computed from the inputs")
    parts = []
    for value, where in ((inside, mask), (outside, InputValue(low.emit(Call("torch.logical_not"), mask)))):
        if isinstance(value, (int, float)) and value <= -SMALLEST_FILL:
            return masked_fill(low, outside if where is mask else inside, where, value)
        if isinstance(value, SignalValue):
            parts.append(SignalValue(low.emit(TimesInput(), value, where), value.form))
            continue
        constant = known(low, value)
        if constant is None or constant.dim() > 0 or bool(constant):  # a zero leaves the other side as it is
            parts.append(low.signal(InputValue(low.emit(Call("operator.mul"), where, value), constant)))
    return add(low, *parts) if len(parts) == 2 else parts[0]
