"""The rule table: what each operation between activations becomes. Adding an operation is adding a row."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.activation import CQReLU
from casc_core.functions import ATTRIBUTES
from casc_core.lowering import Form, InputValue, Lowering, PartsValue, RuleTable, SignalValue, Unreadable
from casc_core.numerics import binade, stored
from casc_core.ops import (
    NOT_INTEGERS,
    Add,
    Attribute,
    Call,
    DividedByInput,
    Fire,
    Join,
    Layout,
    Linear,
    MaskedFill,
    Max,
    Pick,
    Scale,
    Sum,
    TimesInput,
    exact_product,
)

RULES = RuleTable()

# Real-valued tables and currents keep this many bits; their products then fit float64 with room to spare.
TABLE_BITS = 22
DRIVE_BITS = 26
# A threshold spans at least 2**THRESHOLD_BITS grid units, so that rounding a real-valued current to it is harmless.
THRESHOLD_BITS = 14
# Sums over tokens are expected to stay below this many; only the choice of bits depends on it.
EXPECTED_TOKENS = 2.0**8


# Affine maps


def linear_map(
    low: Lowering, x: SignalValue, weight: Tensor, bias: Tensor | None, name: str, exponent: int | None = None
) -> SignalValue:
    """`x @ weight.T + bias`, the scale of `x` folded into the weights before they are snapped.

    `exponent` asks for the grid of the result's train and drive; by default the weights' own bits decide.
    """
    form, numerics = x.form, low.numerics
    weight = weight.detach().double() * form.scale
    bias = None if bias is None else bias.detach().double()
    snapped = fine = None
    out_exponent, fine_exponent, drive_exponent = None, 0, exponent
    drive_reach = 0.0 if bias is None else float(bias.abs().max())
    if form.exponent is not None:
        own = numerics.weight_exponent(weight) if exponent is None else exponent - form.exponent
        snapped = numerics.snap(weight, own)
        out_exponent = form.exponent + own
    if form.drive_exponent is not None:
        row = float(weight.abs().sum(1).max())
        drive_reach += form.drive_reach * row
        fine_exponent = numerics.weight_exponent(weight, bits=24)
        fine = numerics.snap(weight, fine_exponent)
    if drive_exponent is None:
        drive_exponent = binade(max(drive_reach, 1e-30)) - DRIVE_BITS
        if out_exponent is not None:
            drive_exponent = out_exponent if fine is None else max(drive_exponent, out_exponent)
    if bias is not None:
        bias = numerics.snap(bias, drive_exponent)
    driven = bias is not None or fine is not None
    result = Form(1.0, out_exponent, drive_exponent if driven else None, drive_reach)
    if x.ref.name in low.tables and fine is not None:
        table, tokens, embedding = low.tables[x.ref.name]
        table = exact_product(numerics, table, fine, form.drive_exponent or 0, fine_exponent, name)
        table = numerics.snap(table, drive_exponent)
        return SignalValue(low.look_up(tokens, table if bias is None else table + bias, embedding), result)
    ref = low.emit(
        Linear(
            name=name,
            weight=None if snapped is None else stored(snapped),
            fine=None if fine is None else stored(fine),
            bias=bias,
            exponent=out_exponent or 0,
            input_exponent=form.drive_exponent or 0,
            fine_exponent=fine_exponent,
            drive_exponent=drive_exponent,
        ),
        x,
    )
    return SignalValue(ref, result)


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


@RULES.module(nn.BatchNorm1d)
def _batch_norm(low: Lowering, module: nn.BatchNorm1d, input: Any) -> SignalValue:
    """Its statistics are fixed after training, so it is one factor and one shift for each channel."""
    x, mean, variance = low.signal(input), module.running_mean, module.running_var
    if mean is None or variance is None:
        raise low.refuse("it has no running statistics, so it depends on the batch; use track_running_stats=True")
    factor = (variance.detach().double() + module.eps).rsqrt()
    if module.affine:
        factor = factor * module.weight.detach().double()
    shift = -mean.detach().double() * factor
    if module.affine:
        shift = shift + module.bias.detach().double()
    return scaled(low, x, factor * x.form.scale, shift, 1.0)


def common_scale(low: Lowering, signals: list[SignalValue]) -> list[SignalValue]:
    """The signals brought to one scale: their own if they share it, else 1."""
    scales = {signal.form.scale for signal in signals}
    return signals if len(scales) == 1 else [rescaled(low, signal, 1.0) for signal in signals]


def _joint_form(forms: list[Form], reach: float) -> Form:
    exponents = [form.exponent for form in forms if form.exponent is not None]
    drives = [form.drive_exponent for form in forms if form.drive_exponent is not None]
    return Form(forms[0].scale, min(exponents, default=None), min(drives, default=None), reach)


@RULES.function(operator.add, operator.iadd, torch.add, "add", "add_")
def add(low: Lowering, a: Any, b: Any, *, alpha: float = 1) -> SignalValue:
    """`a + alpha * b`."""
    if alpha != 1:
        b = _scaled(low, b, alpha)
    if isinstance(a, (int, float)) and a == 0:  # as the built-in sum() begins
        return low.signal(b)
    if isinstance(a, (int, float)) or isinstance(b, (int, float)):
        if b == 0:
            return low.signal(a)
        raise low.refuse("a constant is added; make it a bias of the layer before, or a registered buffer")
    signals = common_scale(low, [low.signal(a), low.signal(b)])
    forms = [signal.form for signal in signals]
    return SignalValue(low.emit(Add(), *signals), _joint_form(forms, sum(form.drive_reach for form in forms)))


@RULES.function(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def _sub(low: Lowering, a: Any, b: Any, *, alpha: float = 1) -> SignalValue:
    return add(low, a, _scaled(low, b, -alpha))


def _scaled(low: Lowering, x: Any, factor: float) -> SignalValue:
    if factor == 0 or not math.isfinite(factor):
        raise low.refuse(f"it is scaled by {factor!r}")
    x = low.signal(x)
    return SignalValue(x.ref, replace(x.form, scale=x.form.scale * float(factor)))


@RULES.function(operator.neg, torch.neg, "neg")
def _neg(low: Lowering, x: Any) -> SignalValue:
    return _scaled(low, x, -1.0)


@RULES.function(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def _mul(low: Lowering, a: Any, b: Any) -> SignalValue:
    if not isinstance(a, SignalValue):
        a, b = b, a
    if isinstance(b, (int, float)):
        return _scaled(low, a, b)
    if isinstance(b, SignalValue):
        raise low.refuse(
            "it multiplies two tensors that both depend on spikes (a gate, or attention), and a product of spike trains "
            "is not affine; remove the gate"
        )
    # A mask from the inputs: integers, checked when the network runs.
    _refuse_real(low, b, "multiplied")
    return SignalValue(low.emit(TimesInput(), a, b), a.form)


@RULES.function(operator.truediv, torch.div, torch.true_divide, "div", "true_divide")
def _div(low: Lowering, a: Any, b: Any) -> SignalValue:
    if isinstance(b, SignalValue):
        raise low.refuse("it divides by a tensor that depends on spikes; divide by a constant or by the texts' lengths")
    if isinstance(b, (int, float)):
        return _scaled(low, a, 1.0 / b)
    _refuse_real(low, b, "divided")
    return SignalValue(low.emit(DividedByInput(), a, b), a.form)


def _refuse_real(low: Lowering, factor: Any, verb: str) -> None:
    constant = low.constant(factor)
    if constant is not None and not bool((constant == constant.round()).all()):
        raise low.refuse(f"a spiking tensor is {verb} by {NOT_INTEGERS}")


# Sums and maxima


def _total(low: Lowering, x: Any, mean: bool, dim: Any, keepdim: bool) -> SignalValue:
    x = low.signal(x)
    ref = low.emit(Sum(mean=mean), x, dim=dim, keepdim=keepdim)
    return SignalValue(ref, replace(x.form, drive_reach=x.form.drive_reach * EXPECTED_TOKENS))


@RULES.function(torch.sum, "sum")
def _sum(low: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalValue:
    return _total(low, input, False, dim, keepdim)


@RULES.function(torch.mean, "mean")
def _mean(low: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> SignalValue:
    return _total(low, input, True, dim, keepdim)


_INDICES = "it reads the indices of a maximum, which do not travel as spikes; use the values alone"


class MaxResult(NamedTuple):
    """What `x.max(dim)` returns. Indices that nothing reads do no harm: `values, _ = x.max(dim)`."""

    values: SignalValue
    indices: Unreadable = Unreadable(_INDICES)


def _maximum(low: Lowering, x: SignalValue, dim: Any, keepdim: bool) -> SignalValue:
    if x.form.scale < 0:
        x = rescaled(low, x, 1.0)
    form = x.form
    exponents = [exponent for exponent in (form.exponent, form.drive_exponent) if exponent is not None]
    return SignalValue(low.emit(Max(), x, dim=dim, keepdim=keepdim), Form(form.scale, min(exponents), None, 0.0))


@RULES.function(torch.amax, "amax")
def _amax(low: Lowering, input: SignalValue, dim: Any = (), keepdim: bool = False) -> SignalValue:
    return _maximum(low, input, dim if dim != () else None, keepdim)


@RULES.function(torch.max, "max")
def _max(low: Lowering, input: SignalValue, dim: Any = None, keepdim: bool = False) -> SignalValue | MaxResult:
    if dim is None:
        return _maximum(low, input, None, False)
    if not isinstance(dim, int):
        raise low.refuse("an elementwise maximum of two tensors; take a maximum over a dimension of their stack")
    return MaxResult(_maximum(low, input, dim, keepdim))


@RULES.module(nn.AdaptiveMaxPool1d)
def _adaptive_max_module(low: Lowering, module: nn.AdaptiveMaxPool1d, input: SignalValue) -> SignalValue:
    return _adaptive_max(low, input, module.output_size)


@RULES.function(F.adaptive_max_pool1d)
def _adaptive_max(low: Lowering, input: SignalValue, output_size: Any, return_indices: bool = False) -> SignalValue:
    _only_one(low, output_size)
    if return_indices:
        raise low.refuse(_INDICES)
    return _maximum(low, low.signal(input), -1, True)


@RULES.module(nn.AdaptiveAvgPool1d)
def _adaptive_mean_module(low: Lowering, module: nn.AdaptiveAvgPool1d, input: SignalValue) -> SignalValue:
    return _adaptive_mean(low, input, module.output_size)


@RULES.function(F.adaptive_avg_pool1d)
def _adaptive_mean(low: Lowering, input: SignalValue, output_size: Any) -> SignalValue:
    _only_one(low, output_size)
    return _total(low, low.signal(input), True, -1, True)


def _only_one(low: Lowering, output_size: Any) -> None:
    if output_size not in (1, (1,), [1]):
        raise low.refuse(f"only an output size of 1 is known for adaptive pooling over tokens; got {output_size!r}")


@RULES.function("masked_fill", torch.masked_fill, "masked_fill_")
def _masked_fill(low: Lowering, input: SignalValue, mask: Any, value: Any) -> SignalValue:
    if not isinstance(mask, InputValue):
        raise low.refuse("its mask depends on spikes; a mask must be computed from the inputs")
    if not isinstance(value, (int, float)) or math.isnan(value) or value > 0:
        raise low.refuse(f"it fills with {value!r}; fill with 0, or with a negative number on the way to a maximum")
    if input.form.scale < 0:
        input = rescaled(low, input, 1.0)
    # Any number far below every sum acts as minus infinity under a maximum, which is the only place such a fill has.
    fill = 0.0 if value == 0 else -math.inf
    if fill and value > -1e4:
        raise low.refuse(f"it fills with {value!r}; fill with 0, or with float('-inf') on the way to a maximum")
    form = input.form if fill == 0.0 else replace(input.form, drive_exponent=input.form.drive_exponent or 0)
    return SignalValue(low.emit(MaskedFill(value=fill), input, mask), form)


# Layout


@RULES.function("layout")
def _layout(low: Lowering, function: str, x: SignalValue, *args: Any, **kwargs: Any) -> SignalValue | PartsValue:
    """The user's own rearrangement, applied at every step."""
    if function == "Tensor.view":  # where a view is possible the two are one, but strides differ here
        function = "Tensor.reshape"
    ref = low.emit(Layout(function=function), x, *args, **kwargs)
    splits = function.rsplit(".", 1)[-1] in ("chunk", "split", "unbind")
    return PartsValue(ref, x.form) if splits else SignalValue(ref, x.form)


