"""What is made from weights once and used again, as long as they stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Kept:
    """Things made from one tensor; all are made anew when it is another one, or has been changed in place."""

    def __init__(self) -> None:
        # The tensor, its version, and what was made of it: one tuple, so that threads see all of it or none.
        self._kept: tuple[Tensor | None, int, dict[Hashable, Any]] = (None, 0, {})

    def __call__(self, weight: Tensor, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for this key when it was first asked for.

        >>> import torch
        >>> kept, weight = Kept(), torch.ones(2)
        >>> kept(weight, "sum", lambda: float(weight.sum())), kept(weight, "sum", lambda: 0.0)
        (2.0, 2.0)
        >>> _ = weight.add_(1)
        >>> kept(weight, "sum", lambda: float(weight.sum()))
        4.0
        """
        version = 0 if weight.is_inference() else weight._version
        owner, made_at, kept = self._kept
        if weight is not owner or version != made_at:
            kept = {}
            self._kept = weight, version, kept
        if key not in kept:
            kept[key] = make()
        result: T = kept[key]
        return result
