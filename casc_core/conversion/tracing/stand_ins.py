"""Stand-ins for tensors, and for what is read of them, while a forward is traced: they answer as the real ones would.

`isinstance(x, torch.Tensor)`, `type(x)` and `hasattr(x, "shape")` in a forward have the answers of a plain run, or a branch
would be left out without a word. What only a run can know is refused, also where the forward would catch the error.
"""

from __future__ import annotations

import builtins
import dis
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinMethodType, FrameType, FunctionType, ModuleType
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch.fx import proxy as fx_proxy
from torch.utils._pytree import register_pytree_node

from casc_core.conversion.tracing.frames import LIBRARIES, is_users, user_line
from casc_core.conversion.tracing.kinds import attribute_kind, kind_of
from casc_core.engine.conditions import is_of_sizes
from casc_core.engine.functions import FIELDS
from casc_core.errors import ConversionError

_IDENTITIES = (torch.dtype, torch.device, torch.layout, type(None))


class NoSuchAttributeError(ConversionError, AttributeError):
    """A tensor has no such attribute: to `hasattr`, an answer."""


def refused(stand_in: Any, error: Exception) -> NoReturn:
    """Raise the error, and keep it in the tracer, should the forward catch it."""
    stand_in.tracer.refused.append(error)
    raise error


def _unknown(stand_in: Any, what: str) -> NoReturn:
    refused(
        stand_in,
        ConversionError(
            f"the forward {what}, which is known only when the network runs: cast with x.to(other) or x.type_as(other), "
            f"which needs no `if`, or hold what it depends on as an attribute of the module\n  at {user_line()}"
        ),
    )


class _StandIn(fx.Proxy):
    """What all have in common."""

    @property
    def kind(self) -> type:
        """What it stands for."""
        tracer: Any = self.tracer
        return kind_of(self.node, tracer.root)

    @property  # type: ignore[misc]  # as unittest.mock does it
    def __class__(self) -> type:
        # Not to compiled code, which would take what it calls a tensor for one, and crash.
        frame = sys._getframe(1)
        return self.kind if is_users(frame) and _operation(frame) in _ASKING else builtins.type(self)

    def __getattr__(self, name: str) -> Any:
        frame = sys._getframe(1)
        if is_users(frame):
            if not hasattr(Tensor, name) and name not in FIELDS and self.kind is Tensor:
                raise NoSuchAttributeError(
                    f"forward: getattr() cannot be converted exactly: it reads the attribute {name!r}, which a tensor does "
                    f"not have\n  at {user_line()}"
                )
            if attribute_kind(name) in _IDENTITIES and _is_compared(frame):
                _unknown(self, f"asks whether the {name} of a tensor is another's")
        return Attribute(self, name)

    def __repr__(self) -> str:
        return _text(self, super().__repr__())

    def __str__(self) -> str:
        return _text(self, super().__repr__())

    def __hash__(self) -> int:
        if is_users(sys._getframe(1)):
            kind = self.kind
            if issubclass(kind, (int, float, torch.Size)):
                refused(self, TypeError("a Proxy as a key cannot be interpreted as an integer"))
            if kind in _IDENTITIES:
                _unknown(self, f"looks up the {kind.__name__} of a tensor, as in a dict or a cache")
        return id(self)

    def __len__(self) -> int:
        length: int | None = self.tracer.length(self)  # type: ignore[attr-defined]  # a tracer of ours
        if length is not None:
            return length
        try:
            return super().__len__()
        except RuntimeError as error:
            refused(self, error)


class Proxy(_StandIn):
    """The stand-in for a tensor, or for what operations make of it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise refusal_of_setting(name)
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[fx.Proxy]:
        frame, tracer = sys._getframe(1), self.tracer
        at = next((each for each in dis.get_instructions(frame.f_code) if each.offset == frame.f_lasti), None)
        if at is not None and at.opname == "UNPACK_SEQUENCE":
            return iter(tracer.parts(self, at.argval))  # type: ignore[attr-defined]  # a tracer of ours
        return tracer.iter(self)


class Attribute(_StandIn, fx_proxy.Attribute):
    """The stand-in for an attribute of a tensor, or for a method of it that is about to be called."""

    @property
    def kind(self) -> type:
        is_method = callable(getattr(Tensor, self.attr, None))
        return BuiltinMethodType if is_method and self.attr not in FIELDS else attribute_kind(self.attr)


Sequence.register(Attribute)  # a shape is one to `match`


class Parts(tuple[Any, ...]):
    """The parts of what `x.chunk(3)` and the like give, with the check of how many they are.

    A forward that takes one by its place asks for no more than that, and gets it without the check.
    """

    whole: Any

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return self.whole[index] if isinstance(index, int) else part


# So that torch.cat and the like find the stand-ins in it, as they do in a tuple.
register_pytree_node(Parts, lambda parts: (list(parts), None), lambda parts, _: tuple(parts))


class ParameterProxy(_StandIn, fx_proxy.ParameterProxy):
    """The stand-in for a parameter: its shape is known."""

    def __init__(self, made: fx_proxy.ParameterProxy) -> None:
        super().__init__(made.tracer, made.node, made.name, made.param)

    @property
    def kind(self) -> type:
        return type(self.param)

    def size(self, dim: int | None = None) -> Any:
        """As it is."""
        return self.param.size() if dim is None else self.param.size(dim)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or name not in ("tracer", "node", "param", "name"):
            raise refusal_of_setting(name)
        super().__setattr__(name, value)


def refusal_of_setting(name: str) -> ConversionError:
    """The error for an attribute that a forward sets on a tensor."""
    return ConversionError(
        f"the forward sets .{name} of a tensor, which a conversion would leave out: constrain weights after each step of "
        "the optimiser, or as a parametrization (torch.nn.utils.parametrize)"
    )


def _operation(frame: FrameType) -> str:
    """The operation that a frame is executing."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]]


