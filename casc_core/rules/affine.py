"""Rules of linear maps: linear layers, convolutions, embeddings, batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.lowering import Channels, Form, InputValue, Lowering, Mapped, SignalValue
from casc_core.numerics import binade, stored
from casc_core.ops import Convolution, Layout, Linear, RequireFeatures, Scale, Shift, exact_product
from casc_core.rules.table import RULES

# Real-valued tables and currents keep this many bits; their products then fit float64 with room to spare.
TABLE_BITS = 22
DRIVE_BITS = 26
# Biases are up to this many bits finer than the weights beside them.
BIAS_BITS = 6


def linear_map(
    low: Lowering, x: SignalValue, weight: Tensor, bias: Tensor | None, name: str, exponent: int | None = None
) -> SignalValue:
    """`x @ weight.T + bias`, the scale of `x` folded into the weights before they are snapped.

    `exponent` asks for a result no finer than this grid; by default the weights' own bits decide.
    """
    weight, bias = weight.detach().double(), None if bias is None else bias.detach().double()
    channels, centre = low.channels.get(x.ref.name), None
    if channels is not None and len(channels.factor) == weight.shape[1]:
        bias = weight @ channels.offset + (0.0 if bias is None else bias)
        weight, centre = weight * channels.factor, channels.centre
        x = SignalValue(low.emit(RequireFeatures(name=name), channels.signal), channels.signal.form)
    snapped = _snapped_map(low, x.form, weight, weight, bias, exponent, centre)
    if x.ref.name in low.tables and snapped.fine is not None:
        table, tokens, embedding = low.tables[x.ref.name]
        table = exact_product(low.numerics, table, snapped.fine, snapped.input_exponent, snapped.fine_exponent, name)
        table = low.numerics.snap(table, snapped.drive_exponent)
        table = table if snapped.bias is None else table + snapped.bias
        return SignalValue(low.look_up(tokens, table, embedding), snapped.form)
    return SignalValue(low.emit(Linear(name=name, **snapped.arguments()), x), snapped.form)


@dataclass(frozen=True)
class SnappedMap:
    """A linear map on its grids: `weight` for spikes, `fine` for real-valued input, and the form of what it gives."""

    weight: Tensor | None
    fine: Tensor | None
    bias: Tensor | None
    input_exponent: int
    fine_exponent: int
    drive_exponent: int
    form: Form

    def arguments(self) -> dict[str, Any]:
        """What an `AffineMap` is made from, but for its name and geometry."""
        return {
            "weight": None if self.weight is None else stored(self.weight),
            "fine": None if self.fine is None else stored(self.fine),
            "bias": self.bias,
            "exponent": self.form.exponent or 0,
            "input_exponent": self.input_exponent,
            "fine_exponent": self.fine_exponent,
            "drive_exponent": self.drive_exponent,
        }


def _snapped_map(
    low: Lowering,
    form: Form,
    weight: Tensor,
    real: Tensor,
    bias: Tensor | None,
    exponent: int | None = None,
    centre: Tensor | None = None,
) -> SnappedMap:
    """A map of a signal of this form, float64: `weight` for its spikes, `real` for its drive.

    Args:
        exponent: the result is no finer than this grid; None: the weights' own bits decide.
        centre: of the inputs; rounding of the weights is to leave it where it is.
    """
    numerics = low.numerics
    weight, real = weight * form.scale, real * form.scale
    snapped = fine = None
    out_exponent, fine_exponent, drive_exponent = None, 0, exponent
    drive_reach = 0.0
    if form.exponent is not None:
        own = numerics.weight_exponent(weight)
        if exponent is not None:
            own = max(own, exponent - form.exponent)
        snapped = numerics.snap(weight, own)
        out_exponent = form.exponent + own
    if form.drive_exponent is not None:
        drive_reach += form.drive_reach * float(real.abs().flatten(1).sum(1).max())
        fine_exponent = numerics.weight_exponent(real, bits=24)
        fine = numerics.snap(real, fine_exponent)
    if centre is not None and bias is not None:
        # Of the snapped weights, so that what snapping moved is multiplied by x - centre, and not by x.
        used = next(w for w in (snapped, fine) if w is not None)
        bias = bias - used @ (centre / form.scale)
    if bias is not None:
        drive_reach += float(bias.abs().max())
    if drive_exponent is None:
        drive_exponent = binade(max(drive_reach, 1e-30)) - DRIVE_BITS
        if out_exponent is not None:  # much finer than what it is added to would only cost range
            drive_exponent = max(drive_exponent, out_exponent - BIAS_BITS)
    if bias is not None:
        bias = numerics.snap(bias, drive_exponent)
    driven = bias is not None or fine is not None
    result = Form(1.0, out_exponent, drive_exponent if driven else None, drive_reach)
    return SnappedMap(snapped, fine, bias, form.drive_exponent or 0, fine_exponent, drive_exponent, result)


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
    source, spiking, channels = x, weight, low.channels.get(x.ref.name)
    if channels is not None:
        factor = channels.factor.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
        spiking = weight * factor.reshape(len(weight), -1, 1, 1)
        source = shifted(low, channels)
    snapped = _snapped_map(low, source.form, spiking, weight, bias)
    op = Convolution(
        name=name, dims=dims, stride=stride, padding=padding, dilation=dilation, groups=groups, **snapped.arguments()
    )
    result = SignalValue(low.emit(op, source), snapped.form)
    given: dict[str, Any] = {"dims": dims, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    low.maps[result.ref.name] = Mapped(weight, bias, lambda w, b: convolution(low, x, w, b, name, **given))
    return result


def shifted(low: Lowering, channels: Channels) -> SignalValue:
    """A normalised signal without its factor: the train as it is, the drive normalised."""
    x, numerics = channels.signal, low.numerics
    offset = channels.offset - channels.factor * channels.centre
    # In the units of the train, as the drive is.
    offset, factor = offset / x.form.scale, channels.factor
    fine_exponent = numerics.weight_exponent(factor, bits=24)
    reach = x.form.drive_reach * float(factor.abs().max()) + float(offset.abs().max())
    exponent = binade(max(reach, 1e-30)) - DRIVE_BITS
    op = Shift(
        factor=numerics.snap(factor, fine_exponent), offset=numerics.snap(offset, exponent), drive_exponent=exponent
    )
    return SignalValue(low.emit(op, x), replace(x.form, drive_exponent=exponent, drive_reach=reach))


@RULES.module(nn.Linear)
def _linear_module(low: Lowering, module: nn.Linear, input: Any) -> SignalValue:
    return linear_map(low, low.signal(input), module.weight, module.bias, low.node_name)


@RULES.module(nn.Embedding)
def _embedding(low: Lowering, module: nn.Embedding, input: Any) -> SignalValue:
    if module.max_norm is not None:
        raise low.refuse(
            "max_norm rescales the table while it runs; renormalise the weights once and set max_norm=None"
        )
    if not isinstance(input, InputValue):
        raise low.refuse("its token ids come from spiking neurons; an embedding can only read the input")
    return embed(low, input, module.weight)


def embed(low: Lowering, tokens: InputValue, table: Tensor) -> SignalValue:
    """Rows of `table`, on a fine grid."""
    table = table.detach().double()
    exponent = low.numerics.weight_exponent(table, bits=TABLE_BITS)
    snapped = low.numerics.snap(table, exponent)
    ref = low.look_up(tokens, snapped, low.node_name)
    return SignalValue(ref, Form(drive_exponent=exponent, drive_reach=float(table.abs().max())))


def rescaled(low: Lowering, x: SignalValue, target: float) -> SignalValue:
    """`x` with its scale changed to `target`: its numbers times one snapped factor."""
    factor = torch.tensor(x.form.scale / target, dtype=torch.float64)
    return x if float(factor) == 1.0 else scaled(low, x, factor, None, target)


def scaled(low: Lowering, x: SignalValue, factor: Tensor, shift: Tensor | None, scale: float) -> SignalValue:
    """`x` times `factor` plus `shift`, each one number or one for each channel; the result has this scale."""
    form, numerics = x.form, low.numerics
    coarse, exponent = _snapped_factor(low, factor, None)
    fine, fine_exponent = _snapped_factor(low, factor, 24)
    reach, drive_exponent = form.drive_reach * float(fine.abs().max()), None
    if shift is not None:
        reach += float(shift.abs().max())
    if form.drive_exponent is not None or shift is not None:
        drive_exponent = binade(max(reach, 1e-30)) - DRIVE_BITS
        if form.drive_exponent is not None:
            drive_exponent = max(form.drive_exponent + fine_exponent, drive_exponent)
    shift = None if shift is None else numerics.snap(shift, drive_exponent or 0)
    ref = low.emit(Scale(factor=coarse, fine=fine, shift=shift, drive_exponent=drive_exponent or 0), x)
    out_exponent = None if form.exponent is None else form.exponent + exponent
    return SignalValue(ref, Form(scale, out_exponent, drive_exponent, reach))


def _snapped_factor(low: Lowering, factor: Tensor, bits: int | None) -> tuple[Tensor, int]:
    """`factor` on a grid, and the coarsest such grid: a half takes one bit, a third takes them all."""
    exponent = low.numerics.weight_exponent(factor, bits=bits)
    snapped = low.numerics.snap(factor, exponent)
    while bool(snapped.any()) and bool((snapped * 2.0 ** -(exponent + 1) % 1 == 0).all()):
        exponent += 1
    return snapped, exponent


@RULES.function(F.linear)
def _linear_call(low: Lowering, input: Any, weight: Any, bias: Any = None) -> SignalValue:
    return linear_map(low, low.signal(input), *_parameters(low, weight, bias), low.node_name)


def _parameters(low: Lowering, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a functional call, which must be parameters as they stand."""
    known, known_bias = low.constant(weight), low.constant(bias)
    if known is None or (bias is not None and known_bias is None):
        raise low.refuse("its weights are computed in the forward; only parameters as they stand can be snapped")
    return known, known_bias


