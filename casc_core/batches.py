"""Batches as users hand them over: a tensor, or a tuple of a network's inputs and perhaps more, such as labels."""

from __future__ import annotations

from typing import Any


def parted(batch: Any, takes: int) -> tuple[tuple[Any, ...], Any]:
    """The inputs of a network that takes so many, and what stands next in the batch: its labels, None if there are none.

    >>> parted(("tokens", "lengths", "labels"), 2), parted("images", 1)
    ((('tokens', 'lengths'), 'labels'), (('images',), None))
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return parts[:takes], parts[takes] if len(parts) > takes else None
