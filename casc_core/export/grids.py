"""The power-of-two grids that numbers are on."""

from __future__ import annotations

import numpy as np
from torch import Tensor

MANTISSA = 53
"""Bits of a float64."""


def finest_exponent(x: Tensor) -> int:
    """The exponent of the coarsest power-of-two grid that all entries are on; 0 where all are zero.

    >>> import torch
    >>> finest_exponent(torch.tensor([0.75, 6.0])), finest_exponent(torch.tensor([6.0, 0.0]))
    (-2, 1)
    """
    values = x.detach().double().cpu().numpy().reshape(-1)
    values = values[(values != 0) & np.isfinite(values)]
    if not values.size:
        return 0
    mantissa, exponent = np.frexp(values)
    whole = np.abs(np.ldexp(mantissa, MANTISSA)).astype(np.int64)
    trailing = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return int((exponent - MANTISSA + trailing).min())
