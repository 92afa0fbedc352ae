"""The totals at which activations that are rounded to levels step: thresholds, one for each level."""

from __future__ import annotations

import torch
from torch import Tensor


def logit_thresholds(q: int) -> Tensor:
    """Totals at which `floor(q sigmoid(x) + 1/2)` steps, in levels: `q logit((k - 1/2) / q)`, k = 1..q.

    >>> logit_thresholds(2)
    tensor([-2.1972,  2.1972], dtype=torch.float64)
    """
    return q * torch.logit((torch.arange(1, q + 1, dtype=torch.float64) - 0.5) / q)


def atanh_thresholds(q: int) -> Tensor:
    """Totals at which `floor(q tanh(x) + 1/2)` steps, in levels: `q atanh((k - 1/2) / q)`, k = -q+1..q.

    >>> atanh_thresholds(1)
    tensor([-0.5493,  0.5493], dtype=torch.float64)
    """
    return q * torch.atanh((torch.arange(1 - q, q + 1, dtype=torch.float64) - 0.5) / q)


def nearest_thresholds(highest: int, unit: int) -> Tensor:
    """The least whole totals that round to `k` units or more, halves to the even: k = -highest+1..highest.

    >>> nearest_thresholds(2, 4)
    tensor([-5., -2.,  3.,  6.], dtype=torch.float64)
    """
    k = torch.arange(1 - highest, highest + 1)
    doubled = unit * (2 * k - 1)
    return (doubled.div(2, rounding_mode="floor") + ((doubled % 2 == 1) | (k % 2 == 1))).double()


def tanh_table(q: int, highest: int) -> Tensor:
    """`floor(q tanh(c / q) + 1/2)` of each level c from `-highest` to `highest`.

    >>> tanh_table(2, 4)
    tensor([-2., -2., -2., -1.,  0.,  1.,  2.,  2.,  2.], dtype=torch.float64)
    """
    cells = torch.arange(-highest, highest + 1, dtype=torch.float64)
    return (q * torch.tanh(cells / q) + 0.5).floor()
