"""Rules of pooling: maxima and averages over windows, and over parts that adapt to the input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import rescaled
from casc_core.conversion.rules.normalisation import normalised
from casc_core.conversion.rules.reduction import EXPECTED_TOKENS, INDICES, maximum, maximum_form, total
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Channels, InputValue, SignalValue
from casc_core.engine.conditions import expect
from casc_core.engine.ops import AdaptiveAveragePool, AdaptiveMaxPool, Attribute, AveragePool, Call, MaxPool, PoolAt
from casc_core.engine.ops.op import Op
from casc_core.engine.pooling_windows import per_dimension


def _dims(module: nn.Module) -> int:
    """How many dimensions a layer slides over: the number in its name."""
    return int(next(kind.__name__[-2] for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")))


@RULES.module(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _max_pool_module(low: Lowering, module: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d, input: Any) -> SignalValue:
    m = module
    return _max_pool(
        low, input, _dims(m), m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    )


@RULES.function(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> SignalValue:  # fmt: skip
    return _max_pool(low, input, 2, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@RULES.function(F.max_pool3d, torch.max_pool3d)
def _max_pool3d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> SignalValue:  # fmt: skip
    return _max_pool(low, input, 3, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


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
    channels = _increasing(low, own, dims)
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


def _increasing(low: Lowering, x: SignalValue, dims: int) -> Channels | None:
    """How `x` is normalised, if its maxima over the last `dims` dimensions are those of what is normalised.

    Then spikes stay spikes for longer.
    """
    origin = x.origin
    if not isinstance(origin, Channels) or origin.along(-dims - 1, dims + 2) is None:
        return None
    if not bool((origin.factor > 0).all()):
        return None
    if origin.axis is not None and origin.rank is None:  # without a batch, dimension 1 would be among those pooled
        rank = InputValue(low.emit(Attribute(name="ndim"), origin.signal))
        has_batch = InputValue(low.emit(Call(function="operator.eq"), rank, dims + 2))
        low.check(expect, True, has_batch, low.line)
    return origin


def _normalised(low: Lowering, x: SignalValue, channels: Channels | None) -> SignalValue:
    if channels is None:
        return x
    return normalised(low, x, channels.factor, channels.centre, channels.offset, channels.axis)


def _positive(low: Lowering, x: SignalValue) -> SignalValue:
    return rescaled(low, x) if x.form.scale < 0 else x


def _pooled(low: Lowering, op: Op, x: SignalValue, *sizes: Any) -> SignalValue:
    """A maximum of `x`: a train, whatever was in its drive."""
    return SignalValue(low.emit(op, x, *sizes), maximum_form(x.form))


@RULES.module(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
def _adaptive_max_module(
    low: Lowering, module: nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d, input: Any
) -> SignalValue:
    return _adaptive_max(low, input, module.output_size, _dims(module), module.return_indices)


@RULES.function(F.adaptive_max_pool1d)
def _adaptive_max1d(low: Lowering, input: Any, output_size: Any, return_indices: bool = False) -> SignalValue:
    return _adaptive_max(low, input, output_size, 1, return_indices)


@RULES.function(F.adaptive_max_pool2d)
def _adaptive_max2d(low: Lowering, input: Any, output_size: Any, return_indices: bool = False) -> SignalValue:
    return _adaptive_max(low, input, output_size, 2, return_indices)


@RULES.function(F.adaptive_max_pool3d)
def _adaptive_max3d(low: Lowering, input: Any, output_size: Any, return_indices: bool = False) -> SignalValue:
    return _adaptive_max(low, input, output_size, 3, return_indices)


def _adaptive_max(low: Lowering, input: Any, output_size: Any, dims: int, indices: bool) -> SignalValue:
    if indices:
        raise low.refuse(INDICES)
    own, outputs = low.signal(input), _outputs(output_size, dims)
    channels = _increasing(low, own, dims)
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


@RULES.module(nn.AvgPool2d, nn.AvgPool3d)
def _average_pool_module(low: Lowering, module: nn.AvgPool2d | nn.AvgPool3d, input: Any) -> SignalValue:
    m = module
    return _average_pool(
        low, input, _dims(m), m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
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


@RULES.function(F.avg_pool3d)
def _average_pool3d(
    low: Lowering, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> SignalValue:  # fmt: skip
    return _average_pool(low, input, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


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


@RULES.module(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_average_module(
    low: Lowering, module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d, input: Any
) -> SignalValue:
    return _adaptive_average(low, input, module.output_size, _dims(module))


@RULES.function(F.adaptive_avg_pool1d)
def _adaptive_average1d(low: Lowering, input: Any, output_size: Any) -> SignalValue:
    return _adaptive_average(low, input, output_size, 1)


@RULES.function(F.adaptive_avg_pool2d)
def _adaptive_average2d(low: Lowering, input: Any, output_size: Any) -> SignalValue:
    return _adaptive_average(low, input, output_size, 2)


@RULES.function(F.adaptive_avg_pool3d)
def _adaptive_average3d(low: Lowering, input: Any, output_size: Any) -> SignalValue:
    return _adaptive_average(low, input, output_size, 3)


def _adaptive_average(low: Lowering, input: Any, output_size: Any, dims: int) -> SignalValue:
    x, outputs = low.signal(input), _outputs(output_size, dims)
    if outputs == [1] * dims:
        return total(low, x, True, tuple(range(-dims, 0)), True)
    op = AdaptiveAveragePool(name=low.node_name, outputs=outputs or [None] * dims)
    return SignalValue(low.emit(op, x, *_given(output_size)), replace(x.form, is_divided=True))
