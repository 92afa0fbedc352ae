"""Evaluation in float64 of a forward that was written for another type."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NARROW = frozenset((torch.float32, torch.float16, torch.bfloat16))
_CASTS = frozenset((Tensor.float, Tensor.half, Tensor.bfloat16))


@contextmanager
def in_float64() -> Iterator[None]:
    """Within, torch computes in float64 whatever it is asked for: casts, `dtype=`, numbers without a type, narrow tensors.

    The default type of torch is that of the whole process, so it is float64 while any thread is inside.

    >>> with in_float64():
    ...     x = torch.tensor([1, 2]).float() / 3 + torch.zeros(2, dtype=torch.float16)
    >>> x.dtype, torch.get_default_dtype()
    (torch.float64, torch.float32)
    """
    with _DEFAULT, torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), _Widened():
        yield


def widened(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs with every real number in float64."""
    return _wide(tuple(inputs)), _wide(dict(named))


class _Widened(TorchFunctionMode):
    """Every floating-point type is float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given, named = _wide(tuple(args)), _wide(dict(kwargs or {}))
        name = getattr(func, "__name__", "")
        if args and (name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))):
            given = (args[0], *given[1:])  # what is changed in place stays the tensor that it is
        return (Tensor.double if func in _CASTS else func)(*given, **named)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _NARROW else value
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _NARROW else value
    if type(value) in (tuple, list):
        return type(value)(_wide(item) for item in value)
    if type(value) is dict:
        return {key: _wide(item) for key, item in value.items()}
    return value


class _DefaultType:
    """The process-wide type of numbers without one, float64 while any thread is inside; then as it was before."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float64)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                torch.set_default_dtype(self.before)


_DEFAULT = _DefaultType()
