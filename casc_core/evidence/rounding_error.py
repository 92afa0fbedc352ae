"""How far sums of float64 may be off: an error analysis that runs beside a network's own forward.

A sum of n terms is off by at most `n 2**-53` times the sum of the terms' magnitudes, in whatever order it is taken; through
operations one behind another the n add up (Higham 2002, "Accuracy and Stability of Numerical Algorithms", sections 3.1 and
4.2). So a forward is evaluated once more with magnitudes in the place of numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from casc_core.engine.leaves import leaves

# Two float64 evaluations differ by at most twice what one is off.
TWO_ROUNDINGS = 2.0**-52

_DIFFERENCES = frozenset(("sub", "subtract", "rsub", "isub"))
_SUMS = frozenset(("add", "iadd", "radd"))
_IN_PLACE = frozenset(("__setitem__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__"))
_PRODUCTS = frozenset(
    ("linear", "matmul", "rmatmul", "mm", "bmm", "mv", "dot", "einsum", "addmm", "baddbmm", "bilinear")
)
_SQUASHING = frozenset(("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign"))
# No function that goes entry by entry, a normalisation included, rounds more often.
_ENTRY_BY_ENTRY = 6


class Magnitudes(TorchFunctionMode):
    """Within the block, torch's functions compute with magnitudes: a difference is a sum, what is negative is positive.

    What is infinite stays as it is: a fill that a maximum leaves behind.

    Attributes:
        roundings: how often what a function gives may have been rounded, over all functions called so far.

    >>> x = torch.tensor([3.0, -5.0])
    >>> with Magnitudes() as magnitudes:
    ...     y = (x - 1.0) @ torch.tensor([2.0, -2.0])
    >>> float(y), magnitudes.roundings > 2
    (20.0, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.roundings = 0

    @property
    def relative_error(self) -> float:
        """What two evaluations in float64 may differ by, for each unit of magnitude."""
        return self.roundings * TWO_ROUNDINGS

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        full = getattr(func, "__name__", "")
        name = full.strip("_")
        given, named = _magnitude(tuple(args)), _magnitude(dict(kwargs or {}))
        in_place = full in _IN_PLACE or (full.endswith("_") and not full.endswith("__"))
        if in_place and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            given = (args[0].copy_(given[0]), *given[1:])
        if name in _DIFFERENCES or name in _SUMS:
            given, named = _positive(given), _positive(named)
            result = (Tensor.add_ if in_place else torch.add)(*given, **named)
        elif name in ("neg", "negative", "positive", "abs"):
            result = given[0]
        elif name == "batch_norm":
            result = func(*given[:1], *_negative_mean(given[1:]), **named)
        elif name in _SQUASHING:  # an error goes through them without growing, whatever the size of what they give
            result = func(*given, **named) + given[0]
        else:
            result = func(*given, **named)
        self.roundings += _roundings(name, given, result)
        return result


def _magnitude(value: Any) -> Any:
    """Every real number without its sign."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.where(value.isinf(), value, value.abs())
    if type(value) in (tuple, list):
        return type(value)(_magnitude(item) for item in value)
    if type(value) is dict:
        return {key: _magnitude(item) for key, item in value.items()}
    return value


def _positive(value: Any) -> Any:
    """The arguments of a sum, its plain numbers without their signs."""
    if type(value) is tuple:
        return tuple(_positive(item) for item in value)
    if type(value) is dict:
        return {key: _positive(item) for key, item in value.items()}
    return abs(value) if type(value) in (int, float) else value


def _negative_mean(rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """Behind the input, what `torch.nn.functional.batch_norm` takes: the mean is subtracted."""
    mean, *others = rest
    return (None if mean is None else -mean, *others)


def _roundings(name: str, given: tuple[Any, ...], result: Any) -> int:
    """How often each entry of a function's result may have been rounded: the terms of its sum, and a few."""
    if not (isinstance(result, Tensor) and result.is_floating_point() and result.numel()):
        return 0
    tensors = [each for each in leaves(given) if isinstance(each, Tensor) and each.is_floating_point() and each.dim()]
    if not tensors:
        return 1
    if name.startswith("conv") and len(tensors) > 1:
        weight = tensors[1]
        return weight.numel() // min(weight.shape[:2]) + 1
    if name in _PRODUCTS:
        return max(each.numel() // (len(each) if each.dim() > 1 else 1) for each in tensors) + 1
    if "pool" in name or name in ("interpolate", "upsample"):
        return tensors[0][0, 0].numel() + 1
    if name in ("cumsum", "cumprod", "logcumsumexp"):
        return tensors[0].numel()
    return max(each.numel() for each in tensors) // result.numel() + _ENTRY_BY_ENTRY
