"""Rules of whatever only rearranges, joins or passes on."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.graph import Concatenation, Counted, InputNode, PartsNode, SignalNode, Split
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.reduction import masked_fill
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.tracing.known_sizes import UNKNOWN_PARTS
from casc_core.conversion.tracing.randomness import DROPOUTS, rate
from casc_core.engine.conditions import expect_parts
from casc_core.engine.functions import ATTRIBUTES, FIELDS
from casc_core.engine.ops import Join, Layout, Pick
from casc_core.engine.ops.layout import SPLITS


@RULES.function("layout")
def _layout(reader: Reader, function: str, x: SignalNode, *args: Any, **kwargs: Any) -> SignalNode | PartsNode:
    """The user's own rearrangement, applied at every step."""
    if any(isinstance(value, torch.dtype) for value in (*args, *kwargs.values())):
        raise reader.refuse("it reads the bits of numbers as those of another type; leave it out")
    if function == "Tensor.view":  # where a view is possible the two are one, but strides differ here
        function = "Tensor.reshape"
    op = Layout(function=function)
    if function.rsplit(".", 1)[-1] in SPLITS:
        return reader.add(Split(op, (x, *args), kwargs))
    return reader.apply(op, x, *args, **kwargs)


@RULES.function(operator.getitem)
def _getitem(reader: Reader, x: Any, index: Any) -> Any:
    if isinstance(x, PartsNode):
        if not isinstance(index, int):
            raise reader.refuse(f"what it reads {UNKNOWN_PARTS}")
        return reader.apply(Pick(index=index, count=x.count, line=x.line), x)
    if isinstance(x, tuple):
        return x[index]
    return _layout(reader, "operator.getitem", x, index)


def halves(reader: Reader, x: SignalNode, dim: int) -> tuple[Any, Any]:
    """The two halves of a signal along a dimension."""
    both = _layout(reader, "Tensor.chunk", x, 2, dim)
    return _getitem(reader, both, 0), _getitem(reader, both, 1)


@RULES.function(expect_parts)
def _expect_parts(reader: Reader, x: PartsNode, count: int, line: str) -> PartsNode:
    return reader.add(Counted(x, count, line))


@RULES.function(getattr)
def _getattr(reader: Reader, x: Any, name: str) -> Any:
    if isinstance(x, tuple):
        if name not in FIELDS:
            raise reader.refuse(f"it reads the field {name!r} of a maximum, whose fields are {' and '.join(FIELDS)}")
        return _getitem(reader, x, FIELDS.index(name))
    if name == "data":  # what gradients are not taken of
        return x
    if name in ("T", "mT"):
        return _layout(reader, "Tensor.transpose", x, -2, -1) if name == "mT" else _layout(reader, "Tensor.t", x)
    if name not in ATTRIBUTES:
        raise reader.refuse(f"it reads the attribute {name!r} of a spiking tensor")
    return reader.attribute(x, name)


@RULES.function("size")
def _size(reader: Reader, x: SignalNode, dim: int | None = None) -> InputNode:
    shape = reader.attribute(x, "shape")
    if dim is None:
        return shape
    return reader.call("operator.getitem", shape, dim)


@RULES.function("expand_as", "view_as", "reshape_as")
def _as_other(reader: Reader, x: Any, other: Any) -> Any:
    shape = _size(reader, other) if isinstance(other, SignalNode) else reader.call("Tensor.size", other)
    function = "Tensor.expand" if reader.target == "expand_as" else "Tensor.reshape"
    return _layout(reader, function, x, shape) if isinstance(x, SignalNode) else reader.call(function, x, shape)


@RULES.function(torch.repeat_interleave, "repeat_interleave")
def _repeat_interleave(reader: Reader, x: SignalNode, repeats: Any, dim: Any = None) -> Any:
    if not isinstance(repeats, int) or not isinstance(dim, int):
        raise reader.refuse("give it the number of repetitions, the same for all, and dim")
    count = reader.call("operator.mul", _size(reader, x, dim), repeats)
    places = reader.call("torch.arange", count, device=_getattr(reader, x, "device"))
    return _layout(reader, "Tensor.index_select", x, dim, reader.call("operator.floordiv", places, repeats))


@RULES.function(torch.moveaxis, "moveaxis")
def _moveaxis(reader: Reader, x: SignalNode, source: Any, destination: Any) -> Any:
    return _layout(reader, "Tensor.movedim", x, source, destination)


@RULES.function("numel")
def _numel(reader: Reader, x: SignalNode) -> InputNode:
    return reader.call("Tensor.numel", reader.attribute(x, "shape"))


@RULES.function("dim")
def _dim(reader: Reader, x: SignalNode) -> InputNode:
    return reader.attribute(x, "ndim")


