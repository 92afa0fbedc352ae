"""Rules of convolutions, as modules and as calls, in one dimension, two and three, and of transposed ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.graph import ConvolutionMap, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.affine import parameters
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Layout
from casc_core.engine.products.pooling_windows import per_dimension


def convolution(
    reader: Reader, x: SignalNode, weight: Tensor, bias: Tensor | None, name: str, *, dims: int, groups: int,
    **geometry: Any,
) -> SignalNode:  # fmt: skip
    """`x` convolved with `weight` `[O, C/groups, kh, kw]`, in three dimensions `[O, C/groups, kd, kh, kw]`.

    Args:
        x, weight, bias, name: as those of `linear_map`.
        dims: 1, 2 or 3 spatial dimensions. In one, weight and geometry are those of two, the first of which has size 1.
        groups: as in `torch.nn.Conv2d`.
        geometry: `stride` and `dilation`, a number for each dimension; `padding`, two for each, before and behind it; and
            `spread`, how far a transposed convolution moves its inputs apart.
    """
    given = weight.detach().double(), None if bias is None else bias.detach().double()
    sizes = {what: list(each) for what, each in geometry.items()}
    return reader.add(ConvolutionMap(x, *given, name, dims, groups, sizes))


@RULES.module(nn.Conv1d, nn.Conv2d, nn.Conv3d, trace_overrides=True)
def _convolution_module(reader: Reader, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Any) -> SignalNode:
    m, x = module, reader.signal(input)
    padding: Any = m.padding
    if m.padding_mode != "zeros":
        around = list(m._reversed_padding_repeated_twice)
        x, padding = reader.apply(Layout(function="F.pad"), x, around, m.padding_mode), 0
    return _convolved(reader, x, m.weight, m.bias, m.stride, padding, m.dilation, m.groups)


@RULES.function(F.conv1d, torch.conv1d, F.conv2d, torch.conv2d, F.conv3d, torch.conv3d)
def _convolution_call(
    reader: Reader, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> SignalNode:  # fmt: skip
    known, known_bias = parameters(reader, weight, bias)
    return _convolved(reader, reader.signal(input), known, known_bias, stride, padding, dilation, groups)


def _convolved(
    reader: Reader, x: SignalNode, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: int,
) -> SignalNode:  # fmt: skip
    """A convolution as torch describes it, of weights `[O, C/groups, ...]`; in one dimension it is one in two."""
    kernel = weight.shape[2:]
    dims = len(kernel)
    strides, dilations = per_dimension(stride, dims), per_dimension(dilation, dims)
    around: list[int] = []
    if padding == "same":
        for size, by in zip(kernel, dilations, strict=True):
            around += [by * (size - 1) // 2, by * (size - 1) - by * (size - 1) // 2]
    else:
        around = [size for size in per_dimension(0 if padding == "valid" else padding, dims) for _ in range(2)]
    if dims == 1:
        weight, strides, dilations, around = weight.unsqueeze(2), [1, *strides], [1, *dilations], [0, 0, *around]
    return convolution(
        reader,
        x,
        weight,
        bias,
        reader.name,
        dims=dims,
        stride=strides,
        padding=around,
        dilation=dilations,
        groups=groups,
    )


@RULES.module(nn.ConvTranspose1d, nn.ConvTranspose2d, trace_overrides=True)
def _transposed_module(
    reader: Reader, module: nn.ConvTranspose1d | nn.ConvTranspose2d, input: Any, output_size: Any = None
) -> SignalNode:
    if output_size is not None:
        raise reader.refuse("its output_size is read from the inputs; give the module an output_padding in its place")
    m, x = module, reader.signal(input)
    return _transposed(reader, x, m.weight, m.bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation)


@RULES.function(F.conv_transpose1d, torch.conv_transpose1d, F.conv_transpose2d, torch.conv_transpose2d)
def _transposed_call(
    reader: Reader, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> SignalNode:  # fmt: skip
    known, known_bias = parameters(reader, weight, bias)
    return _transposed(
        reader, reader.signal(input), known, known_bias, stride, padding, output_padding, groups, dilation
    )


def _transposed(
    reader: Reader, x: SignalNode, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> SignalNode:  # fmt: skip
    """A convolution of the inputs moved apart by the stride, with the kernel turned around."""
    inputs, outputs, *kernel = weight.shape  # [C, O/groups, ...]
    dims = len(kernel)
    apart, dilations = per_dimension(stride, dims), per_dimension(dilation, dims)
    around: list[int] = []
    for size, by, less, more in zip(
        kernel, dilations, per_dimension(padding, dims), per_dimension(output_padding, dims), strict=True
    ):
        around += [by * (size - 1) - less, by * (size - 1) - less + more]
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    turned = grouped.flatten(0, 1).flip(tuple(range(-dims, 0)))
    if dims == 1:
        turned, apart, dilations, around = turned.unsqueeze(2), [1, *apart], [1, *dilations], [0, 0, *around]
    return convolution(
        reader, x, turned, bias, reader.name, dims=dims, stride=[1, 1], padding=around, dilation=dilations, groups=groups,
        spread=apart,
    )  # fmt: skip
