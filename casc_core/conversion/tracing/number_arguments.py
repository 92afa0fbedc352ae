"""Proxies in the place of numbers: torch's compiled functions and methods are recorded before they look at their arguments.

From torch 2.9.1 on, nearly every compiled function asks the stand-in (`__torch_function__`) first. A few are left that see
a wrong type instead: those that take sizes one by one, and an index. Before, that was so wherever a number is wanted:
`torch.arange(x.shape[1])`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

_NUMBERS = ("int", "SymInt", "float", "number")


@cache
def functions() -> frozenset[int]:
    """The ids of the functions in `torch` and `torch.nn.functional` that are to be recorded as soon as they get a proxy."""
    # Sizes one by one, as in torch.zeros(n, 2), are no stand-in to any torch; torch.tensor looks for a sequence.
    always = (torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.tensor)
    found = {id(function) for function in always}
    if not _torch_asks():
        # Those without numbers stay the objects that they are: a forward may ask whether its activation is torch.relu.
        found |= {
            id(function)
            for module in (torch, F)
            for name, function in vars(module).items()
            if inspect.isbuiltin(function)
            and _takes_numbers(name)
            and function is not torch.as_tensor  # data, as a whole
        }
    return frozenset(found)


@contextmanager
def recorded_methods() -> Iterator[None]:
    """While it is entered, a method of a tensor with numbers of its own may be called with proxies, as in
    `self.start.expand(x.shape[0], -1)` and `self.places[: x.shape[1]]`, whatever torch says.

    >>> with recorded_methods():
    ...     print(torch.ones(1, 2).expand(2, -1)[:1].shape)
    torch.Size([1, 2])
    """
    own, compiled = vars(Tensor), vars(torch._C.TensorBase)
    methods = {
        name: method
        for name, method in compiled.items()
        if name in _NEVER_ASKING
        or (not _torch_asks() and inspect.ismethoddescriptor(method) and name not in own and _takes_numbers(name))
    }
    for name, method in methods.items():
        setattr(Tensor, name, _recorded(name, method))
    try:
        yield
    finally:
        for name in methods:
            delattr(Tensor, name)


_NEVER_ASKING = frozenset(("__getitem__", "expand", "new_empty", "new_ones", "new_zeros"))


def _recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    kind, target = ("call_function", operator.getitem) if name == "__getitem__" else ("call_method", name)

    @wraps(method)
    def record(*args: Any, **kwargs: Any) -> Any:
        proxies: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda each: proxies.append(each) if isinstance(each, fx.Proxy) else None)
        return proxies[0].tracer.create_proxy(kind, target, args, kwargs) if proxies else method(*args, **kwargs)

    return record


@cache
def _takes_numbers(name: str) -> bool:
    """Whether an operation of that name has an argument that is a number, or a list of them, and gives no list of tensors.

    >>> _takes_numbers("arange"), _takes_numbers("relu"), _takes_numbers("chunk")
    (True, False, False)
    """
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    if any(str(each.type) == "List[Tensor]" for schema in schemas for each in schema.returns):
        return False  # a trace gives their parts, not one proxy, which torch.fx's own recording cannot
    return any(number in str(each.type) for schema in schemas for each in schema.arguments for number in _NUMBERS)


class _StandIn:
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> bool:
        return True


@cache
def _torch_asks() -> bool:
    """Whether this torch asks what stands for a number, before it looks for a number."""
    try:
        return bool(torch.arange(_StandIn()))  # type: ignore[call-overload]  # no number, which is what is tried
    except TypeError:
        return False
