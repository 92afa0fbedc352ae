"""Sums over int8 trains, compiled: torch widens every entry before it adds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from casc_core.kernels.library import call, over


def sum_middle(train: Tensor, dim: int) -> Tensor:
    """Sum of a contiguous int8 tensor over dimension `dim` (from 0), int32.

    >>> sum_middle(torch.tensor([[1, 2], [-3, 4]], dtype=torch.int8), 0)
    tensor([-2,  6], dtype=torch.int32)
    """
    outer, middle, inner = math.prod(train.shape[:dim]), train.shape[dim], math.prod(train.shape[dim + 1 :])
    out = torch.empty((*train.shape[:dim], *train.shape[dim + 1 :]), dtype=torch.int32)
    start, end = train.data_ptr(), out.data_ptr()
    over(outer, train.numel(), lambda first, last: call("sum_middle", start, first, last, middle, inner, end))
    return out


def tally(train: Tensor) -> tuple[Tensor, Tensor]:
    """How many entries of each row (last dimension) of an int8 tensor are positive, and how many negative; int32.

    >>> tally(torch.tensor([[1, 0, 1], [-1, 1, 0]], dtype=torch.int8))
    (tensor([2, 1], dtype=torch.int32), tensor([0, 1], dtype=torch.int32))
    """
    train = train.contiguous()
    positive, negative = (torch.empty(train.shape[:-1], dtype=torch.int32) for _ in range(2))
    start, ends, inner = train.data_ptr(), (positive.data_ptr(), negative.data_ptr()), train.shape[-1]
    over(positive.numel(), train.numel(), lambda first, last: call("tally", start, first, last, inner, *ends))
    return positive, negative
