"""The currents of a convolution of spikes, written down: what reads them as numbers, and not by a population behind it."""

from __future__ import annotations

import math
from ctypes import c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import TYPES, checked, require, run, structure
from casc_core.engine.products.geometry import Geometry

_Task = structure(
    "CurrentsTask",
    (c_void_p, "train weights"),
    (c_int64, "height width channels groups outputs padded own"),
    (c_int64, "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x"),
    (c_int64, "out_height out_width bands adds"),
    (c_void_p, "out"),
)
# Weights of outputs side by side: a multiple of so many, a vector of float32.
_LANES = 16
# Entries of a band of an image, whose spikes are to stay in the nearest caches; and rows, as neighbours are read twice.
_BAND, _LEAST_ROWS = 2**15, 4


@dataclass(frozen=True)
class CurrentWeights:
    """Weights of a convolution as `currents` reads them, in the floating type of the sums.

    Attributes:
        values: `[groups, taps, inputs, padded]`; where each output has an input channel of its own, `[taps, padded]`.
        outputs: how many there are. own: whether each has its own input channel.
    """

    values: Tensor
    geometry: Geometry
    outputs: int
    own: bool


def pack_currents(weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> CurrentWeights:
    """Those of `weight` `[O, C/groups, kh, kw]`."""
    outputs, inputs = weight.shape[:2]
    own = geometry.groups == outputs and inputs == 1
    by_tap = weight.detach().flatten(2).to(dtype)
    if own:
        values = by_tap[:, 0].T  # [taps, O]
    else:
        values = by_tap.unflatten(0, (geometry.groups, outputs // geometry.groups)).permute(0, 3, 2, 1)
    padded = values.new_zeros((*values.shape[:-1], -(-values.shape[-1] // _LANES) * _LANES))
    padded[..., : values.shape[-1]] = values
    return CurrentWeights(padded, geometry, outputs, own)


def currents(weights: CurrentWeights, train: Tensor, out: Tensor, adds: bool) -> None:
    """The currents of a train, in the type of the weights, which provably holds their sums.

    Args:
        train: `[steps, samples, channels, height, width]` int8.
        out: `[steps, samples, height, width, outputs]`, where they are written.
        adds: whether they are added to what is there.

    >>> weights = pack_currents(torch.tensor([[[[2.0]]], [[[-1.0]]]]), Geometry((1, 1)), torch.float32)
    >>> out = torch.empty(1, 1, 1, 2, 2)
    >>> currents(weights, torch.tensor([1, -1], dtype=torch.int8).reshape(1, 1, 1, 1, 2), out, adds=False)
    >>> out[0, 0, 0]
    tensor([[ 2., -1.],
            [-2.,  1.]])
    """
    g, (steps, samples, channels, height, width) = weights.geometry, train.shape
    out_height, out_width = g.output_size(height, width)
    dtype, values = weights.values.dtype, weights.values
    checked(out, "the currents", dtype, (steps, samples, out_height, out_width, weights.outputs))
    reads = (math.prod(g.kernel), values.shape[-1])
    each = reads if weights.own else (g.groups, reads[0], channels // g.groups, reads[1])
    checked(values, "the weights", dtype, each)
    require(not weights.own or channels == weights.outputs, f"{weights.outputs} outputs of {channels} channels")
    train = checked(
        train.permute(0, 1, 3, 4, 2).contiguous(), "the train", torch.int8, (*train.shape[:2], height, width, channels)
    )
    rows = max(_LEAST_ROWS, _BAND // max(1, width * channels * g.stride[0]))
    bands = -(-out_height // rows)
    task = _Task(
        train.data_ptr(), values.data_ptr(), height, width, channels, g.groups, weights.outputs, values.shape[-1],
        weights.own, *g.kernel, *g.stride, g.padding[0], g.padding[2], *g.dilation, out_height, out_width, bands, adds,
        out.data_ptr(),
    )  # fmt: skip
    run("currents", task, steps * samples * bands, out.numel(), TYPES[dtype])
