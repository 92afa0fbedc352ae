"""A cache of what is derived from weights, valid as long as they are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class WeightCache:
    """Things made from one tensor; all are made anew when it is another one, or has been changed in place."""

    def __init__(self) -> None:
        # The tensor, its version, and what was made of it: one tuple, so that threads see all of it or none.
        self._made: tuple[Tensor | None, int, dict[Hashable, Any]] = (None, 0, {})

    def __call__(self, weight: Tensor, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for this key when it was first asked for.

        >>> import torch
        >>> cache, weight = WeightCache(), torch.ones(2)
        >>> cache(weight, "sum", lambda: float(weight.sum())), cache(weight, "sum", lambda: 0.0)
        (2.0, 2.0)
        >>> _ = weight.add_(1)
        >>> cache(weight, "sum", lambda: float(weight.sum()))
        4.0
        """
        version = 0 if weight.is_inference() else weight._version
        owner, made_at, made = self._made
        if weight is not owner or version != made_at:
            made = {}
            self._made = weight, version, made
        if key not in made:
            made[key] = make()
        result: T = made[key]
        return result
