"""Rules of convolutions, as modules and as calls, in one dimension and in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.lowering import Lowering
from casc_core.ops import Convolution, Layout
from casc_core.rules.affine import parameters, snapped_map
from casc_core.rules.normalisation import shifted
from casc_core.rules.table import RULES
from casc_core.values import Channels, Mapped, SignalValue
from casc_core.windows import per_dimension


def convolution(
    low: Lowering,
    x: SignalValue,
    weight: Tensor,
    bias: Tensor | None,
    name: str,
    *,
    dims: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> SignalValue:
    """`x` convolved with `weight` `[O, C/groups, kh, kw]`; `padding` is (top, bottom, left, right).

    What normalises `x` goes into the weights, channel by channel, and its offset into the drive, which the padding's zeros
    do not have.
    """
    weight, bias = weight.detach().double(), None if bias is None else bias.detach().double()
    source, spiking = x, weight
    if isinstance(x.origin, Channels):
        factor = x.origin.factor.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
        spiking = weight * factor.reshape(len(weight), -1, 1, 1)
        source = shifted(low, x.origin)
    snapped = snapped_map(low, source.form, spiking, weight, bias)
    op = Convolution(
        name=name, dims=dims, stride=stride, padding=padding, dilation=dilation, groups=groups, **snapped.arguments()
    )
    given: dict[str, Any] = {"dims": dims, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    before = weight.new_zeros(len(weight)) if bias is None else bias
    origin = Mapped(weight, before, lambda w, b: convolution(low, x, w, b, name, **given))
    return SignalValue(low.emit(op, source), snapped.form, origin)


@RULES.module(nn.Conv1d)
def _conv1d(low: Lowering, module: nn.Conv1d, input: Any) -> SignalValue:
    return _conv_module(low, module, input, 1)


@RULES.module(nn.Conv2d)
def _conv2d(low: Lowering, module: nn.Conv2d, input: Any) -> SignalValue:
    return _conv_module(low, module, input, 2)


def _conv_module(low: Lowering, module: nn.Conv1d | nn.Conv2d, input: Any, dims: int) -> SignalValue:
    x = low.signal(input)
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        around = list(module._reversed_padding_repeated_twice)
        x, padding = SignalValue(low.emit(Layout(function="F.pad"), x, around, module.padding_mode), x.form), 0
    return _convolved(low, x, module.weight, module.bias, module.stride, padding, module.dilation, module.groups, dims)


@RULES.function(F.conv2d, torch.conv2d)
def _conv2d_call(
    low: Lowering, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> SignalValue:  # fmt: skip
    known, known_bias = parameters(low, weight, bias)
    return _convolved(low, low.signal(input), known, known_bias, stride, padding, dilation, groups, 2)


@RULES.function(F.conv1d, torch.conv1d)
def _conv1d_call(
    low: Lowering, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> SignalValue:  # fmt: skip
    known, known_bias = parameters(low, weight, bias)
    return _convolved(low, low.signal(input), known, known_bias, stride, padding, dilation, groups, 1)


def _convolved(
    low: Lowering, x: SignalValue, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: int, dims: int,
) -> SignalValue:  # fmt: skip
    """A convolution as torch describes it, in one dimension or two, as one in two."""
    kernel = weight.shape[2:]
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
        low,
        x,
        weight,
        bias,
        low.node_name,
        dims=dims,
        stride=strides,
        padding=around,
        dilation=dilations,
        groups=groups,
    )
