"""The functions a lowered network may call, by name: on its inputs (tokens, lengths, masks), or on a signal's layout.

A saved network names them, so only what stands here can ever be called by one that is loaded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodDescriptorType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.conditions import expect
from casc_core.errors import InputError

# Rearranging elements: linear with coefficients 0 and 1, so allowed on signals as well.
_LAYOUT_METHODS = (
    "view reshape flatten permute transpose t squeeze unsqueeze contiguous expand select narrow chunk split unbind "
    "index_select gather flip roll movedim swapaxes clone detach unflatten tile repeat"
).split()
_LAYOUT_FUNCTIONS = (
    "reshape flatten permute transpose t squeeze unsqueeze select narrow chunk split unbind index_select gather flip "
    "roll movedim swapaxes clone tile unflatten"
).split()
# Rearrangements of images, called through torch.nn.functional.
_LAYOUT_OF_IMAGES = ("pad", "interpolate", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
_INPUT_METHODS = (
    "add sub mul div ne eq lt le gt ge logical_and logical_or logical_not bitwise_and float long int bool double to "
    "type type_as clamp clamp_min clamp_max sum amax amin max min any all cumsum masked_fill size dim numel "
    "new_zeros new_ones item abs neg remainder argmax count_nonzero cpu pow sqrt sort argsort requires_grad_"
).split()
_INPUT_FUNCTIONS = (
    "add sub mul div ne eq lt le gt ge logical_and logical_or logical_not arange zeros ones full zeros_like ones_like "
    "full_like clamp sum amax amin max min any all cumsum where cat stack masked_fill abs neg remainder argmax "
    "count_nonzero floor_divide pow sqrt sort argsort"
).split()
_OPERATORS = "add sub mul truediv floordiv mod ne eq lt le gt ge and_ or_ not_ invert neg getitem pow".split()
_MATH = ("ceil", "floor", "sqrt")
FLOATING = (torch.float32, torch.float64)
"""Types to which a cast of spike counts rounds nothing."""


@dataclass(frozen=True)
class _Method:
    """A method of tensors as a function; unlike a closure it can be pickled."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, self.name)(*args, **kwargs)


@dataclass(frozen=True)
class _ByValue:
    """A rearrangement that torch knows for floating point alone; whole numbers up to 2**53 go through it and back."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved: Tensor = getattr(F, self.name)(x.double(), *args, **kwargs)
        return moved.to(x.dtype)


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


def _named() -> dict[str, Callable[..., Any]]:
    table: dict[str, Callable[..., Any]] = {"getattr": getattr}
    for name in _LAYOUT_OF_IMAGES:
        table[f"F.{name}"] = _ByValue(name)
    for name in {*_LAYOUT_METHODS, *_INPUT_METHODS}:
        table[f"Tensor.{name}"] = _Method(name)
    for name in {*_LAYOUT_FUNCTIONS, *_INPUT_FUNCTIONS}:
        if hasattr(torch, name):
            table[f"torch.{name}"] = getattr(torch, name)
    for name in _OPERATORS:
        table[f"operator.{name}"] = getattr(operator, name)
    for name in _MATH:
        table[f"math.{name}"] = getattr(math, name)
    table["expect"], table["require_floating"] = expect, require_floating
    return table


FUNCTIONS = _named()
LAYOUT = (
    {f"Tensor.{name}" for name in _LAYOUT_METHODS}
    | {f"torch.{name}" for name in _LAYOUT_FUNCTIONS if hasattr(torch, name)}
    | {f"F.{name}" for name in _LAYOUT_OF_IMAGES}
    | {"operator.getitem"}
)
_NAMES = {id(function): name for name, function in FUNCTIONS.items()}
_NAMES |= {
    id(getattr(operator, f"i{name}")): f"operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv")
}
ATTRIBUTES = ("shape", "device", "dtype", "ndim", "T", "mT")


def name_of(target: Any, is_method: bool) -> str | None:
    """The name under which `target` stands in the table, or None; an operation in place stands under its plain name."""
    if is_method:
        name = f"Tensor.{target}"
        name = name if name in FUNCTIONS else name.removesuffix("_")
        return name if name in FUNCTIONS else None
    if isinstance(target, MethodDescriptorType):  # a method called on a parameter, which is no proxy
        return name_of(target.__name__, True)
    return _NAMES.get(id(target))
