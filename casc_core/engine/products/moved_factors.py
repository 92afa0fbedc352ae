"""The factor of each channel, once entries of a tensor have been moved."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.signal import Rearrangement, without_repeats


def moved_factors(function: Callable[[Tensor], Tensor], factors: Tensor, size: torch.Size) -> Tensor | None:
    """The factor of each channel, once a function has moved entries of a tensor of this size; None: some have several."""
    if not bool(factors.all()):  # zero is what is filled in, whatever the factor
        return None
    values, kinds = factors.unique(return_inverse=True)
    find = _moved_kinds if isinstance(function, Rearrangement) else _moved_kinds.__wrapped__
    moved = find(function, tuple(kinds.tolist()), size)
    # Where there is nothing but what is filled in, any will do.
    return (
        None if moved is None else torch.tensor([1.0, *values.tolist()], dtype=torch.float64, device="cpu")[list(moved)]
    )


@lru_cache(maxsize=256)
def _moved_kinds(
    function: Callable[[Tensor], Tensor], kinds: tuple[int, ...], size: torch.Size
) -> tuple[int, ...] | None:
    """Of which kind, from 1, each channel is once a function has moved entries; 0: of none. None: some are of several."""
    numbers = torch.tensor(kinds, device="cpu") + 1
    numbers = numbers.to(torch.int8 if max(kinds) < kernels.LARGEST_COUNT else torch.float64)  # as trains may be
    moved = without_repeats(function(numbers.reshape(-1, *[1] * (len(size) - 2)).expand(size)))
    moved = moved.transpose(0, 1).flatten(1)
    if not moved.numel():
        return None
    own = moved.amax(1)
    if not bool(((moved == own[:, None]) | (moved == 0)).all()):
        return None
    return tuple(own.long().tolist())
