"""Rules of upsampling: to the nearest entry, which only repeats, and linear between entries."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch.nn.functional as F
from torch import nn

from casc_core.conversion.graph import Applied, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.pooling import adaptive_average
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Interpolate, Layout, constant_parts
from casc_core.engine.products.pooling_windows import per_dimension

_NEAREST = ("nearest", "nearest-exact")
_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}


@RULES.function(F.interpolate, F.upsample)
def _interpolate(
    reader: Reader, input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> SignalNode:  # fmt: skip
    x = reader.signal(input)
    if antialias:
        raise reader.refuse("it smooths before it interpolates; leave antialias out")
    if mode in _NEAREST:
        given = {} if recompute_scale_factor is None else {"recompute_scale_factor": recompute_scale_factor}
        return reader.apply(Layout(function="F.interpolate"), x, size, scale_factor, mode, **given)
    if mode == "area":
        return _area(reader, x, size)
    if mode not in _LINEAR:
        raise reader.refuse(f"mode={mode!r} is not known; use mode='nearest' or 'bilinear', or a convolution")
    return _linear(reader, x, size, scale_factor, _LINEAR[mode], bool(align_corners))


def _area(reader: Reader, x: SignalNode, size: Any) -> SignalNode:
    """An adaptive average pool to this size."""
    rank = reader.rank
    dims = len(size) if isinstance(size, (tuple, list)) else None if rank is None else rank - 2
    if size is None or dims is None:
        raise reader.refuse("mode='area' takes a size here, one number for each dimension; give size=(height, width)")
    return adaptive_average(reader, x, size, dims)


def _linear(reader: Reader, x: SignalNode, size: Any, scale_factor: Any, dims: int, align: bool) -> SignalNode:
    if scale_factor is None:
        op = Interpolate(name=reader.name, dims=dims, factors=None, align_corners=align)
        return reader.add(Applied(op, (x, size), divides=True))
    given = list(scale_factor) if isinstance(scale_factor, (tuple, list)) else [scale_factor] * dims
    if any(not isinstance(each, (int, float)) or each < 1 or each != int(each) for each in given):
        raise reader.refuse(f"scale_factor={scale_factor!r} is no whole number; give whole numbers, or a size")
    factors = per_dimension([int(each) for each in given], dims)
    op = Interpolate(name=reader.name, dims=dims, factors=factors, align_corners=align)
    parts = 1 if align else math.prod(constant_parts(each) for each in factors)
    return reader.add(Applied(op, (x,), scale=Fraction(1, parts), terms=parts, divides=align))


@RULES.function(F.upsample_nearest)
def _nearest(reader: Reader, input: Any, size: Any = None, scale_factor: Any = None) -> SignalNode:
    return _interpolate(reader, input, size, scale_factor)


@RULES.function(F.upsample_bilinear)
def _bilinear(reader: Reader, input: Any, size: Any = None, scale_factor: Any = None) -> SignalNode:
    return _interpolate(reader, input, size, scale_factor, "bilinear", True)


@RULES.module(nn.Upsample)
def _upsample(reader: Reader, module: nn.Upsample, input: Any) -> SignalNode:
    m = module
    return _interpolate(reader, input, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)