@RULES.function(operator.getitem)
def _getitem(low: Lowering, x: Any, index: Any) -> Any:
    if isinstance(x, PartsValue):
        return SignalValue(low.emit(Pick(index=index), x), x.form)
    if isinstance(x, tuple):
        return x[index]
    return _layout(low, "operator.getitem", x, index)


@RULES.function(getattr)
def _getattr(low: Lowering, x: Any, name: str) -> Any:
    if isinstance(x, tuple):
        return _getitem(low, x, ("values", "indices").index(name))
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
    signals = common_scale(low, [low.signal(tensor) for tensor in tensors])
    forms = [signal.form for signal in signals]
    form = _joint_form(forms, max(form.drive_reach for form in forms))
    return SignalValue(low.emit(Join(stack=stack), signals, dim=dim), form)


@RULES.function("float", "double", "to", "type", "type_as", "contiguous", "clone", "detach", "requires_grad_")
def _same(low: Lowering, x: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(x, InputValue):  # cast to the type of a spiking tensor
        return InputValue(low.emit(Call(function="Tensor.float"), x))
    return x


@RULES.module(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
def _identity(low: Lowering, module: nn.Module, input: Any) -> Any:
    return input


@RULES.function(F.dropout, F.dropout1d, F.dropout2d, torch.dropout)
def _dropout(low: Lowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    return input


@RULES.module(nn.Flatten)
def _flatten(low: Lowering, module: nn.Flatten, input: SignalValue) -> Any:
    return _layout(low, "torch.flatten", low.signal(input), module.start_dim, module.end_dim)


# Neurons


@RULES.module(CQReLU)
def _neurons(low: Lowering, module: CQReLU, x: Any) -> SignalValue:
    return neurons(low, low.signal(x), module.threshold, low.layer_name(low.node_name))


def neurons(low: Lowering, x: SignalValue, threshold: float, name: str) -> SignalValue:
    """A population of neurons that reads `x`; its spikes are worth `threshold` each."""
    if x.form.scale < 0:
        x = rescaled(low, x, 1.0)
    scaled, exponent = grid_threshold(low, threshold / x.form.scale, x.form.exponent)
    ref = low.emit(Fire(name=name, threshold=scaled, exponent=exponent), x)
    return SignalValue(ref, Form(scale=threshold, exponent=0))


def grid_threshold(low: Lowering, threshold: float, exponent: int | None) -> tuple[float, int]:
    """`threshold` on a grid, and the grid: no coarser than `2**exponent`, and fine enough for the threshold."""
    finest = binade(threshold) - THRESHOLD_BITS
    exponent = finest if exponent is None else min(exponent, finest)
    return float(low.numerics.snap(torch.tensor(threshold, dtype=torch.float64), exponent)), exponent


# Refusals

UNPREPARED = (
    "it is an activation that spikes cannot reproduce; call casc_core.prepare(model, q=...) first, and train it"
)
_SMOOTH = "a smooth activation has no spiking equal; replace it by nn.ReLU, then prepare and train"
_NORM = (
    "normalisation over features divides by a statistic of the spikes themselves; remove it, or use BatchNorm, whose "
    "statistics are fixed after training"
)
_ATTENTION = "attention multiplies spike trains with each other; use a recurrent layer or a pooling in its place"
_PRODUCT = (
    "a product of two spiking tensors (attention) is not affine; use a recurrent layer or a pooling. A product with "
    "weights belongs into an nn.Linear"
)
_RANDOM = "it is random, so no two runs would agree; give it as an input, or use torch.zeros"
_GATED = (
    "its gates multiply two activations; use nn.RNN, which casc_core.prepare(model, adapter='rnn', q=...) turns into a "
    "CQReLU RNN"
)
_PROBABILITY = "exponentials do not travel as spikes; return the logits and apply it to the converted network's output"
_PACKED = (
    "packed sequences hide the layout that neurons need; use casc_seq.RNN and pass it the padded tensor and lengths=..., "
    "which computes the same"
)

RULES.refuse(
    UNPREPARED, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.RNN, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_",
    torch.tanh, F.tanh, "tanh", F.relu6, F.hardtanh,
)  # fmt: skip
RULES.refuse(
    _SMOOTH, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.SELU, nn.Softplus, nn.Mish, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, F.gelu, F.silu, F.elu, F.leaky_relu, F.softplus, torch.sigmoid, F.sigmoid, "sigmoid",
)  # fmt: skip
RULES.refuse(
    _NORM, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.LocalResponseNorm, nn.RMSNorm, F.layer_norm, F.group_norm,
    F.normalize,
)  # fmt: skip
RULES.refuse(
    _ATTENTION, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer,
    nn.Transformer, F.scaled_dot_product_attention,
)  # fmt: skip
RULES.refuse(_PRODUCT, torch.matmul, torch.bmm, torch.mm, operator.matmul, "matmul", "bmm", "mm", torch.einsum)
RULES.refuse(_RANDOM, torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.randint, torch.bernoulli)
RULES.refuse(_GATED, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
RULES.refuse(
    _PROBABILITY, nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax",
    "log_softmax", torch.exp, "exp",
)  # fmt: skip
RULES.refuse(_PACKED, nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence, nn.utils.rnn.pack_sequence)
RULES.refuse("a loop over cells hides the recurrence; use nn.RNN (or casc_seq.RNN) over the whole sequence", nn.RNNCell)
RULES.refuse("use nn.Embedding followed by a sum or a mean over the tokens", nn.EmbeddingBag, F.embedding_bag)
