"""Rules of upsampling: to the nearest entry, which only repeats, and linear between entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import nn

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import SignalValue
from casc_core.engine.ops import Interpolate, Layout, constant_parts
from casc_core.engine.pooling_windows import per_dimension

_NEAREST = ("nearest", "nearest-exact")
_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}


@RULES.function(F.interpolate, F.upsample)
def _interpolate(
    low: Lowering, input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> SignalValue:  # fmt: skip
    x = low.signal(input)
    if antialias:
        raise low.refuse("it smooths before it interpolates; leave antialias out")
    if mode in _NEAREST:
        given = {} if recompute_scale_factor is None else {"recompute_scale_factor": recompute_scale_factor}
        ref = low.emit(Layout(function="F.interpolate"), x, size, scale_factor, mode, **given)
        return SignalValue(ref, x.form)
    if mode not in _LINEAR:
        raise low.refuse(f"mode={mode!r} is not known; use mode='nearest' or 'bilinear', or a convolution")
    return _linear(low, x, size, scale_factor, _LINEAR[mode], bool(align_corners))


def _linear(low: Lowering, x: SignalValue, size: Any, scale_factor: Any, dims: int, align: bool) -> SignalValue:
    if scale_factor is None:
        op = Interpolate(name=low.node_name, dims=dims, factors=None, align_corners=align)
        return SignalValue(low.emit(op, x, size), replace(x.form, is_divided=True))
    given = list(scale_factor) if isinstance(scale_factor, (tuple, list)) else [scale_factor] * dims
    if any(not isinstance(each, (int, float)) or each < 1 or each != int(each) for each in given):
        raise low.refuse(f"scale_factor={scale_factor!r} is no whole number; give whole numbers, or a size")
    factors = per_dimension([int(each) for each in given], dims)
    op = Interpolate(name=low.node_name, dims=dims, factors=factors, align_corners=align)
    parts = 1 if align else math.prod(constant_parts(each) for each in factors)
    reach, divides = x.form.drive_reach * parts, x.form.is_divided or align
    form = replace(x.form, scale=x.form.scale / parts, drive_reach=reach, is_divided=divides)
    return SignalValue(low.emit(op, x), form)


@RULES.module(nn.Upsample)
def _upsample(low: Lowering, module: nn.Upsample, input: Any) -> SignalValue:
    m = module
    return _interpolate(low, input, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)
