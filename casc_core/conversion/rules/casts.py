"""Rules of casts: from one floating-point type to another they change nothing; to any other they round."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch

from casc_core.conversion.graph import Factor, InputNode, SignalNode, is_boolean
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.table import RULES
from casc_core.engine.functions import FLOATING, require_floating

ROUNDS = (
    "a cast to {} rounds, which a sum of spikes does not; cast to torch.float32 or torch.float64, or leave the cast out"
)
_FLOATING_NAMES = {f"torch.{kind}Tensor" for kind in ("Float", "Double")} | {
    f"torch.cuda.{kind}Tensor" for kind in ("Float", "Double")
}

# Types to which levels are cast exactly, by a table.
_WHOLE = (torch.int32, torch.int64, torch.bool)

for _name in ("int", "long", "short", "char", "byte", "bool", "half", "bfloat16"):
    RULES.refuse(ROUNDS.format(_name), _name)


@RULES.function("float", "double")
def _floating(reader: Reader, x: SignalNode, *args: Any, **kwargs: Any) -> SignalNode:
    """Nothing changes but that the numbers of a mask are numbers."""
    return reader.add(Factor(x, Fraction(1))) if is_boolean(x) else x


@RULES.function("contiguous", "clone", "detach", "requires_grad_")
def _same(reader: Reader, x: SignalNode, *args: Any, **kwargs: Any) -> SignalNode:
    return x


@RULES.function("to")
def _to(reader: Reader, x: Any, *args: Any, dtype: Any = None, other: Any = None, **kwargs: Any) -> Any:
    """`x.to(dtype)`, `x.to(device)`, `x.to(other)`, and both of the first two."""
    return _cast(reader, x, (*args, dtype, other))


@RULES.function("type_as")
def _type_as(reader: Reader, x: Any, other: Any) -> Any:
    return _cast(reader, x, (other,))


@RULES.function("type")
def _type(reader: Reader, x: SignalNode, dtype: Any = None, non_blocking: bool = False) -> Any:
    if dtype is None:
        raise reader.refuse("it reads the name of a tensor's type; compare x.dtype, or leave it out")
    if isinstance(dtype, str):
        dtype = torch.float32 if dtype in _FLOATING_NAMES else dtype
        if isinstance(dtype, str):
            raise reader.refuse(ROUNDS.format(dtype))
    return _cast(reader, x, (dtype,))


def _cast(reader: Reader, x: Any, targets: Iterable[Any]) -> Any:
    """`x` itself, if none of these (types, devices, tensors whose type is taken) makes it round."""
    if isinstance(x, InputNode):  # cast to the type of a spiking tensor, and moved to where that is
        (like,) = (target for target in targets if isinstance(target, SignalNode))
        return reader.call("Tensor.float", reader.call("Tensor.to", x, reader.attribute(like, "device")))
    of_levels = next((kind for kind in targets if kind in _WHOLE), None)
    if of_levels is not None and (found := reader.by_level(x, lambda values: values.to(of_levels))) is not None:
        return found
    casts = [require_floating_type(reader, target) for target in targets]
    return _floating(reader, x) if any(casts) else x


def require_floating_type(reader: Reader, target: Any) -> bool:
    """Refuse a type that rounds; one that only the inputs know is checked whenever the network runs.

    Returns:
        Whether it is a type, or a tensor whose type is taken; not a device, say.
    """
    constant = reader.constant(target)
    known = target if constant is None else constant.dtype
    if isinstance(known, torch.dtype) and known not in FLOATING:
        raise reader.refuse(ROUNDS.format(known))
    if isinstance(target, InputNode) and constant is None:
        reader.check(require_floating, target)
    return isinstance(known, torch.dtype) or isinstance(target, SignalNode)