@RULES.module(nn.Conv1d)
def _conv1d(low: Lowering, module: nn.Conv1d, input: Any) -> SignalValue:
    return _conv_module(low, module, input, 1)


@RULES.module(nn.Conv2d)
def _conv2d(low: Lowering, module: nn.Conv2d, input: Any) -> SignalValue:
    return _conv_module(low, module, input, 2)


def _conv_module(low: Lowering, module: nn.Conv1d | nn.Conv2d, input: Any, dims: int) -> SignalValue:
    x, padding = low.signal(input), module.padding
    if module.padding_mode != "zeros":
        around = list(module._reversed_padding_repeated_twice)
        x, padding = SignalValue(low.emit(Layout(function="F.pad"), x, around, module.padding_mode), x.form), 0
    return _convolved(
        low, x, module.weight, module.bias, module.stride, padding, module.dilation, module.groups, dims
    )


@RULES.function(F.conv2d, torch.conv2d)
def _conv2d_call(
    low: Lowering, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> SignalValue:  # fmt: skip
    known, known_bias = _parameters(low, weight, bias)
    return _convolved(low, low.signal(input), known, known_bias, stride, padding, dilation, groups, 2)


@RULES.function(F.conv1d, torch.conv1d)
def _conv1d_call(
    low: Lowering, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> SignalValue:  # fmt: skip
    known, known_bias = _parameters(low, weight, bias)
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
        low, x, weight, bias, low.node_name, dims=dims, stride=strides, padding=around, dilation=dilations, groups=groups
    )


def per_dimension(value: Any, dims: int) -> list[int]:
    """One number for each dimension from one for all, or one for each.

    >>> per_dimension(3, 2), per_dimension((1, 2), 2), per_dimension([5], 2)
    ([3, 3], [1, 2], [5, 5])
    """
    values = [int(value)] if isinstance(value, int) else [int(each) for each in value]
    return values * dims if len(values) == 1 else values


@RULES.module(nn.BatchNorm1d, nn.BatchNorm2d)
def batch_norm(low: Lowering, module: nn.BatchNorm1d | nn.BatchNorm2d, input: Any) -> SignalValue:
    """Its statistics are fixed after training, so it is one factor and one shift for each channel."""
    if module.running_mean is None or module.running_var is None:
        raise low.refuse("it has no running statistics, so it depends on the batch; use track_running_stats=True")
    weight, bias = (module.weight, module.bias) if module.affine else (None, None)
    return _normalised(low, low.signal(input), module.running_mean, module.running_var, weight, bias, module.eps)


@RULES.function(F.batch_norm)
def _batch_norm_call(
    low: Lowering, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> SignalValue:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise low.refuse("it normalises by the statistics of the batch; convert the model in evaluation mode")
    mean, variance, factor, offset = (low.constant(value) for value in (running_mean, running_var, weight, bias))
    unknown = [value for value, known in ((weight, factor), (bias, offset)) if value is not None and known is None]
    if mean is None or variance is None or unknown:
        raise low.refuse("its statistics are computed in the forward; only buffers as they stand can be folded")
    return _normalised(low, low.signal(input), mean, variance, factor, offset, eps)


def _normalised(
    low: Lowering, x: SignalValue, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> SignalValue:
    factor, centre = (variance.detach().double() + eps).rsqrt(), mean.detach().double()
    offset = torch.zeros_like(factor) if bias is None else bias.detach().double()
    factor = factor if weight is None else factor * weight.detach().double()
    mapped = low.maps.get(x.ref.name)
    if mapped is not None and x.form.scale == 1.0:
        before = torch.zeros_like(factor) if mapped.bias is None else mapped.bias
        return mapped.again(mapped.weight * factor.reshape(-1, 1, 1, 1), (before - centre) * factor + offset)
    result = scaled(low, x, factor * x.form.scale, offset - factor * centre, 1.0)
    # A linear layer that follows takes it into its weights; then nothing reads the scaled signal, and it is dropped.
    low.channels[result.ref.name] = Channels(x, factor, centre, offset)
    return result