_ASKING = frozenset(("LOAD_ATTR", "MATCH_CLASS"))


class _Text(str):
    """What a stand-in is printed as; it is not compared with anything."""

    stand_in: _StandIn

    def _refuse(self, *args: Any) -> NoReturn:
        _unknown(self.stand_in, f"compares how a {self.stand_in.kind.__name__} is printed")

    __eq__ = __ne__ = __contains__ = startswith = endswith = __hash__ = _refuse


def _text(stand_in: _StandIn, plain: str) -> str:
    text = _Text(plain)
    text.stand_in = stand_in
    return text


def _is_compared(frame: FrameType) -> bool:
    """Whether a frame goes on to ask whether what it has just read `is` something that it only loads."""
    ahead = (each.opname for each in dis.get_instructions(frame.f_code) if each.offset > frame.f_lasti)
    for name in ahead:
        if name == "IS_OP" or name.endswith("NONE"):
            return True
        if name not in ("CACHE", "NOT_TAKEN") and not name.startswith("LOAD_"):
            return False
    return False


class _Types(type):
    """The class of what stands for `type` in the modules of a forward: of a stand-in, it gives what that stands for."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        kind = _stands_for(args[0]) if len(args) == 1 else None
        return builtins.type(*args, **kwargs) if kind is None else kind

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.type)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return issubclass(subclass, builtins.type)

    def __getitem__(cls, item: Any) -> Any:
        return builtins.type[item]

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is builtins.type

    def __hash__(cls) -> int:
        return hash(builtins.type)


class _Type(type, metaclass=_Types):
    pass


def _stands_for(value: Any) -> type | None:
    if builtins.type(value) is Parts:
        return tuple
    return value.kind if issubclass(builtins.type(value), _StandIn) else None


def _isinstance(value: Any, kinds: Any) -> bool:
    kind = _stands_for(value)
    if kind is None:
        return isinstance(value, kinds)
    if any(builtins.type(each) is _OF_A_TYPE for each in (kinds if isinstance(kinds, tuple) else (kinds,))):
        _unknown(value, "asks for the type of a tensor's numbers")
    return issubclass(kind, kinds)


def _callable(value: Any) -> bool:
    kind = _stands_for(value)
    return callable(value) if kind is None else kind is BuiltinMethodType


def _of_sizes(chosen: Callable[..., Any]) -> Callable[..., Any]:
    """`max` or `min`, which records what it would choose of sizes that only a run knows."""

    def recorded(*args: Any, **kwargs: Any) -> Any:
        values = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
        sizes = [each for each in values if isinstance(each, fx.Proxy) and is_of_sizes(each.node)]
        numbers = all(builtins.type(each) in (int, float) for each in values if each not in sizes)
        if not sizes or not numbers or len(values) < 2 or kwargs:
            return chosen(*args, **kwargs)
        return sizes[0].tracer.create_proxy("call_function", chosen, tuple(values), {})

    return recorded


_BUILTINS: dict[str, Any] = {
    "type": _Type,
    "isinstance": _isinstance,
    "callable": _callable,
    "max": _of_sizes(max),
    "min": _of_sizes(min),
}
_OF_A_TYPE = builtins.type(torch.FloatTensor)
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"


class Builtins:
    """`isinstance`, `type`, `callable`, `max` and `min` in the modules of a forward: of what stands in for tensors and
    sizes, they say what they say of those.

    >>> def forward(x):
    ...     return type(x)
    >>> with Builtins() as builtins_of:
    ...     builtins_of.answer_in(forward)
    ...     forward(3)
    <class 'int'>
    """

    def __init__(self) -> None:
        # By module, those that it had as names of its own: code that torch.fx writes has.
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def __enter__(self) -> Builtins:
        return self

    def answer_in(self, function: Any) -> None:
        """From here on, in the module of this function, and in those that it takes functions and classes from."""
        names = getattr(function, "__globals__", {})
        if self._answers_in(names):
            for value in list(names.values()):
                if isinstance(value, ModuleType):
                    self._answers_in(vars(value))
                elif isinstance(value, (FunctionType, builtins.type)):
                    self._answers_in(vars(sys.modules.get(value.__module__, builtins)))

    def _answers_in(self, names: dict[str, Any]) -> bool:
        file = names.get("__file__") or ""  # of a notebook there is none
        of_others = file.startswith(LIBRARIES) or (file.startswith(_STANDARD) and "site-packages" not in file)
        of_others |= names is vars(builtins)
        if of_others or any(names is answered for answered, _ in self._modules):
            return False
        own = {name: names[name] for name in _BUILTINS if name in names}
        if any(
            value is _BUILTINS[name] for name, value in own.items()
        ):  # another trace, around this one, answers there
            return False
        hidden = {name for name, value in own.items() if value is not getattr(builtins, name)}
        names.update({name: value for name, value in _BUILTINS.items() if name not in hidden})
        self._modules.append((names, own))
        return True

    def __exit__(self, *raised: object) -> None:
        for names, own in self._modules:
            for name in _BUILTINS:
                names.pop(name, None)
            names.update(own)
        self._modules.clear()


@contextmanager
def tensors_for_stand_ins() -> Iterator[None]:
    """`torch.is_tensor` takes what stands for a tensor as one."""

    def passes(value: Any) -> bool:
        return issubclass(_stands_for(value) or builtins.type(value), Tensor)

    with patch.object(torch, "is_tensor", passes):
        yield
