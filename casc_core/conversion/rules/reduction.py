"""Rules of sums, means and maxima over dimensions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_core.conversion.graph import (
    Applied,
    Concatenation,
    Factor,
    Filled,
    InputNode,
    Maximum,
    SignalNode,
    is_boolean,
)
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.passes.returned import Unreadable
from casc_core.conversion.rules.arithmetic import added, known, multiply, single, subtract
from casc_core.conversion.rules.casts import require_floating_type
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Layout, Max, Sum, TimesInput

# Fills of less than this magnitude are no minus infinity.
SMALLEST_FILL = 1e4


def total(reader: Reader, x: Any, mean: bool, dim: Any, keepdim: bool) -> SignalNode:
    given = {"dim": dim, "keepdim": keepdim}
    return reader.add(Applied(Sum(mean=mean), (reader.signal(x),), given, terms=None, divides=mean))


@RULES.function(torch.sum, "sum")
def _sum(reader: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalNode:
    require_floating_type(reader, dtype)
    return total(reader, input, False, dim, keepdim)


@RULES.function(torch.mean, "mean")
def _mean(reader: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalNode:
    require_floating_type(reader, dtype)
    return total(reader, input, True, dim, keepdim)


INDICES = "it reads the indices of a maximum, which do not travel as spikes; use the values alone"


class MaxResult(NamedTuple):
    """What `x.max(dim)` returns. Indices that nothing reads do no harm: `values, _ = x.max(dim)`."""

    values: SignalNode
    indices: Unreadable = Unreadable(INDICES)


def maximum(reader: Reader, x: SignalNode, dim: Any, keepdim: bool) -> SignalNode:
    return reader.add(Maximum(Max(), x, kwargs={"dim": dim, "keepdim": keepdim}))


@RULES.function(torch.amax, "amax")
def _amax(reader: Reader, input: SignalNode, dim: Any = (), keepdim: bool = False) -> SignalNode:
    return maximum(reader, input, dim if dim != () else None, keepdim)


@RULES.function(torch.max, "max")
def _max(
    reader: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None
) -> SignalNode | MaxResult:
    if dim is None and other is None:
        return maximum(reader, input, None, False)
    if not isinstance(dim, int):
        return _larger(reader, input, dim if other is None else other)
    return MaxResult(maximum(reader, input, dim, keepdim))


@RULES.function(torch.maximum, torch.fmax, "maximum", "fmax")
def _larger(reader: Reader, input: Any, other: Any) -> SignalNode:
    """The larger entry of two tensors: the maximum of their stack."""
    return _of_two(reader, input, other, torch.maximum, maximum)


def _of_two(
    reader: Reader, a: Any, b: Any, function: Callable[[Tensor, Tensor], Tensor], reduce: Callable[..., SignalNode]
) -> SignalNode:
    for signal, other in ((a, b), (b, a)):
        constant = None if isinstance(other, SignalNode) else known(reader, other)
        number = None if constant is None else single(constant)
        found = (
            None if number is None else reader.by_level(signal, partial(function, torch.tensor(float(number)).double()))
        )
        if found is not None:
            return found
    shape = reader.call("torch.broadcast_shapes", *(reader.attribute(each, "shape") for each in (a, b)))
    alike = tuple(_expanded(reader, each, shape) for each in (a, b))
    return reduce(reader, reader.add(Concatenation(alike, -1, True)), -1, False)


def _expanded(reader: Reader, x: Any, shape: Any) -> SignalNode:
    """`x` in this shape; a constant is expanded before it is a signal, so that all samples are seen to share it."""
    if isinstance(x, SignalNode):
        return reader.apply(Layout(function="Tensor.expand"), x, shape)
    return reader.signal(reader.call("Tensor.expand", x, shape))


def minimum(reader: Reader, x: SignalNode, dim: Any, keepdim: bool) -> SignalNode:
    """What is least is most of the opposite."""
    opposite = reader.add(Factor(x, Fraction(-1)))
    return reader.add(Factor(maximum(reader, opposite, dim, keepdim), Fraction(-1)))


@RULES.function(torch.amin, "amin")
def _amin(reader: Reader, input: SignalNode, dim: Any = (), keepdim: bool = False) -> SignalNode:
    return minimum(reader, input, dim if dim != () else None, keepdim)


@RULES.function(torch.min, "min")
def _min(
    reader: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None
) -> SignalNode | MaxResult:
    if dim is None and other is None:
        return minimum(reader, input, None, False)
    if not isinstance(dim, int):
        return _smaller(reader, input, dim if other is None else other)
    return MaxResult(minimum(reader, input, dim, keepdim))


@RULES.function(torch.minimum, torch.fmin, "minimum", "fmin")
def _smaller(reader: Reader, input: Any, other: Any) -> SignalNode:
    """The smaller entry of two tensors."""
    return _of_two(reader, input, other, torch.minimum, minimum)


@RULES.function("masked_fill", torch.masked_fill, "masked_fill_")
def masked_fill(reader: Reader, input: SignalNode, mask: Any, value: Any) -> SignalNode:
    constant = reader.constant(value)
    value = constant.item() if constant is not None and constant.numel() == 1 else value
    if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
        raise reader.refuse(
            f"it fills with {value!r}; fill with a number, or with float('-inf') on the way to a maximum"
        )
    if isinstance(mask, SignalNode) or (value > -SMALLEST_FILL and value != 0):
        return select(reader, mask, value, input)
    return reader.add(Filled(input, mask, float(value)))


@RULES.function(torch.where)
def _where(reader: Reader, condition: Any, input: Any, other: Any) -> SignalNode:
    return select(reader, condition, input, other)


@RULES.function("where")
def _where_method(reader: Reader, input: Any, condition: Any, other: Any) -> SignalNode:
    return select(reader, condition, input, other)


def _fill(reader: Reader, value: Any) -> float | None:
    """The number that every entry of a constant is."""
    if isinstance(value, (int, float)):
        return float(value)
    constant = value.numbers if isinstance(value, InputNode) else None
    numbers = [] if constant is None else constant.unique().tolist()
    return float(numbers[0]) if len(numbers) == 1 else None


_SPIKING_MASK = (
    "its mask depends on spikes, and is no comparison of an activation's output with a number, such as "
    "torch.relu(x) > 0.5; compute it from the inputs, or write such a comparison"
)


def _select_by_levels(reader: Reader, mask: Any, inside: Any, outside: Any) -> SignalNode:
    """The same by a mask that follows from levels."""
    if not _is_mask(mask):
        raise reader.refuse(_SPIKING_MASK)
    # A choice between masks is a mask again.
    chooses_masks = _is_mask(inside) or _is_mask(outside)
    opposite = _opposite(reader, mask) if chooses_masks else subtract(reader, 1, mask)
    parts = [
        multiply(reader, where, value) for where, value in ((mask, inside), (opposite, outside)) if not _is_zero(value)
    ]
    return added(reader, *parts) if len(parts) == 2 else parts[0] if parts else multiply(reader, mask, 0)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


@RULES.function(operator.invert)
def _opposite(reader: Reader, mask: Any) -> SignalNode:
    """What a mask of levels leaves out: a mask again."""
    found = reader.by_level(mask, torch.logical_not) if _is_mask(mask) else None
    if found is None:
        raise reader.refuse(_SPIKING_MASK)
    return found


@RULES.function(operator.and_, torch.logical_and, "logical_and")
def _both(reader: Reader, input: Any, other: Any) -> SignalNode:
    """Where both masks hold."""
    if not (_is_mask(input) and _is_mask(other)):
        raise reader.refuse(_SPIKING_MASK)
    return multiply(reader, input, other)


@RULES.function(operator.or_, torch.logical_or, "logical_or")
def _either(reader: Reader, input: Any, other: Any) -> SignalNode:
    """Where one mask holds, or, where it does not, the other."""
    first, second = (input, other) if isinstance(input, SignalNode) else (other, input)
    return added(reader, first, _both(reader, _opposite(reader, first), second))


def _is_mask(value: Any) -> bool:
    return isinstance(value, (SignalNode, InputNode)) and is_boolean(value)


def select(reader: Reader, mask: Any, inside: Any, outside: Any) -> SignalNode:
    """`inside` where the mask holds, else `outside`: both times masks, and added."""
    if not isinstance(mask, InputNode):
        return _select_by_levels(reader, mask, inside, outside)
    parts: list[SignalNode] = []
    for value, where in ((inside, mask), (outside, reader.call("torch.logical_not", mask))):
        fill = _fill(reader, value)
        if fill is not None and fill <= -SMALLEST_FILL:
            return masked_fill(reader, outside if where is mask else inside, where, fill)
        if isinstance(value, SignalNode):
            parts.append(reader.apply(TimesInput(), value, where))
            continue
        constant = known(reader, value)
        if constant is None or constant.dim() > 0 or bool(constant):  # a zero leaves the other side as it is
            parts.append(reader.signal(reader.call("operator.mul", where, value, filled=constant)))
    return added(reader, *parts) if len(parts) == 2 else parts[0]
