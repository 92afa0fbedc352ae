"""What a network may read of a tensor that it computes: a few attributes; and types of numbers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError

FLOATING = (torch.float32, torch.float64)
"""Types to which a cast of spike counts rounds nothing."""
ATTRIBUTES = ("shape", "device", "dtype", "ndim", "T", "mT")
"""What a network may read of a signal."""
_READ: dict[type, frozenset[str]] = {
    Tensor: frozenset((*ATTRIBUTES, "H", "mH", "data", "is_cuda", "requires_grad", "itemsize", "nbytes")),
    torch.device: frozenset(("type", "index")),
    torch.dtype: frozenset(("is_floating_point", "itemsize")),
}
"""What it may read of what is computed from its inputs."""
FIELDS = ("values", "indices")
DTYPES: Mapping[str, torch.dtype] = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
        torch.float32, torch.float64,
    )
}  # fmt: skip
"""The types of numbers that a network may name."""


def may_read(name: str) -> bool:
    """Whether a network may read an attribute of this name of anything that is computed from its inputs."""
    return name in FIELDS or any(name in known for known in _READ.values())


def read_attribute(value: Any, name: str) -> Any:
    """An attribute of a tensor, a device or a type; or one of the two parts of what `max` and `sort` return."""
    if isinstance(value, tuple) and name in FIELDS and len(value) == len(FIELDS):
        return value[FIELDS.index(name)]
    for kind, known in _READ.items():
        if isinstance(value, kind) and name in known:
            return getattr(value, name)
    said = repr(name) if isinstance(name, str) else f"an attribute named by a {type(name).__name__}"
    raise InputError(f"a network cannot read {said:.80} of a {type(value).__name__}")


def require_floating(target: Any) -> None:
    """Raise `InputError` if a cast to this type, or to the type of this tensor, would round; a device is no type.

    >>> require_floating(torch.zeros(1)), require_floating(torch.device("cpu"))
    (None, None)
    """
    kind = target.dtype if isinstance(target, Tensor) else target
    if isinstance(kind, torch.dtype) and kind not in FLOATING:
        raise InputError(
            f"the network casts a spiking tensor to the type of an input, {kind}, which rounds it; give that input as "
            "torch.float32, or leave the cast out"
        )
