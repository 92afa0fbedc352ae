"""Clipped activations by other names: clamps, thresholds, and maxima with zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from casc_core.engine.conditions import is_of_sizes
from casc_core.engine.functions import name_of
from casc_core.errors import ConversionError

NOT_CLIPPED = (
    "it clips to [{}, {}], and an activation that is clipped has a lower end of 0 or below and an upper end of 0 or above, "
    "or a lower end of 0 alone. Clip around 0: x.clamp(min=0), x.clamp(0, 1), x.clamp(-1, 2), nn.ReLU6()"
)


class Ends(NamedTuple):
    """The lower and the upper end of a clip: numbers, None for none, or whatever else is given."""

    low: Any
    high: Any

    @property
    def is_activation(self) -> bool:
        """Whether neurons take its place: it is a ReLU, or is clipped around zero."""
        low, high = self
        if not isinstance(low, (int, float)) or not (high is None or isinstance(high, (int, float))):
            return False
        return low == 0 if high is None else -math.inf < low <= 0 <= high < math.inf and low != high

    @property
    def refusal(self) -> str:
        """Why it is none."""
        return NOT_CLIPPED.format(*("-" if end is None else end for end in self))


def _clamp(given: dict[str, Any]) -> Ends:
    return Ends(given.get("min"), given.get("max"))


def _threshold(given: dict[str, Any]) -> Ends:
    relu = given.get("threshold") == 0 == given.get("value")
    return Ends(0, None) if relu else Ends(f"{given.get('threshold')}, else {given.get('value')}", None)


Reader = Callable[[dict[str, Any]], Ends]
_FORMS: tuple[tuple[Reader, str, tuple[Any, ...]], ...] = (
    (
        _clamp,
        "input min max",
        (torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_"),
    ),
    (_clamp, "input min", (torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_")),
    (_clamp, "input max", (torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_")),
    (_threshold, "input threshold value inplace", (F.threshold, torch.threshold, torch.threshold_)),
    (lambda _: Ends(0, 6.0), "input inplace", (F.relu6,)),
    (
        lambda given: Ends(given.get("min_val", -1.0), given.get("max_val", 1.0)),
        "input min_val max_val inplace",
        (F.hardtanh, F.hardtanh_),
    ),
)
CLIPS: dict[Any, tuple[Reader, list[str]]] = {
    target: (read, names.split()) for read, names, targets in _FORMS for target in targets
}
"""Functions and methods that clip: how the ends are read from their arguments, and the arguments' names."""
MAXIMA = (torch.maximum, torch.fmax, torch.max, "maximum", "fmax", "max")
"""Functions and methods that may be a maximum of two tensors."""
# What is done to lengths, masks and sizes as well, where it is no activation.
_OF_INPUTS_TOO = {target for read, _, targets in _FORMS if read is _clamp for target in targets} | set(MAXIMA)


def ends_of(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Ends | None:
    """The ends of a call that clips; None: it is none.

    >>> ends_of("clamp", ("x", 0), {"max": 1}), ends_of(F.threshold, ("x", 0, 0), {}), ends_of("abs", ("x",), {})
    (Ends(low=0, high=1), Ends(low=0, high=None), None)
    """
    if target not in CLIPS:
        return None
    read, names = CLIPS[target]
    return read(dict(zip(names, args, strict=False)) | dict(kwargs))


def ends_of_module(module: nn.Module) -> Ends | None:
    """The ends of a module that clips; None: it is none."""
    if isinstance(module, nn.Threshold):
        return ends_of(F.threshold, (None, module.threshold, module.value), {})
    return Ends(module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else None


def require_clipped(module: nn.Module) -> None:
    """Raise `ConversionError` for a module that clips as no activation does."""
    ends = ends_of_module(module)
    if ends is not None and not ends.is_activation:
        raise ConversionError(f"{module} cannot be converted exactly: {ends.refusal}")


class Clipped(NamedTuple):
    """A call that clips one of its arguments as a ReLU or a hard tanh does, and where."""

    input: fx.Node
    low: float
    high: float | None


def clipped(node: fx.Node) -> Clipped | None:
    """What a traced call clips, if it clips what layers have computed as an activation does."""
    if node.op not in ("call_function", "call_method"):
        return None
    given = [*node.args, *node.kwargs.values()]
    ends = ends_of(
        node.target, [_number(value) for value in node.args], {k: _number(v) for k, v in node.kwargs.items()}
    )
    found: Clipped | None = None
    if ends is not None:
        found = Clipped(given[0], ends.low, ends.high) if ends.is_activation and isinstance(given[0], fx.Node) else None
    elif node.target in MAXIMA and len(given) == 2:
        for x, other in (given, given[::-1]):
            if isinstance(x, fx.Node) and _is_zero(other, x):
                found = Clipped(x, 0.0, None)
    if found is None or (node.target in _OF_INPUTS_TOO and not _is_computed(found.input)):
        return None
    return found


def _number(value: Any) -> Any:
    """A constant of one entry as a number."""
    return value.meta.get("number", value) if isinstance(value, fx.Node) else value


def _is_zero(value: Any, x: fx.Node) -> bool:
    """Whether `value` is a tensor of zeros that leaves the shape of `x` as it is. A plain 0 is none: `x.max(0)` names a
    dimension."""
    if not isinstance(value, fx.Node):
        return False
    if "number" in value.meta:
        return bool(value.meta["number"] == 0)
    name = value.target if isinstance(value.target, str) else getattr(value.target, "__name__", "")
    if name == "zeros_like":
        return value.args[:1] == (x,)
    sizes = value.args[1:] if name == "new_zeros" else value.args if name == "zeros" else ()
    return len(sizes) == 1 and isinstance(sizes[0], fx.Node) and _is_shape(sizes[0], x)


def _is_shape(node: fx.Node, x: fx.Node) -> bool:
    return (node.target is getattr and node.args == (x, "shape")) or (node.target == "size" and node.args == (x,))


def _is_computed(node: fx.Node) -> bool:
    """Whether layers have been at work on it; what follows from the inputs by functions alone is no activation."""
    open_, seen = [node], set[fx.Node]()
    while open_:
        each = open_.pop()
        called = each.op in ("call_function", "call_method") and each.target is not getattr
        if each.op == "call_module" or (called and name_of(each.target, each.op == "call_method") is None):
            return True
        if each not in seen and not is_of_sizes(each):
            seen.add(each)
            open_ += each.all_input_nodes
    return False
