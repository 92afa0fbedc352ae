"""Running maxima of windows, compiled: totals stay in a cache while all steps of a sample go by."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import checked, empty, require, run, structure

_Task = structure(
    "MaximaTask",
    (c_void_p, "train"),
    (c_int64, "steps samples height width channels"),
    (c_int64, "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x out_height out_width bands"),
    (c_void_p, "out"),
)
# Totals of a band stay in a core's nearest cache.
_BAND_BYTES = 2**16


def running_maxima(
    train: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """By how much the largest running total of each window moves at each step: `[steps, samples, channels, *size]` int8,
    channels last in memory.

    Args:
        train: `[steps, samples, channels, height, width]` int8, whose running totals int8 holds.
        kernel, stride, padding, dilation: of windows, (height, width); what lies outside is left out, and each reads
            something that does not.
        size: how many windows there are.
    """
    require(train.dim() == 5, f"a train {list(train.shape)}")
    train = train.permute(0, 1, 3, 4, 2).contiguous()
    steps, samples, height, width, channels = checked(train, "the train", torch.int8, train.shape).shape
    for each in zip(kernel, stride, padding, dilation, size, (height, width), strict=True):
        taps, move, around, apart, count, read = each
        begins_inside = (count - 1) * move - around < read and min(taps, move, apart, count) >= 1
        require(begins_inside and 0 <= around <= (taps - 1) * apart, f"windows {each}")
    out = empty((steps, samples, *size, channels), torch.int8)
    if out.numel():
        bands = min(size[0], -(-height * width * channels // _BAND_BYTES))
        task = _Task(
            train.data_ptr(), steps, samples, height, width, channels, *kernel, *stride, *padding, *dilation, *size, bands,
            out.data_ptr(),
        )  # fmt: skip
        run("maxima", task, samples * bands, train.numel())
    return out.permute(0, 1, 4, 2, 3)
