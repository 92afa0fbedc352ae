"""Rules of pooling: maxima and averages over windows, and over parts that adapt to the input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.lowering import Lowering
from casc_core.ops import AdaptiveAveragePool, AdaptiveMaxPool, AveragePool, MaxPool, PoolAt
from casc_core.ops.op import Op
from casc_core.rules.affine import rescaled
from casc_core.rules.normalisation import normalised
from casc_core.rules.reduction import EXPECTED_TOKENS, INDICES, maximum, maximum_form, total
from casc_core.rules.table import RULES
from casc_core.values import Channels, InputValue, SignalValue
from casc_core.windows import per_dimension


@RULES.module(nn.MaxPool1d, nn.MaxPool2d)
def _max_pool_module(low: Lowering, module: nn.MaxPool1d | nn.MaxPool2d, input: Any) -> SignalValue:
    dims = 1 if isinstance(module, nn.MaxPool1d) else 2
    m = module
    return _max_pool(low, input, dims, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


@RULES.function(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> SignalValue:  # fmt: skip
    return _max_pool(low, input, 2, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@RULES.function(F.max_pool1d, torch.max_pool1d)
def _max_pool1d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> SignalValue:  # fmt: skip
    return _max_pool(low, input, 1, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _max_pool(
    low: Lowering, input: Any, dims: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    indices: bool,
) -> SignalValue:  # fmt: skip
    if indices:
        raise low.refuse(INDICES)
    own, around, apart = low.signal(input), per_dimension(padding, dims), per_dimension(dilation, dims)
    channels = _increasing(own)
    x = _positive(low, own if channels is None else channels.signal)
    if _is_read(kernel, stride):
        return _normalised(low, _pool_at(low, x, True, kernel, stride, around, apart, bool(ceil_mode)), channels)
    size = per_dimension(kernel, dims)
    op = MaxPool(
        name=low.node_name, kernel=size, stride=_stride(stride, size, dims), padding=around, dilation=apart,
        ceil_mode=bool(ceil_mode),
    )  # fmt: skip
    return _normalised(low, _pooled(low, op, x), channels)


def _is_read(*values: Any) -> bool:
    """Whether a size is computed from the inputs."""
    return any(
        isinstance(each, InputValue)
        for value in values
        for each in (value if isinstance(value, (tuple, list)) else [value])
    )


def _pool_at(
    low: Lowering, x: SignalValue, maximum: bool, kernel: Any, stride: Any, padding: list[int], dilation: list[int],
    ceil_mode: bool, count_include_pad: bool = True,
) -> SignalValue:  # fmt: skip
    op = PoolAt(
        name=low.node_name, maximum=maximum, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )  # fmt: skip
    if maximum:
        form = maximum_form(x.form)
    else:
        form = replace(x.form, drive_reach=x.form.drive_reach * EXPECTED_TOKENS, is_summed=True, is_divided=True)
    return SignalValue(low.emit(op, x, kernel, stride), form)


def _stride(stride: Any, kernel: list[int], dims: int) -> list[int]:
    return kernel if stride is None or stride == [] else per_dimension(stride, dims)


def _increasing(x: SignalValue) -> Channels | None:
    """How `x` is normalised, if its maxima are those of what is normalised: then spikes stay spikes for longer."""
    origin = x.origin
    return origin if isinstance(origin, Channels) and bool((origin.factor > 0).all()) else None


def _normalised(low: Lowering, x: SignalValue, channels: Channels | None) -> SignalValue:
    return x if channels is None else normalised(low, x, channels.factor, channels.centre, channels.offset)


def _positive(low: Lowering, x: SignalValue) -> SignalValue:
    return rescaled(low, x) if x.form.scale < 0 else x


def _pooled(low: Lowering, op: Op, x: SignalValue, *sizes: Any) -> SignalValue:
    """A maximum of `x`: a train, whatever was in its drive."""
    return SignalValue(low.emit(op, x, *sizes), maximum_form(x.form))


@RULES.module(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
def _adaptive_max_module(low: Lowering, module: nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d, input: Any) -> SignalValue:
    dims = 1 if isinstance(module, nn.AdaptiveMaxPool1d) else 2
    return _adaptive_max(low, input, module.output_size, dims, module.return_indices)


@RULES.function(F.adaptive_max_pool1d)
def _adaptive_max1d(low: Lowering, input: Any, output_size: Any, return_indices: bool = False) -> SignalValue:
    return _adaptive_max(low, input, output_size, 1, return_indices)


@RULES.function(F.adaptive_max_pool2d)
def _adaptive_max2d(low: Lowering, input: Any, output_size: Any, return_indices: bool = False) -> SignalValue:
    return _adaptive_max(low, input, output_size, 2, return_indices)


def _adaptive_max(low: Lowering, input: Any, output_size: Any, dims: int, indices: bool) -> SignalValue:
    if indices:
        raise low.refuse(INDICES)
    own, outputs = low.signal(input), _outputs(output_size, dims)
    channels = _increasing(own)
    x = _positive(low, own if channels is None else channels.signal)
    if outputs == [1] * dims:
        return _normalised(low, maximum(low, x, tuple(range(-dims, 0)), True), channels)
    op = AdaptiveMaxPool(name=low.node_name, outputs=outputs or [None] * dims)
    return _normalised(low, _pooled(low, op, x, *_given(output_size)), channels)


def _given(output_size: Any) -> tuple[Any, ...]:
    """Sizes to give with the call: those that are computed from the inputs."""
    return (output_size,) if _is_read(output_size) else ()


def _outputs(output_size: Any, dims: int) -> list[int | None]:
    """The sizes of a pool's output, one for each dimension; none where the inputs decide them."""
    if _is_read(output_size):
        return []
    sizes = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size] * dims
    return sizes * dims if len(sizes) == 1 else sizes


