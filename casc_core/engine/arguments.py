"""What may be given to a network: dense tensors of real numbers, where the network is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError


def checked_input(name: str, value: Any, device: torch.device | None) -> Tensor:
    """`value`, if it is a tensor that a network on `device` (None: it holds none) can read.

    Raises:
        InputError: it is not; the message says what to do.

    >>> checked_input("x", torch.eye(2).to_sparse(), None)
    Traceback (most recent call last):
    casc_core.errors.InputError: input 'x' is laid out as torch.sparse_coo; give its to_dense()
    """
    if not isinstance(value, Tensor):
        remedy = (
            "wrap the model in one whose forward names each tensor"
            if isinstance(value, (dict, set))
            else ("use torch.as_tensor(...)")
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
