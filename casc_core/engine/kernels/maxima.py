"""Running maxima over windows of int8 trains: the counts of a band of rows stay in the caches over all steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import empty, require, run, structure
from casc_core.engine.products.pooling_windows import Window, each_reads

_Task = structure(
    "MaximaTask",
    (c_void_p, "train"),
    (c_int64, "steps samples height width channels"),
    (c_int64, "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x"),
    (c_int64, "out_height out_width bands narrow"),
    (c_void_p, "out"),
)
# The counts of a band are to stay in a core's second cache; and there are enough items for threads.
_BAND_BYTES = 128 * 2**10
_LEAST_ITEMS = 16


def maxima(train: Tensor, windows: Sequence[Window], reach: float) -> Tensor:
    """How the largest running total of each window changes: `max(S_t) - max(S_{t-1})`, `S` the totals of a train.

    Args:
        train: `[steps, samples, channels, height, width]` int8.
        windows: over height and width; each holds an entry.
        reach: magnitude of totals at most, up to 32767.

    Returns:
        `[steps, samples, channels, out_height, out_width]` int8, channels last in memory.

    >>> train = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.int8)[:, None, None, None]
    >>> maxima(train, (Window(1, 1), Window(2, 1)), 2)[:, 0, 0, 0].tolist()
    [[1, 1, 1], [0, 0, 0]]
    """
    require(train.dim() == 5 and train.dtype == torch.int8 and train.device.type == "cpu", "a train of images")
    steps, samples, channels, height, width = train.shape
    over_y, over_x = windows
    require(each_reads(over_y, height) and each_reads(over_x, width), f"windows {over_y}, {over_x} of padding alone")
    require(reach <= torch.iinfo(torch.int16).max, f"totals up to {reach}")
    narrow = reach <= torch.iinfo(torch.int8).max
    sizes = over_y.outputs(height), over_x.outputs(width)
    out = empty((steps, samples, *sizes, channels), torch.int8)
    if out.numel():
        row = width * channels * (1 if narrow else 2)
        bands = max(-(-height * row // _BAND_BYTES), -(-_LEAST_ITEMS // samples))
        # Rows that two bands read are counted twice: a band is at least as high as a window.
        most = max(1, sizes[0] * over_y.stride // max(1, (over_y.kernel - 1) * over_y.dilation))
        bands = min(bands, most, sizes[0])
        last = train.permute(0, 1, 3, 4, 2).contiguous()
        pairs = [(getattr(over_y, name), getattr(over_x, name)) for name in ("kernel", "stride", "padding", "dilation")]
        task = _Task(
            last.data_ptr(), steps, samples, height, width, channels, *(each for pair in pairs for each in pair),
            *sizes, bands, narrow, out.data_ptr(),
        )  # fmt: skip
        run("maxima", task, samples * bands, math.prod(out.shape))
    return out.permute(0, 1, 4, 2, 3)
