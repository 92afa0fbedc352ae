"""A pretend accelerator, on machines that have none: its tensors lie on the CPU and say that they do not.

Whatever makes a tensor without saying where makes it on the CPU, as with a GPU, and an operation on tensors of both places
is refused, as CUDA refuses it. So a run on it meets every tensor that is made in the wrong place, and its results have the
CPU's bits. NumPy and compiled kernels cannot read its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from casc_core import CIF, IF
from casc_core.engine.guards import capture
from casc_core.engine.kernels import neurons
from casc_core.engine.neuron_loop import scan
from casc_core.neuron import LevelThresholds

# A type of device that torch has no code for, but can be asked about.
DEVICE = torch.device("lazy", 0)
CPU = torch.device("cpu")
# Lengths, that these are given and give, are on the CPU.
_WITH_LENGTHS = {"_pack_padded_sequence", "_pad_packed_sequence"}
# What makes tensors there by itself, below what may be asked to.
_WITHIN = {"where", "batch_norm", "_pad_packed_sequence"}


class Elsewhere(Tensor):
    """A tensor on the pretend device; its numbers are `held` on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: Tensor
    is_cuda = True  # type: ignore[assignment]  # so that it is taken for one on a GPU

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's own
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Placed(TorchFunctionMode):
    """What is asked for on the pretend device is made on the CPU, and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist:  # which no subclass may
            return args[0].cpu().tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # which ask the device itself
            return _indexed(func, *args)
        if func is Tensor.copy_:  # likewise
            func(_home(args[0]), _home(args[1]), **kwargs)
            return args[0]
        if _name(func) in _WITHIN:
            return _called(func, args, kwargs)
        if func is Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            func, args = torch.tensor, args[1:]
        moves = func in (Tensor.to, Tensor.type_as)
        asked = *(args[1:] if moves else ()), *(kwargs.values() if moves else (kwargs.get("device"),))
        if not any(isinstance(each, Elsewhere) or _is_pretended(each) for each in asked):
            return func(*args, **kwargs)
        made = func(*map(_home, args), **{name: _home(value) for name, value in kwargs.items()})
        if moves and made is _home(args[0]):
            return args[0] if isinstance(args[0], Elsewhere) else Elsewhere(made.clone())
        return Elsewhere(made)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", "")).partition(".")[0]


def _is_pretended(value: Any) -> bool:
    return isinstance(value, (torch.device, str)) and str(value).partition(":")[0] == DEVICE.type


def _home(value: Any) -> Any:
    """What stands on the CPU for an argument."""
    return value.held if isinstance(value, Elsewhere) else CPU if _is_pretended(value) else value


def _indexed(func: Any, x: Tensor, places: Any, *value: Any) -> Any:
    """`x[places]`, or with a value that is put there; places may be on the CPU, and are to be where `x` is otherwise."""
    together = [x, *value] if isinstance(x, Elsewhere) else [x, *value, *tree_flatten(places)[0]]
    _require_together(func, [each for each in together if isinstance(each, Tensor)], numbers=True)
    found = func(_home(x), tree_map(_home, places), *map(_home, value))
    return Elsewhere(found) if isinstance(x, Elsewhere) and isinstance(found, Tensor) else found


def _called(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operation, its result on the pretend device where one of its tensors is; all are to be there."""
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    if _name(func) in _WITH_LENGTHS:
        given = given[:1]
    _require_together(func, given, numbers=torch.Tag.pointwise in getattr(func, "tags", ()))
    own = {id(each.held): each for each in given if isinstance(each, Elsewhere)}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else Elsewhere(value)

    result = func(*tree_map(_home, args), **tree_map(_home, dict(kwargs)))
    if not own:
        return result
    if _name(func) in _WITH_LENGTHS:
        return placed(result[0]), *result[1:]
    asked = kwargs.get("device")
    return tree_map(placed, result) if asked is None or _is_pretended(asked) else result


def _require_together(func: Any, given: list[Tensor], numbers: bool) -> None:
    """Refuse tensors of both places; single numbers on the CPU may be given to what works entry by entry."""
    there = [each for each in given if isinstance(each, Elsewhere)]
    stray = [each for each in given if not isinstance(each, Elsewhere) and (each.dim() or not numbers)]
    if there and stray:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! "
            f"({func} with {[list(each.shape) for each in stray]} on the CPU)"
        )


def _scanned(
    currents: Tensor,
    drive: Tensor | None,
    threshold: Tensor | float,
    awake: list[bool],
    total: int,
    signed: bool,
    capacity: int,
    by_level: Tensor | None = None,
    lowest: int = 0,
) -> tuple[Tensor, int]:
    """`scan_triton`, for tensors on the pretend device."""
    given = threshold if by_level is None else LevelThresholds(by_level[1:-1], lowest, threshold)
    population = scan(CIF() if signed else IF(), currents.new_zeros(currents.shape[1:]), given)
    spikes = currents.new_zeros((capacity, *currents.shape[1:]), dtype=torch.int8)
    settled = total if by_level is None else len(by_level)
    cap, last = 0, 0
    for step in range(max(len(currents), len(awake)) + settled + 1):
        current = currents[step] if step < len(currents) else currents.new_zeros(currents.shape[1:])
        if step < len(awake):
            cap += awake[step]
            current = current + drive if drive is not None and awake[step] else current
        else:
            cap = total
        fired = population.step(current, cap if by_level is None else given.highest)
        last = step + 1 if bool(fired.any()) else last
        if step < capacity:
            spikes[step] = fired
    return spikes, last


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The pretend device, which is there inside."""
    stand_in = capture._stand_in
    known = patch.object(capture, "_stand_in", lambda value: None if isinstance(value, Elsewhere) else stand_in(value))
    triton = patch.multiple(neurons, available=lambda: True, scan_triton=_scanned)
    # A module's `double()` puts the new numbers into the parameters that it has, which cannot be done to `held`.
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Placed(), known, triton:
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
