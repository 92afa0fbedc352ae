"""Rules of sums, means and maxima over dimensions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from casc_core.conversion.graph import Applied, Factor, Filled, InputNode, Maximum, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.passes.returned import Unreadable
from casc_core.conversion.rules.arithmetic import add, known
from casc_core.conversion.rules.casts import require_floating_type
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Max, Sum, TimesInput

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


_OF_TWO = (
    "it is an elementwise maximum of two tensors. With zeros it is a ReLU: write torch.relu(x); else take a maximum over a "
    "dimension of their stack, torch.stack([a, b]).amax(0)"
)
_LESS_OF_TWO = (
    "it is an elementwise minimum of two tensors; take a minimum over their stack, torch.stack([a, b]).amin(0)"
)
RULES.refuse(_OF_TWO, torch.maximum, torch.fmax, "maximum", "fmax")
RULES.refuse(_LESS_OF_TWO, torch.minimum, torch.fmin, "minimum", "fmin")


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
        raise reader.refuse(_OF_TWO)
    return MaxResult(maximum(reader, input, dim, keepdim))


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
        raise reader.refuse(_LESS_OF_TWO)
    return MaxResult(minimum(reader, input, dim, keepdim))


@RULES.function("masked_fill", torch.masked_fill, "masked_fill_")
def masked_fill(reader: Reader, input: SignalNode, mask: Any, value: Any) -> SignalNode:
    if not isinstance(mask, InputNode):
        raise reader.refuse("its mask depends on spikes; a mask must be computed from the inputs")
    constant = reader.constant(value)
    value = constant.item() if constant is not None and constant.numel() == 1 else value
    if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
        raise reader.refuse(
            f"it fills with {value!r}; fill with a number, or with float('-inf') on the way to a maximum"
        )
    if value > -SMALLEST_FILL and value != 0:
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


def select(reader: Reader, mask: Any, inside: Any, outside: Any) -> SignalNode:
    """`inside` where the mask holds, else `outside`: both times masks, and added."""
    if not isinstance(mask, InputNode):
        raise reader.refuse("its mask depends on spikes; a mask must be computed from the inputs")
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
    return add(reader, *parts) if len(parts) == 2 else parts[0]
