"""The table of the functions that a program may call; `registered` fills it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodDescriptorType
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import ConfigError, InputError

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)
Size = Callable[[tuple[Any, ...], Mapping[str, Any]], int]


@dataclass(frozen=True)
class Function:
    """A function that a program may call.

    Attributes:
        name: what saved networks call it: its own name, behind that of what it belongs to.
        call: the function itself.
        rule: what it does to the samples of a batch, called as `rule(follower, function, *args, **kwargs)` with what is
            known of its arguments before a run.
        size: how many elements its result has, or more, from its arguments; None: never more than it is given.
        rearranges: each entry of its result is one of its argument, or zero, so that it may be called on a signal.
    """

    name: str
    call: Callable[..., Any]
    rule: Rule
    size: Size | None = None
    rearranges: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def makes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """How many elements it would make, or more; 0 where they are never more than it is given."""
        of_tensors = self.name.startswith(("Tensor.", "F."))
        if self.size is None or (of_tensors and not (args and isinstance(args[0], Tensor))):
            return 0
        return int(self.size(args, kwargs))


@dataclass(frozen=True)
class _Method:
    """A method of tensors as a function; unlike a closure it can be pickled."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tensor) and not (isinstance(x, torch.Size) and self.name == "numel"):
            raise InputError(f"{self.name}() of a {type(x).__name__}: a network calls methods of tensors alone")
        return getattr(x, self.name)(*args, **kwargs)


# What torch moves whatever its type.
_OF_ANY_TYPE = {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}


@dataclass(frozen=True)
class _Rearrangement:
    """A function of `torch.nn.functional` that moves entries. Where torch knows it for floating point alone, whole numbers
    up to 2**53 go through that and back, or bytes through those without a sign."""

    name: str

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        call = getattr(F, self.name)
        if x.is_floating_point() or self._takes_any_type(*args, **kwargs):
            return cast(Tensor, call(x, *args, **kwargs))
        if self.name == "interpolate" and x.dtype == torch.int8:
            return cast(Tensor, call(x.view(torch.uint8), *args, **kwargs).view(torch.int8))
        return cast(Tensor, call(x.double(), *args, **kwargs).to(x.dtype))

    def _takes_any_type(self, *args: Any, **kwargs: Any) -> bool:
        mode = args[1] if len(args) > 1 else kwargs.get("mode", "constant")
        return self.name in _OF_ANY_TYPE or (self.name == "pad" and mode == "constant")


_OWNERS: Mapping[str, Callable[[str], Callable[..., Any]]] = {
    "Tensor": _Method,
    "torch": lambda name: getattr(torch, name),
    "F": _Rearrangement,
    "operator": lambda name: getattr(operator, name),
    "math": lambda name: getattr(math, name),
}

FUNCTIONS: dict[str, Function] = {}
"""By name: all that a network can call, and so all that one that is loaded can."""


def functions(owners: str, names: str, size: Size | None = None, rearranges: bool = False) -> Callable[[RuleT], RuleT]:
    """Decorator of the rule of these functions, which registers them.

    Args:
        owners: where each is found: "Tensor" (a method), "torch", "F", "operator", "math".
        names: their names there.
        size, rearranges: as of a `Function`.

    Raises:
        ConfigError: one is registered already.
    """

    def register(rule: RuleT) -> RuleT:
        for owner in owners.split():
            for name in names.split():
                _add(Function(f"{owner}.{name}", _OWNERS[owner](name), rule, size, rearranges))
        return rule

    return register


def function(name: str, call: Callable[..., Any], size: Size | None = None) -> Callable[[RuleT], RuleT]:
    """Decorator of the rule of a function that is found in none of these, which registers it under this name."""

    def register(rule: RuleT) -> RuleT:
        _add(Function(name, call, rule, size))
        return rule

    return register


def name_of(target: Any, is_method: bool) -> str | None:
    """The name under which `target` stands in the table, or None; an operation in place stands under its plain name."""
    if is_method:
        name = f"Tensor.{target}"
        name = name if name in FUNCTIONS else name.removesuffix("_")
        return name if name in FUNCTIONS else None
    if isinstance(target, MethodDescriptorType):  # a method called on a parameter, which is no proxy
        return name_of(target.__name__, True)
    return _NAMES.get(id(target))


_NAMES = {id(getattr): "getattr"}
_NAMES |= {
    id(getattr(operator, f"i{name}")): f"operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv")
}


def _add(function: Function) -> None:
    if function.name in FUNCTIONS:
        raise ConfigError(f"the function {function.name!r} is registered already")
    FUNCTIONS[function.name] = function
    _NAMES[id(function.call)] = function.name
