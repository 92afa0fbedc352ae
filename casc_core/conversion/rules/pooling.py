"""Rules of pooling: maxima and averages over windows, and over parts that adapt to the input."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.graph import Applied, InputNode, Maximum, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.reduction import MaxResult, total
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import AdaptiveAveragePool, AdaptiveMaxPool, AveragePool, Max, MaxPool, PoolAt
from casc_core.engine.products.pooling_windows import per_dimension


def _dims(module: nn.Module) -> int:
    """How many dimensions a layer slides over: the number in its name."""
    return int(next(kind.__name__[-2] for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")))


def _dims_of_call(reader: Reader) -> int:
    """How many dimensions the function that is called slides over."""
    return int(reader.target.__name__.removesuffix("_with_indices")[-2])


@RULES.module(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, trace_overrides=True)
def _max_pool_module(
    reader: Reader, module: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d, input: Any
) -> SignalNode | MaxResult:
    m = module
    return _max_pool(
        reader, input, _dims(m), m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    )


@RULES.function(
    F.max_pool1d, torch.max_pool1d, F.max_pool2d, torch.max_pool2d, F.max_pool3d, torch.max_pool3d,
    F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices,
)  # fmt: skip
def _max_pool_call(
    reader: Reader, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> SignalNode | MaxResult:  # fmt: skip
    dims, indices = _dims_of_call(reader), return_indices or _gives_indices(reader)
    return _max_pool(reader, input, dims, kernel_size, stride, padding, dilation, ceil_mode, indices)


def _gives_indices(reader: Reader) -> bool:
    return bool(reader.target.__name__.endswith("_with_indices"))


def _max_pool(
    reader: Reader, input: Any, dims: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    indices: bool,
) -> SignalNode | MaxResult:  # fmt: skip
    values = _largest(reader, input, dims, kernel, stride, padding, dilation, ceil_mode)
    return MaxResult(values) if indices else values


def _largest(
    reader: Reader, input: Any, dims: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> SignalNode:
    x, around, apart = reader.signal(input), per_dimension(padding, dims), per_dimension(dilation, dims)
    if _is_read(kernel, stride):
        at = PoolAt(
            name=reader.name, maximum=True, padding=around, dilation=apart, ceil_mode=bool(ceil_mode),
            count_include_pad=True,
        )  # fmt: skip
        return reader.add(Maximum(at, x, (kernel, stride), dims=dims))
    size = per_dimension(kernel, dims)
    op = MaxPool(
        name=reader.name, kernel=size, stride=_stride(stride, size, dims), padding=around, dilation=apart,
        ceil_mode=bool(ceil_mode),
    )  # fmt: skip
    return reader.add(Maximum(op, x, dims=dims))


def _is_read(*values: Any) -> bool:
    """Whether a size is computed from the inputs."""
    return any(
        isinstance(each, InputNode)
        for value in values
        for each in (value if isinstance(value, (tuple, list)) else [value])
    )


def _stride(stride: Any, kernel: list[int], dims: int) -> list[int]:
    return kernel if stride is None or stride == [] else per_dimension(stride, dims)


@RULES.module(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
def _adaptive_max_module(
    reader: Reader, module: nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d, input: Any
) -> SignalNode | MaxResult:
    return _adaptive_max(reader, input, module.output_size, _dims(module), module.return_indices)


@RULES.function(
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d, F.adaptive_max_pool1d_with_indices,
    F.adaptive_max_pool2d_with_indices, F.adaptive_max_pool3d_with_indices,
)  # fmt: skip
def _adaptive_max_call(
    reader: Reader, input: Any, output_size: Any, return_indices: bool = False
) -> SignalNode | MaxResult:
    indices = return_indices or _gives_indices(reader)
    return _adaptive_max(reader, input, output_size, _dims_of_call(reader), indices)


def _adaptive_max(reader: Reader, input: Any, output_size: Any, dims: int, indices: bool) -> SignalNode | MaxResult:
    values = _largest_of_parts(reader, input, output_size, dims)
    return MaxResult(values) if indices else values


def _largest_of_parts(reader: Reader, input: Any, output_size: Any, dims: int) -> SignalNode:
    x, outputs = reader.signal(input), _outputs(output_size, dims)
    if outputs == [1] * dims:
        return reader.add(Maximum(Max(), x, kwargs={"dim": tuple(range(-dims, 0)), "keepdim": True}, dims=dims))
    op = AdaptiveMaxPool(name=reader.name, outputs=outputs or [None] * dims)
    return reader.add(Maximum(op, x, _given(output_size), dims=dims))


def _given(output_size: Any) -> tuple[Any, ...]:
    """Sizes to give with the call: those that are computed from the inputs."""
    return (output_size,) if _is_read(output_size) else ()


def _outputs(output_size: Any, dims: int) -> list[int | None]:
    """The sizes of a pool's output, one for each dimension; none where the inputs decide them."""
    if _is_read(output_size):
        return []
    sizes = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size] * dims
    return sizes * dims if len(sizes) == 1 else sizes


