"""Sealed tensors: weights that must not change any more, and how a change is noticed."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from casc_core.engine.signal import memory_order

# As many entries of a tensor are looked at before each run; a change of all of them is seen in any.
_LOOKED_AT = 64


class Sealed:
    """A tensor as it was when it was sealed.

    torch lets a tensor be edited in more ways than can be refused. In place, it counts a version up; through `.data`, a
    storage or a NumPy view it does not, so some entries are compared at each look, and all of them at a thorough one.

    >>> tensor = torch.zeros(1000)
    >>> sealed = Sealed(tensor)
    >>> sealed.holds(tensor), sealed.holds(tensor.clone())
    (True, False)
    >>> tensor.data[1] = 1.0
    >>> sealed.holds(tensor), sealed.holds(tensor, thorough=True)
    (True, False)
    >>> _ = tensor.data.add_(1.0)
    >>> sealed.holds(tensor)
    False
    """

    def __init__(self, tensor: Tensor, before: Sealed | None = None) -> None:
        """`before`: as what it was sealed in another place."""
        self.tensor, self.version = tensor, tensor._version
        self._look()
        self.checksum: int = _checksum(tensor) if before is None else before.checksum
        self.entries: bytes | None = self._entries() if before is None or before.entries is None else before.entries

    def holds(self, tensor: Tensor | None, thorough: bool = False) -> bool:
        """Whether `tensor` is the one that was sealed, and as it was."""
        if tensor is not self.tensor or tensor._version != self.version:
            return False
        if tensor.data_ptr() != self.address:
            self._look()  # moved, as into shared memory
        if self.some is not None and self.some.tobytes() != self.entries:
            return False
        return not thorough or _checksum(tensor) == self.checksum

    def __getstate__(self) -> dict[str, Any]:
        return {"checksum": self.checksum, "entries": self.entries}

    def _look(self) -> None:
        self.address = self.tensor.data_ptr()
        self.some = _some(self.tensor)

    def _entries(self) -> bytes | None:
        return None if self.some is None else self.some.tobytes()


class Composition:
    """What something is made of, to notice when something else stands in the place of a part.

    >>> parts = [[1], [2]]
    >>> made_of = Composition(parts)
    >>> made_of.is_of(parts), made_of.is_of([parts[0], [2]]), made_of.is_of(parts[:1])
    (True, False, False)
    """

    def __init__(self, parts: Iterable[object]) -> None:
        self.parts = list(parts)

    def is_of(self, parts: Sequence[object]) -> bool:
        """Whether these are the very same parts."""
        return len(parts) == len(self.parts) and all(map(operator.is_, parts, self.parts))


def checksum(tensors: Iterable[Tensor]) -> int:
    """Of all entries of these tensors, in order.

    >>> checksum([torch.zeros(2)]) == checksum([torch.zeros(2)]) != checksum([torch.zeros(1), torch.ones(1)])
    True
    """
    found = 0
    for tensor in tensors:
        if tensor.numel() and not tensor.is_meta:
            found = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _bytes(tensor: Tensor) -> NDArray[Any]:
    """`[entries, bytes]` of a CPU tensor without gaps, in memory order; a view of its memory."""
    order = memory_order(tensor)
    assert order is not None
    flat = tensor.detach().permute(order).reshape(-1)
    array: NDArray[Any] = flat.view(torch.uint8).numpy()
    return array.reshape(len(flat), -1)


def _some(tensor: Tensor) -> NDArray[Any] | None:
    """Some entries, evenly spaced, as a view of memory; None: on another device, where a look would take too long."""
    if tensor.device.type != "cpu" or not tensor.numel():
        return None
    return _bytes(tensor)[:: -(-tensor.numel() // _LOOKED_AT)]


def _checksum(tensor: Tensor) -> int:
    if tensor.device.type == "meta" or not tensor.numel():
        return 0
    return zlib.crc32(_bytes(tensor.cpu()).data)
