"""Numbers on power-of-two grids as the integers that they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from casc_core.errors import ExactnessError
from casc_core.export.grids import MANTISSA, finest_exponent
from casc_core.numerics import largest

Array = NDArray[Any]
LIMB_BITS = 32
# What stands for minus infinity, times as many wake steps as a run has, still fits 64 bits.
MINUS_INFINITY = 2**62
_TYPES = (np.int8, np.int16, np.int32, np.int64)


def units(x: Tensor | float, exponent: int, what: str, wake_steps: int = 1) -> Array:
    """Numbers as integers times `2**exponent`: int64, or Python's integers where that is too small.

    Args:
        what: an error names it.
        wake_steps: in how many an entry of minus infinity, on the way to a maximum, is received.

    Raises:
        ExactnessError: one is no such integer.

    >>> units(torch.tensor([0.75, -6.0]), -2, "weights").tolist()
    [3, -24]
    """
    values = torch.as_tensor(x).detach().double().cpu().numpy()
    lowest = np.isneginf(values)
    finite = np.where(lowest, 0.0, values)
    if not np.isfinite(finite).all():
        raise ExactnessError(f"{what}: not all numbers are finite, and what is not finite is no integer")
    bits = math.frexp(float(np.abs(finite).max(initial=0.0)))[1] - exponent
    if bits < 63:
        scaled = np.ldexp(finite, -exponent)
        if not (scaled == np.rint(scaled)).all():
            raise ExactnessError(f"{what}: not all numbers are multiples of 2**{exponent}")
        whole = scaled.astype(np.int64)
    else:
        mantissa, power = np.frexp(finite)
        digits, shift = np.ldexp(mantissa, MANTISSA).astype(np.int64).astype(object), power - MANTISSA - exponent
        whole = np.where(
            shift >= 0, digits << np.maximum(shift, 0).astype(object), digits >> np.maximum(-shift, 0).astype(object)
        )
        if not (finest_exponent(torch.as_tensor(finite)) >= exponent):
            raise ExactnessError(f"{what}: not all numbers are multiples of 2**{exponent}")
    return np.where(lowest, -(MINUS_INFINITY // wake_steps), whole) if lowest.any() else whole


def bits_of(largest_magnitude: float) -> int:
    """Bits of a signed integer that holds all magnitudes up to this one.

    >>> bits_of(0), bits_of(127), bits_of(128)
    (1, 8, 9)
    """
    return int(largest_magnitude).bit_length() + 1


def bits_in(values: Array) -> int:
    """Bits of the signed integers that hold all of these.

    >>> bits_in(np.asarray([-128, 3])), bits_in(np.asarray([128])), bits_in(np.asarray([0]))
    (8, 9, 1)
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    return max((~low if low < 0 else low).bit_length(), (~high if high < 0 else high).bit_length()) + 1


def stored(values: Array) -> Array:
    """Integers in the narrowest type that holds them; wider than 64 bits, their limbs along a new first dimension.

    A limb is of 32 bits and not negative, but for the last one, which has the sign.

    >>> stored(np.asarray([200, -3])).dtype, stored(np.asarray([2**70], dtype=object)).tolist()
    (dtype('int16'), [[0], [0], [64]])
    """
    bits = bits_in(values)
    if bits <= 64:
        kind = next(kind for kind in _TYPES if bits <= np.iinfo(kind).bits)
        return np.array(values, kind, order="C")
    limbs, rest = [], values
    while bits > LIMB_BITS:
        limbs.append((rest & (2**LIMB_BITS - 1)).astype(np.int64))
        rest, bits = rest >> LIMB_BITS, bits - LIMB_BITS
    return np.stack([*limbs, rest.astype(np.int64)])


def magnitude_units(x: Tensor | float | None, exponent: int) -> float:
    """The largest magnitude in units of `2**exponent`; minus infinities and None count as nothing."""
    if x is None:
        return 0.0
    values = torch.as_tensor(x, dtype=torch.float64)
    return math.ldexp(largest(torch.where(torch.isfinite(values), values, 0.0)), -exponent)