@RULES.module(nn.AvgPool1d, trace_overrides=True)
def _average_pool1d_module(reader: Reader, module: nn.AvgPool1d, input: Any) -> SignalNode:
    m = module
    return _average_pool(reader, input, 1, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, None)


@RULES.module(nn.AvgPool2d, nn.AvgPool3d, trace_overrides=True)
def _average_pool_module(reader: Reader, module: nn.AvgPool2d | nn.AvgPool3d, input: Any) -> SignalNode:
    m = module
    divisor = m.divisor_override
    return _average_pool(
        reader, input, _dims(m), m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor
    )


@RULES.function(F.avg_pool1d)
def _average_pool1d(
    reader: Reader, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> SignalNode:  # fmt: skip
    return _average_pool(reader, input, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@RULES.function(F.avg_pool2d, F.avg_pool3d)
def _average_pool_call(
    reader: Reader, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> SignalNode:  # fmt: skip
    dims = _dims_of_call(reader)
    return _average_pool(
        reader, input, dims, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _average_pool(
    reader: Reader, input: Any, dims: int, kernel: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor: int | None,
) -> SignalNode:  # fmt: skip
    x, around = reader.signal(input), per_dimension(padding, dims)
    if _is_read(kernel, stride) and divisor is None:
        at = PoolAt(
            name=reader.name, maximum=False, padding=around, dilation=[1] * dims, ceil_mode=bool(ceil_mode),
            count_include_pad=bool(count_include_pad),
        )  # fmt: skip
        return reader.add(Applied(at, (x, kernel, stride), terms=None, divides=True))
    if divisor == 0:
        raise reader.refuse("a divisor_override of 0; leave it out for the mean, or give 1 for the sum")
    size = per_dimension(kernel, dims)
    entries = math.prod(size)
    # Where every window holds as many entries, their number is a constant, which later weights take in.
    constant = divisor if divisor is not None else entries
    divides = divisor is None and (bool(ceil_mode) or (any(around) and not count_include_pad))
    op = AveragePool(
        name=reader.name, kernel=size, stride=_stride(stride, size, dims), padding=around, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad), divides=divides,
    )  # fmt: skip
    scale = Fraction(1) if divides else Fraction(1, constant)
    return reader.add(Applied(op, (x,), scale=scale, terms=entries, divides=divides))


@RULES.module(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_average_module(
    reader: Reader, module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d, input: Any
) -> SignalNode:
    return adaptive_average(reader, input, module.output_size, _dims(module))


@RULES.function(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
def _adaptive_average_call(reader: Reader, input: Any, output_size: Any) -> SignalNode:
    return adaptive_average(reader, input, output_size, _dims_of_call(reader))


def adaptive_average(reader: Reader, input: Any, output_size: Any, dims: int) -> SignalNode:
    x, outputs = reader.signal(input), _outputs(output_size, dims)
    if outputs == [1] * dims:
        return total(reader, x, True, tuple(range(-dims, 0)), True)
    op = AdaptiveAveragePool(name=reader.name, outputs=outputs or [None] * dims)
    return reader.add(Applied(op, (x, *_given(output_size)), divides=True))
