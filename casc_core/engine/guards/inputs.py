"""Checks of a network's inputs: arguments by name, dense tensors of real numbers, on the network's device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError


def bound_arguments(
    arguments: Sequence[str],
    inputs: Sequence[Any],
    named: Mapping[str, Any],
    held: Mapping[str, Any],
    read: Collection[str],
    device: torch.device | None,
) -> dict[str, Tensor]:
    """The inputs of a call by name, without those that are None.

    Args:
        arguments: names of the arguments of the model's forward, in order.
        inputs, named: what it is called with.
        held: by name, the defaults that a conversion held arguments at.
        read: the arguments that a program reads.
        device: where the network is; None: it holds no tensor.

    Raises:
        InputError: the forward cannot be called so, or not with such values.

    >>> bound_arguments(["x", "scale"], [torch.ones(1)], {"scale": 2}, {"scale": 2}, ["x"], None)
    {'x': tensor([1.])}
    """
    if len(inputs) > len(arguments):
        raise InputError(f"the network takes {', '.join(arguments)}; got {len(inputs)} inputs")
    values = dict(zip(arguments, inputs, strict=False))
    for name, value in named.items():
        if name not in arguments or name in values:
            raise InputError(f"unexpected or repeated input {name!r}; the network takes {', '.join(arguments)}")
        values[name] = value
    for name in [name for name in values if name in held]:
        if not _is_same(values.pop(name), held[name]):
            raise InputError(
                f"argument {name!r} was held at its default, {held[name]!r}, when the network was converted; got "
                "another value. Leave it out, or convert a model with that default"
            )
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if not isinstance(value, Tensor) and name not in read:
            raise InputError(f"argument {name!r} was held at its default when the network was converted: leave it out")
        checked_input(name, value, device)
    if any(value.numel() == 0 for value in values.values()):
        raise InputError(f"the batch is empty: inputs of shape {[list(value.shape) for value in values.values()]}")
    return values


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and not isinstance(value, Tensor) and bool(value == default)
    )


def checked_input(name: str, value: Any, device: torch.device | None) -> Tensor:
    """`value`, if it is a tensor that a network on `device` (None: it holds none) can read.

    Raises:
        InputError: it is not; the message says what to do.

    >>> checked_input("x", torch.eye(2).to_sparse(), None)
    Traceback (most recent call last):
    casc_core.errors.InputError: input 'x' is laid out as torch.sparse_coo; give its to_dense()
    """
    if not isinstance(value, Tensor):
        holds_tensors = isinstance(value, (tuple, list)) and any(isinstance(each, Tensor) for each in value)
        remedy = (
            "wrap the model in one whose forward names each tensor"
            if holds_tensors or isinstance(value, (dict, set))
            else "use torch.as_tensor(...)"
        )
        raise InputError(f"input {name!r} must be a torch tensor; got {type(value).__name__}: {remedy}")
    if value.is_nested:
        raise InputError(f"input {name!r} is a nested tensor; give a padded one, and the lengths")
    if value.layout != torch.strided:
        raise InputError(f"input {name!r} is laid out as {value.layout}; give its to_dense()")
    if value.is_quantized:
        raise InputError(f"input {name!r} is quantised ({value.dtype}); give its dequantize()")
    if value.dtype.is_complex:
        raise InputError(f"input {name!r} is complex ({value.dtype}); give real numbers")
    if value.is_meta:
        raise InputError(f"input {name!r} is on the device 'meta' and holds no numbers")
    # Lengths may stay on the CPU, as torch's own packing has them.
    elsewhere = device is not None and value.device != device
    if elsewhere and (value.device.type != "cpu" or value.dtype.is_floating_point):
        raise InputError(
            f"input {name!r} is on {value.device}, the network on {device}: move one of them with .to(...)"
        )
    return value
