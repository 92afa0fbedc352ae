"""Rules of whatever only rearranges, joins or passes on."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.arithmetic import common_scale, joint_form
from casc_core.conversion.rules.reduction import masked_fill
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import InputValue, PartsValue, SignalValue
from casc_core.conversion.tracing.randomness import DROPOUTS, rate
from casc_core.engine.conditions import expect_parts
from casc_core.engine.functions import ATTRIBUTES, FIELDS
from casc_core.engine.ops import (
    Attribute,
    Call,
    Join,
    Layout,
    Pick,
)
from casc_core.engine.ops.layout import SPLITS


@RULES.function("layout")
def _layout(low: Lowering, function: str, x: SignalValue, *args: Any, **kwargs: Any) -> SignalValue | PartsValue:
    """The user's own rearrangement, applied at every step."""
    if any(isinstance(value, torch.dtype) for value in (*args, *kwargs.values())):
        raise low.refuse("it reads the bits of numbers as those of another type; leave it out")
    if function == "Tensor.view":  # where a view is possible the two are one, but strides differ here
        function = "Tensor.reshape"
    ref = low.emit(Layout(function=function), x, *args, **kwargs)
    splits = function.rsplit(".", 1)[-1] in SPLITS
    return PartsValue(ref, x.form) if splits else SignalValue(ref, x.form)


@RULES.function(operator.getitem)
def _getitem(low: Lowering, x: Any, index: Any) -> Any:
    if isinstance(x, PartsValue):
        return SignalValue(low.emit(Pick(index=index, count=x.count, line=x.line), x), x.form)
    if isinstance(x, tuple):
        return x[index]
    return _layout(low, "operator.getitem", x, index)


@RULES.function(expect_parts)
def _expect_parts(low: Lowering, x: PartsValue, count: int, line: str) -> PartsValue:
    return replace(x, count=count, line=line)


@RULES.function(getattr)
def _getattr(low: Lowering, x: Any, name: str) -> Any:
    if isinstance(x, tuple):
        if name not in FIELDS:
            raise low.refuse(f"it reads the field {name!r} of a maximum, whose fields are {' and '.join(FIELDS)}")
        return _getitem(low, x, FIELDS.index(name))
    if name in ("T", "mT"):
        return _layout(low, "Tensor.transpose", x, -2, -1) if name == "mT" else _layout(low, "Tensor.t", x)
    if name not in ATTRIBUTES:
        raise low.refuse(f"it reads the attribute {name!r} of a spiking tensor")
    return InputValue(low.emit(Attribute(name=name), x))


@RULES.function("size")
def _size(low: Lowering, x: SignalValue, dim: int | None = None) -> InputValue:
    shape = InputValue(low.emit(Attribute(name="shape"), x))
    if dim is None:
        return shape
    return InputValue(low.emit(Call(function="operator.getitem"), shape, dim))


@RULES.function("dim")
def _dim(low: Lowering, x: SignalValue) -> InputValue:
    return InputValue(low.emit(Attribute(name="ndim"), x))


@RULES.function(torch.cat, torch.concat, torch.concatenate)
def _cat(low: Lowering, tensors: Any, dim: int = 0) -> SignalValue:
    return join(low, tensors, dim, stack=False)


@RULES.function(torch.stack)
def _stack(low: Lowering, tensors: Any, dim: int = 0) -> SignalValue:
    return join(low, tensors, dim, stack=True)


def join(low: Lowering, tensors: Any, dim: int, stack: bool) -> SignalValue:
    """Concatenation or stack of signals, brought to one scale."""
    if isinstance(tensors, PartsValue):
        return SignalValue(low.emit(Join(stack=stack), tensors, dim=dim), tensors.form)
    signals = common_scale(low, [low.signal(tensor) for tensor in tensors])
    if len(signals) == 1 and not stack:
        return signals[0]
    forms = [signal.form for signal in signals]
    form = joint_form(forms, max(form.drive_reach for form in forms))
    return SignalValue(low.emit(Join(stack=stack), signals, dim=dim), form)


@RULES.module(
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity
)
def _identity(low: Lowering, module: nn.Module, input: Any) -> Any:
    return input


@RULES.function(*DROPOUTS)
def _dropout(low: Lowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    assert low.node is not None
    if rate(low.node.target, (input, *args), kwargs) == 0:
        return input
    raise low.refuse(
        "it is random in evaluation too; pass training=self.training, which F.dropout does not do by itself, or use an "
        "nn.Dropout module"
    )


@RULES.function(F.pad)
def _pad(low: Lowering, input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    x = low.signal(input)
    padded = low.signal(_layout(low, "F.pad", x, list(pad), mode))
    if mode != "constant" or value in (None, 0):
        return padded
    sizes = low.emit(Call(function="operator.getitem"), _size(low, x), slice(-(len(pad) // 2), None))
    inside = low.emit(Call(function="torch.ones"), sizes, device=_getattr(low, x, "device"))
    everywhere = low.emit(Call(function="F.pad"), inside, list(pad))
    outside = low.emit(Call(function="operator.eq"), everywhere, 0)
    return masked_fill(low, padded, InputValue(outside), value)


@RULES.module(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d, nn.CircularPad2d,
)  # fmt: skip
def _pad_module(low: Lowering, module: Any, input: Any) -> Any:
    kinds = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    mode = next((mode for kind, mode in kinds.items() if type(module).__name__.startswith(kind)), "constant")
    return _pad(low, input, module.padding, mode, getattr(module, "value", None))


@RULES.function(F.pixel_shuffle, torch.pixel_shuffle)
def _pixel_shuffle(low: Lowering, input: Any, upscale_factor: int) -> Any:
    return _layout(low, "F.pixel_shuffle", low.signal(input), upscale_factor)


@RULES.module(nn.PixelShuffle)
def _pixel_shuffle_module(low: Lowering, module: nn.PixelShuffle, input: Any) -> Any:
    return _pixel_shuffle(low, input, module.upscale_factor)


@RULES.function(F.pixel_unshuffle, torch.pixel_unshuffle)
def _pixel_unshuffle(low: Lowering, input: Any, downscale_factor: int) -> Any:
    return _layout(low, "F.pixel_unshuffle", low.signal(input), downscale_factor)


@RULES.module(nn.PixelUnshuffle)
def _pixel_unshuffle_module(low: Lowering, module: nn.PixelUnshuffle, input: Any) -> Any:
    return _pixel_unshuffle(low, input, module.downscale_factor)


@RULES.function(F.channel_shuffle, torch.channel_shuffle)
def _channel_shuffle(low: Lowering, input: Any, groups: int) -> Any:
    return _layout(low, "F.channel_shuffle", low.signal(input), groups)


@RULES.module(nn.ChannelShuffle)
def _channel_shuffle_module(low: Lowering, module: nn.ChannelShuffle, input: Any) -> Any:
    return _channel_shuffle(low, input, module.groups)


@RULES.module(nn.Unflatten)
def _unflatten(low: Lowering, module: nn.Unflatten, input: Any) -> Any:
    return _layout(low, "Tensor.unflatten", low.signal(input), module.dim, module.unflattened_size)


@RULES.module(nn.Flatten)
def _flatten(low: Lowering, module: nn.Flatten, input: SignalValue) -> Any:
    return _layout(low, "torch.flatten", low.signal(input), module.start_dim, module.end_dim)
