"""Evaluation in float64 of a forward that was written for another type."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NARROW = frozenset((torch.float32, torch.float16, torch.bfloat16))
_NUMBERS = frozenset((int, float, bool, str, type(None), type(Ellipsis)))
_CASTS = frozenset((Tensor.float, Tensor.half, Tensor.bfloat16))


class _WithoutCuDNN:
    """While any thread is inside, the process's products on a GPU are plain: cuDNN may take a transform in between."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = True

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = torch.backends.cudnn.enabled
                torch.backends.cudnn.enabled = False
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                torch.backends.cudnn.enabled = self.before


_WITHOUT_CUDNN = _WithoutCuDNN()


@contextmanager
def in_float64() -> Iterator[None]:
    """Within the block, in this thread, torch computes in float64 whatever is asked for: casts, `dtype=`, narrow tensors.

    What torch makes of whole numbers alone (a quotient, a new tensor) it makes in its default type; it is wide at once.
    Sums of products are plain ones on a GPU too, so that bounds on their rounding hold.

    >>> with in_float64():
    ...     x = torch.tensor([1, 2]).float() / 3 + torch.zeros(2, dtype=torch.float16)
    >>> x.dtype, torch.zeros(2).dtype
    (torch.float64, torch.float32)
    """
    casts = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with casts[0], casts[1], _WITHOUT_CUDNN, _Widened():
        yield


@contextmanager
def already_in_float64() -> Iterator[None]:
    """Within `in_float64`, for what computes in the type of what it is given: of its many calls none is looked at.

    Where anything else looks at them too, all are.

    >>> with in_float64(), already_in_float64():
    ...     torch.zeros(1).double() + 1, (torch.zeros(1) + 1).dtype
    (tensor([1.], dtype=torch.float64), torch.float32)
    """
    alone = torch._C._len_torch_function_stack() == 1
    with torch._C.DisableTorchFunction() if alone else nullcontext():
        yield


def widened(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs with every real number in float64. Not within `in_float64`, where narrow tensors say that they are wide."""
    return _wide(tuple(inputs)), _wide(dict(named))


class _Widened(TorchFunctionMode):
    """Every floating-point type is float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not kwargs and func not in _CASTS and not _holds_narrow(args):  # as nearly all are
            return _wide(func(*args))
        given, named = _wide(args), _wide(kwargs) if kwargs else {}
        name = getattr(func, "__name__", "")
        if args and (name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))):
            given = (args[0], *given[1:])  # what is changed in place stays the tensor that it is
        return _wide((Tensor.double if func in _CASTS else func)(*given, **named))


def _holds_narrow(values: tuple[Any, ...] | list[Any]) -> bool:
    """Whether a narrow tensor or type is among these, or may be."""
    for value in values:
        kind = type(value)
        if kind in _NUMBERS:
            continue
        if isinstance(value, Tensor):
            if value.dtype in _NARROW:
                return True
        elif kind is tuple or kind is list:
            if _holds_narrow(value):
                return True
        elif kind is not slice:
            return True
    return False


def _wide(value: Any) -> Any:
    kind = type(value)
    if kind in _NUMBERS:
        return value
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _NARROW else value
    if kind is tuple or kind is list:
        return kind([_wide(item) for item in value])
    if kind is dict:
        return {key: _wide(item) for key, item in value.items()}
    return torch.float64 if kind is torch.dtype and value in _NARROW else value