@RULES.function(torch.cat, torch.concat, torch.concatenate)
def _cat(reader: Reader, tensors: Any, dim: int = 0) -> SignalNode:
    return join(reader, tensors, dim, stack=False)


@RULES.function(torch.stack)
def _stack(reader: Reader, tensors: Any, dim: int = 0) -> SignalNode:
    return join(reader, tensors, dim, stack=True)


def join(reader: Reader, tensors: Any, dim: int, stack: bool) -> SignalNode:
    """Concatenation, or stack, of signals along a dimension, brought to one scale; `tensors` may be a `PartsNode`."""
    if isinstance(tensors, PartsNode):
        return reader.apply(Join(stack=stack), tensors, dim=dim)
    signals = tuple(reader.signal(tensor) for tensor in tensors)
    if len(signals) == 1 and not stack:
        return signals[0]
    return reader.add(Concatenation(signals, dim, stack))


@RULES.module(
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity
)
def _identity(reader: Reader, module: nn.Module, input: Any) -> Any:
    return input


@RULES.function(*DROPOUTS)
def _dropout(reader: Reader, input: Any, *args: Any, **kwargs: Any) -> Any:
    if rate(reader.target, (input, *args), kwargs) == 0:
        return input
    raise reader.refuse(
        "it is random in evaluation too; pass training=self.training, which F.dropout does not do by itself, or hold an "
        "nn.Dropout module as an attribute"
    )


@RULES.function(F.pad)
def _pad(reader: Reader, input: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    x = reader.signal(input)
    padded = reader.signal(_layout(reader, "F.pad", x, list(pad), mode))
    if mode != "constant" or value in (None, 0):
        return padded
    sizes = reader.call("operator.getitem", _size(reader, x), slice(-(len(pad) // 2), None))
    inside = reader.call("torch.ones", sizes, device=_getattr(reader, x, "device"))
    everywhere = reader.call("F.pad", inside, list(pad))
    outside = reader.call("operator.eq", everywhere, 0)
    return masked_fill(reader, padded, outside, value)


@RULES.module(
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d, nn.CircularPad2d, nn.ZeroPad3d, nn.ConstantPad3d,
    nn.ReflectionPad3d, nn.ReplicationPad3d, nn.CircularPad3d,
)  # fmt: skip
def _pad_module(reader: Reader, module: Any, input: Any) -> Any:
    kinds = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    mode = next((mode for kind, mode in kinds.items() if type(module).__name__.startswith(kind)), "constant")
    return _pad(reader, input, module.padding, mode, getattr(module, "value", None))


@RULES.function(F.pixel_shuffle, torch.pixel_shuffle)
def _pixel_shuffle(reader: Reader, input: Any, upscale_factor: int) -> Any:
    return _layout(reader, "F.pixel_shuffle", reader.signal(input), upscale_factor)


@RULES.module(nn.PixelShuffle)
def _pixel_shuffle_module(reader: Reader, module: nn.PixelShuffle, input: Any) -> Any:
    return _pixel_shuffle(reader, input, module.upscale_factor)


@RULES.function(F.pixel_unshuffle, torch.pixel_unshuffle)
def _pixel_unshuffle(reader: Reader, input: Any, downscale_factor: int) -> Any:
    return _layout(reader, "F.pixel_unshuffle", reader.signal(input), downscale_factor)


@RULES.module(nn.PixelUnshuffle)
def _pixel_unshuffle_module(reader: Reader, module: nn.PixelUnshuffle, input: Any) -> Any:
    return _pixel_unshuffle(reader, input, module.downscale_factor)


@RULES.function(F.channel_shuffle, torch.channel_shuffle, torch.native_channel_shuffle)
def _channel_shuffle(reader: Reader, input: Any, groups: int) -> Any:
    return _layout(reader, "F.channel_shuffle", reader.signal(input), groups)


@RULES.module(nn.ChannelShuffle)
def _channel_shuffle_module(reader: Reader, module: nn.ChannelShuffle, input: Any) -> Any:
    return _channel_shuffle(reader, input, module.groups)


@RULES.function(F.unfold)
def _unfold(reader: Reader, input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    return _layout(reader, "F.unfold", reader.signal(input), kernel_size, dilation, padding, stride)


@RULES.module(nn.Unfold)
def _unfold_module(reader: Reader, module: nn.Unfold, input: Any) -> Any:
    return _unfold(reader, input, module.kernel_size, module.dilation, module.padding, module.stride)


@RULES.module(nn.Unflatten)
def _unflatten(reader: Reader, module: nn.Unflatten, input: Any) -> Any:
    return _layout(reader, "Tensor.unflatten", reader.signal(input), module.dim, module.unflattened_size)


@RULES.module(nn.Flatten)
def _flatten(reader: Reader, module: nn.Flatten, input: SignalNode) -> Any:
    return _layout(reader, "torch.flatten", reader.signal(input), module.start_dim, module.end_dim)
