"""The factor of each channel, once entries of a tensor have been moved."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.signal import Rearrangement, without_repeats


def moved_factors(function: Callable[[Tensor], Tensor], factors: Tensor, size: torch.Size) -> Tensor | None:
    """The factor of each channel, once a function has moved entries of a tensor of this size; None: some have several.

    It may be kept: it is not to be edited.
    """
    find = _moved if isinstance(function, Rearrangement) else _moved.__wrapped__
    return find(function, factors.cpu().numpy().tobytes(), size)


@lru_cache(maxsize=256)
def _moved(function: Callable[[Tensor], Tensor], factors: bytes, size: torch.Size) -> Tensor | None:
    """The same of numbers in memory."""
    given = torch.frombuffer(bytearray(factors), dtype=torch.float64)
    if not bool(given.all()):  # zero is what is filled in, whatever the factor
        return None
    values, kinds = given.unique(return_inverse=True)
    numbers = kinds + 1  # 0: of none
    numbers = numbers.to(torch.int8 if len(values) < kernels.LARGEST_COUNT else torch.float64)  # as trains may be
    moved = without_repeats(function(numbers.reshape(-1, *[1] * (len(size) - 2)).expand(size)))
    moved = moved.transpose(0, 1).flatten(1)
    if not moved.numel():
        return None
    own = moved.amax(1)
    if not bool(((moved == own[:, None]) | (moved == 0)).all()):
        return None
    # Where there is nothing but what is filled in, any will do.
    return torch.cat([values.new_ones(1), values])[own.long()]
