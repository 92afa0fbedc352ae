"""Sums of real numbers on their way to a grid, in one pass."""

from __future__ import annotations

from ctypes import c_double, c_int64, c_void_p

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, empty, require, run, structure

_Task = structure(
    "RoundTask",
    (c_void_p, "values bias"),
    (c_int64, "inner"),
    (c_double, "scale error"),
    (c_void_p, "near"),
    (c_int64, "room found"),
)


def round_to_grid(values: Tensor, bias: Tensor | None, exponent: int, error: float, room: int) -> Tensor | None:
    """Adds `bias` `[inner]` to `values` `[..., inner]` and rounds to multiples of `2**exponent`, half to even, in place.

    Args:
        error: that the sums may have.

    Returns:
        The places of sums so near to the middle between two multiples that their error may decide, in any order; None:
        there are more than `room`.

    >>> values = torch.tensor([[0.2, 1.4, 0.5]], dtype=torch.float64)
    >>> round_to_grid(values, None, 0, 1e-9, room=2), values
    (tensor([2]), tensor([[0., 1., 0.]], dtype=torch.float64))
    """
    inner = values.shape[-1]
    checked(values, "the sums", torch.float64, values.shape)
    require(inner > 0 and error >= 0 and room >= 0, f"sums {list(values.shape)}, off by {error}")
    if bias is not None:
        checked(bias, "the bias", torch.float64, (inner,))
    near = empty((room,), torch.int64)
    task = _Task(
        values.data_ptr(), address(bias), inner, 2.0**-exponent, error * 2.0**-exponent, near.data_ptr(), room, 0
    )
    run("round", task, values.numel() // inner, values.numel())
    return near[: task.found] if task.found <= room else None
