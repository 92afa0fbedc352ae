"""Is what a module says of its populations what its forward, which people run, does?

A lowering is held against what a module says (`Observable.observed`). If its forward rounds otherwise, the lowering is that
of another network. So the two are compared: the forward's output must be what follows from the levels of the populations,
and these must be what they see, rounded down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.activation import Observable
from casc_core.evidence.lowering_report import Fault, LayerLowering

# Two float64 evaluations of one sum are this near, relative to the largest of an output; levels lie much farther apart.
_ROUNDING = 1e-9
# What a population sees is no farther beside an edge between two levels, if its level is the one beyond.
_EDGE = 1e-6


def disagreement(name: str, own: Any, observed: Any) -> LayerLowering | None:
    """Where a forward's output is not what is observed; None: nowhere.

    Args:
        name: of the call.
    """
    given, found = list(_tensors(own)), list(_tensors(observed))
    if len(given) != len(found):
        return LayerLowering(name, 1, 1, 0, Fault(None, f"{len(given)} tensors", f"{len(found)}"))
    for one, other in zip(given, found, strict=True):
        if one.shape != other.shape:
            fault = Fault(None, str(list(one.shape)), str(list(other.shape)))
            return LayerLowering(name, other.numel(), other.numel(), 0, fault)
        if torch.equal(one, other):
            continue
        one, other = one.double(), other.double()
        apart = (one - other).abs_() > _ROUNDING * other.abs().amax()
        apart |= one.isnan() != other.isnan()
        if bool(apart.any()):
            at = tuple(int(index) for index in apart.nonzero()[0])
            fault = Fault(at, f"{float(one[at]):.6g}", f"{float(other[at]):.6g}")
            return LayerLowering(name, one.numel(), int(apart.sum()), 0, fault)
    return None


def left_to_itself(
    name: str, module: Observable[Any], own: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> LayerLowering | None:
    """The same of a module whose populations are at levels of their own.

    Args:
        own: its forward's output.
        args, kwargs: what it was given.
    """
    ranges = module.ranges()
    _, before = module.observed([None] * len(ranges), *args, **kwargs)
    levels = [z.floor().clamp_(*ends) for z, ends in zip(before, ranges, strict=True)]
    output, seen = module.observed(levels, *args, **kwargs)
    for population, z, level, ends in zip(module.populations(), seen, levels, ranges, strict=True):
        wrong = (z + _EDGE).floor().clamp_(*ends) < level
        wrong |= (z - _EDGE).floor().clamp_(*ends) > level
        if bool(wrong.any()):
            at = tuple(int(index) for index in wrong.nonzero()[0])
            fault = Fault(at, f"level {int(level[at])}", f"{float(z[at]):.6g} levels")
            return LayerLowering(name + population, z.numel(), int(wrong.sum()), 0, fault)
    return disagreement(name, own, output)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
