"""Sums over int8 trains, compiled: torch widens every entry before it adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import checked, require, run, structure

_SumTask = structure("SumTask", (c_void_p, "source"), (c_int64, "middle inner"), (c_void_p, "to"))
_AgreementTask = structure(
    "AgreementTask",
    (c_void_p, "train levels awake"),
    (c_int64, "neurons arriving steps q narrow"),
    (c_void_p, "out"),
)
# Neurons of a block, which a thread takes, and of a part, over which the kernel sums before it widens.
_AGREEMENT_BLOCK, _AGREEMENT_PART = 16_384, 1_024
_TallyTask = structure(
    "TallyTask", (c_void_p, "source"), (c_int64, "rows inner"), (c_void_p, "positive negative in_rows")
)


def sum_middle(train: Tensor, dim: int) -> Tensor:
    """Sum of a contiguous int8 tensor over dimension `dim` (from 0), int32.

    >>> sum_middle(torch.tensor([[1, 2], [-3, 4]], dtype=torch.int8), 0)
    tensor([-2,  6], dtype=torch.int32)
    """
    require(0 <= dim < train.dim(), f"dimension {dim} of {list(train.shape)}")
    checked(train, "the train", torch.int8, train.shape)
    outer, middle, inner = math.prod(train.shape[:dim]), train.shape[dim], math.prod(train.shape[dim + 1 :])
    out = torch.empty((*train.shape[:dim], *train.shape[dim + 1 :]), dtype=torch.int32, device="cpu")
    run("sum_middle", _SumTask(train.data_ptr(), middle, inner, out.data_ptr()), outer, train.numel())
    return out


def tally(train: Tensor, dims: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """How many entries of each block of an int8 tensor, its last `dims` dimensions, are positive, and how many negative;
    and how many of each row, the last dimension, are not zero; int32.

    >>> tally(torch.tensor([[1, 0, 1], [-1, 1, 0]], dtype=torch.int8))
    (tensor([2, 1], dtype=torch.int32), tensor([0, 1], dtype=torch.int32), tensor([2, 2], dtype=torch.int32))
    """
    require(1 <= dims <= train.dim(), f"blocks of {dims} dimensions of {list(train.shape)}")
    train = checked(train.contiguous(), "the train", torch.int8, train.shape)
    blocks, rows = train.shape[:-dims], train.shape[:-1]
    new = torch.empty if train.numel() else torch.zeros
    positive, negative, in_rows = (new(each, dtype=torch.int32, device="cpu") for each in (blocks, blocks, rows))
    if train.numel():
        task = _TallyTask(
            train.data_ptr(), in_rows.numel() // positive.numel(), train.shape[-1], positive.data_ptr(),
            negative.data_ptr(), in_rows.data_ptr(),
        )  # fmt: skip
        run("tally", task, positive.numel(), train.numel())
    return positive, negative, in_rows


def agreement(train: Tensor, levels: Tensor, q: int, awake: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """`casc_core.engine.recording.agreement.agreement` of an int8 train, and int16 levels."""
    require(train.dim() == 2, f"a train {list(train.shape)} of {levels.numel()} neurons")
    train = checked(train.contiguous(), "the train", torch.int8, train.shape)
    levels = checked(levels.to(torch.int16).contiguous(), "the levels", torch.int16, train.shape[1:])
    neurons, steps = train.shape[1], len(awake)
    blocks = -(-neurons // _AGREEMENT_BLOCK)
    out = torch.zeros((blocks, steps, 3), dtype=torch.int64, device="cpu")
    counts = torch.tensor(awake, dtype=torch.int64, device="cpu")
    narrow = _sums_fit_int32(train, levels, q, max(awake))
    task = _AgreementTask(
        train.data_ptr(), levels.data_ptr(), counts.data_ptr(), neurons, len(train), steps, q, narrow, out.data_ptr(),
    )  # fmt: skip
    run("agreement", task, blocks, neurons * steps)
    more, fewer, error = out.sum(0).T
    return more, fewer, error


def _sums_fit_int32(train: Tensor, levels: Tensor, q: int, awake: int) -> bool:
    """Whether int32 holds `|count * q - level * awake|`, summed over a part of the neurons."""
    if not levels.numel():
        return True
    most = 2**31 // _AGREEMENT_PART
    wanted = max(abs(int(end)) for end in torch.aminmax(levels)) * awake
    if 2**7 * len(train) * q + wanted < most:  # whatever is in the train
        return True
    peak = max(abs(int(end)) for end in torch.aminmax(train)) if train.numel() else 0
    return peak * len(train) * q + wanted < most
