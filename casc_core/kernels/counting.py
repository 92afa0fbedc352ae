"""Sums over int8 trains, compiled: torch widens every entry before it adds."""

from __future__ import annotations

import math
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from casc_core.kernels.library import run, structure

_SumTask = structure("SumTask", (c_void_p, "source"), (c_int64, "middle inner"), (c_void_p, "to"))
_TallyTask = structure("TallyTask", (c_void_p, "source"), (c_int64, "inner"), (c_void_p, "positive negative"))


def sum_middle(train: Tensor, dim: int) -> Tensor:
    """Sum of a contiguous int8 tensor over dimension `dim` (from 0), int32.

    >>> sum_middle(torch.tensor([[1, 2], [-3, 4]], dtype=torch.int8), 0)
    tensor([-2,  6], dtype=torch.int32)
    """
    outer, middle, inner = math.prod(train.shape[:dim]), train.shape[dim], math.prod(train.shape[dim + 1 :])
    out = torch.empty((*train.shape[:dim], *train.shape[dim + 1 :]), dtype=torch.int32, device="cpu")
    run("sum_middle", _SumTask(train.data_ptr(), middle, inner, out.data_ptr()), outer, train.numel())
    return out


def tally(train: Tensor) -> tuple[Tensor, Tensor]:
    """How many entries of each row (last dimension) of an int8 tensor are positive, and how many negative; int32.

    >>> tally(torch.tensor([[1, 0, 1], [-1, 1, 0]], dtype=torch.int8))
    (tensor([2, 1], dtype=torch.int32), tensor([0, 1], dtype=torch.int32))
    """
    train = train.contiguous()
    positive, negative = (torch.empty(train.shape[:-1], dtype=torch.int32, device="cpu") for _ in range(2))
    task = _TallyTask(train.data_ptr(), train.shape[-1], positive.data_ptr(), negative.data_ptr())
    run("tally", task, positive.numel(), train.numel())
    return positive, negative