@RULES.module(nn.AvgPool1d)
def _average_pool1d_module(low: Lowering, module: nn.AvgPool1d, input: Any) -> SignalValue:
    m = module
    return _average_pool(low, input, 1, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, None)


@RULES.module(nn.AvgPool2d)
def _average_pool2d_module(low: Lowering, module: nn.AvgPool2d, input: Any) -> SignalValue:
    m = module
    return _average_pool(
        low, input, 2, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    )


@RULES.function(F.avg_pool1d)
def _average_pool1d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> SignalValue:  # fmt: skip
    return _average_pool(low, input, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@RULES.function(F.avg_pool2d)
def _average_pool2d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> SignalValue:  # fmt: skip
    return _average_pool(low, input, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _average_pool(
    low: Lowering, input: Any, dims: int, kernel: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor: int | None,
) -> SignalValue:  # fmt: skip
    x, around = low.signal(input), per_dimension(padding, dims)
    if _is_read(kernel, stride) and divisor is None:
        return _pool_at(low, x, False, kernel, stride, around, [1] * dims, bool(ceil_mode), bool(count_include_pad))
    if divisor == 0:
        raise low.refuse("a divisor_override of 0; leave it out for the mean, or give 1 for the sum")
    size = per_dimension(kernel, dims)
    entries = math.prod(size)
    # Where every window holds as many entries, their number is a constant, which later weights take in.
    constant = divisor if divisor is not None else entries
    divides = divisor is None and (bool(ceil_mode) or (any(around) and not count_include_pad))
    op = AveragePool(
        name=low.node_name, kernel=size, stride=_stride(stride, size, dims), padding=around, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad), divides=divides,
    )  # fmt: skip
    scale = x.form.scale if divides else x.form.scale / constant
    reach = x.form.drive_reach * entries
    form = replace(x.form, scale=scale, drive_reach=reach, is_divided=x.form.is_divided or divides)
    return SignalValue(low.emit(op, x), form)


@RULES.module(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
def _adaptive_average_module(
    low: Lowering, module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, input: Any
) -> SignalValue:
    return _adaptive_average(low, input, module.output_size, 1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2)


@RULES.function(F.adaptive_avg_pool1d)
def _adaptive_average1d(low: Lowering, input: Any, output_size: Any) -> SignalValue:
    return _adaptive_average(low, input, output_size, 1)


@RULES.function(F.adaptive_avg_pool2d)
def _adaptive_average2d(low: Lowering, input: Any, output_size: Any) -> SignalValue:
    return _adaptive_average(low, input, output_size, 2)


def _adaptive_average(low: Lowering, input: Any, output_size: Any, dims: int) -> SignalValue:
    x, outputs = low.signal(input), _outputs(output_size, dims)
    if outputs == [1] * dims:
        return total(low, x, True, tuple(range(-dims, 0)), True)
    op = AdaptiveAveragePool(name=low.node_name, outputs=outputs or [None] * dims)
    return SignalValue(low.emit(op, x, *_given(output_size)), replace(x.form, is_divided=True))
