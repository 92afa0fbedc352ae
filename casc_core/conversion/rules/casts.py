"""Rules of casts: from one floating-point type to another they change nothing; to any other they round."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import InputValue, SignalValue
from casc_core.engine.functions import FLOATING, require_floating
from casc_core.engine.ops import Call

ROUNDS = (
    "a cast to {} rounds, which a sum of spikes does not; cast to torch.float32 or torch.float64, or leave the cast out"
)
_FLOATING_NAMES = {f"torch.{kind}Tensor" for kind in ("Float", "Double")} | {
    f"torch.cuda.{kind}Tensor" for kind in ("Float", "Double")
}

for _name in ("int", "long", "short", "char", "byte", "bool", "half", "bfloat16"):
    RULES.refuse(ROUNDS.format(_name), _name)


@RULES.function("float", "double", "contiguous", "clone", "detach", "requires_grad_")
def _same(low: Lowering, x: SignalValue, *args: Any, **kwargs: Any) -> SignalValue:
    return x


@RULES.function("to")
def _to(low: Lowering, x: Any, *args: Any, dtype: Any = None, other: Any = None, **kwargs: Any) -> Any:
    """`x.to(dtype)`, `x.to(device)`, `x.to(other)`, and both of the first two."""
    return _cast(low, x, (*args, dtype, other))


@RULES.function("type_as")
def _type_as(low: Lowering, x: Any, other: Any) -> Any:
    return _cast(low, x, (other,))


@RULES.function("type")
def _type(low: Lowering, x: SignalValue, dtype: Any = None, non_blocking: bool = False) -> Any:
    if dtype is None:
        raise low.refuse("it reads the name of a tensor's type; compare x.dtype, or leave it out")
    if isinstance(dtype, str):
        dtype = torch.float32 if dtype in _FLOATING_NAMES else dtype
        if isinstance(dtype, str):
            raise low.refuse(ROUNDS.format(dtype))
    return _cast(low, x, (dtype,))


def _cast(low: Lowering, x: Any, targets: Iterable[Any]) -> Any:
    """`x` itself, if none of these (types, devices, tensors whose type is taken) makes it round."""
    if isinstance(x, InputValue):  # cast to the type of a spiking tensor
        return InputValue(low.emit(Call(function="Tensor.float"), x))
    for target in targets:
        require_floating_type(low, target)
    return x


def require_floating_type(low: Lowering, target: Any) -> None:
    """Refuse a type that rounds; one that only the inputs know is asked for whenever the network runs."""
    constant = low.constant(target)
    known = target if constant is None else constant.dtype
    if isinstance(known, torch.dtype) and known not in FLOATING:
        raise low.refuse(ROUNDS.format(known))
    if isinstance(target, InputValue) and constant is None:
        low.check(require_floating, target)
