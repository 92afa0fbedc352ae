"""Rules of linear maps: how one is snapped to its grids; linear layers, embeddings, factors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Channels, Form, InputValue, Mapped, SignalValue, Table
from casc_core.engine.ops import Layout, Linear, RequireFeatures, Scale, exact_product
from casc_core.numerics import coarsest, drive_grid, is_on, snapped, stored

# Real-valued tables keep this many bits.
TABLE_BITS = 22
# Biases are up to this many bits finer than the weights beside them.
BIAS_BITS = 6
# What must not be rounded may take this many bits: those of a float32, and a few for the number of entries of a mean.
EXACT_BITS = 28
# Signals of several scales are brought to a common one by whole factors no larger than this.
LARGEST_DENOMINATOR = 2**12


def linear_map(
    low: Lowering, x: SignalValue, weight: Tensor, bias: Tensor | None, name: str, exponent: int | None = None
) -> SignalValue:
    """`x @ weight.T + bias`, the scale of `x` folded into the weights before they are snapped.

    `exponent` asks for a result no finer than this grid; by default the weights' own bits decide.
    """
    weight, bias = weight.detach().double(), None if bias is None else bias.detach().double()
    given, own, own_bias = x, weight, weight.new_zeros(len(weight)) if bias is None else bias
    origin, centre = x.origin, None
    if isinstance(origin, Channels) and (entries := _features(origin, weight.shape[1])) is not None:
        factor, centre, offset = (value.expand(weight.shape[1]) for value in entries)
        bias = weight @ offset + (0.0 if bias is None else bias)
        weight, x = weight * factor, origin.signal
        if origin.axis is not None:
            x = SignalValue(low.emit(RequireFeatures(name=name), x), x.form)
    snapped = snapped_map(low, x.form, weight, weight, bias, exponent, centre)
    if isinstance(origin, Table) and snapped.fine is not None:
        exponents = snapped.input_exponent, snapped.fine_exponent
        table = exact_product(low.numerics, origin.rows, snapped.fine, *exponents, name)
        table = low.numerics.snap(table, snapped.drive_exponent)
        table = table if snapped.bias is None else table + snapped.bias
        biases = 0 if snapped.bias is None else len(snapped.bias)
        return low.look_up(replace(origin, rows=table), snapped.form, weight.numel(), biases)
    again = Mapped(own, own_bias, lambda w, b: linear_map(low, given, w, some(b), name, exponent), -1, None)
    return SignalValue(low.emit(Linear(name=name, **snapped.arguments()), x), snapped.form, again)


def _features(channels: Channels, features: int) -> list[Tensor] | None:
    """What normalises the last dimension, of so many features; None: it is not the last alone that is normalised."""
    entries = channels.along(-1, None if channels.axis is None else 2)
    return entries if entries is not None and len(entries[0]) in (1, features) else None


def some(bias: Tensor) -> Tensor | None:
    """A bias, or None if it is zero."""
    return bias if bool(bias.any()) else None


@dataclass(frozen=True)
class SnappedMap:
    """A linear map on its grids: `weight` for spikes, `fine` for real-valued input, and the form of what it gives."""

    weight: Tensor | None
    fine: Tensor | None
    bias: Tensor | None
    input_exponent: int
    fine_exponent: int
    drive_exponent: int
    train_exponent: int
    form: Form

    def arguments(self) -> dict[str, Any]:
        """What an `AffineMap` is made from, but for its name and geometry."""
        return {
            "weight": None if self.weight is None else stored(self.weight),
            "fine": None if self.fine is None else stored(self.fine),
            "bias": self.bias,
            "exponent": self.form.exponent or 0,
            "train_exponent": self.train_exponent,
            "input_exponent": self.input_exponent,
            "fine_exponent": self.fine_exponent,
            "drive_exponent": self.drive_exponent,
        }


def snapped_map(
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
    weight, real = weight * form.factor, real * form.factor
    snapped = fine = None
    out_exponent, fine_exponent, drive_exponent = None, 0, exponent
    drive_reach = 0.0
    if form.exponent is not None:
        own = numerics.weight_exponent(weight)
        if exponent is not None:
            own = max(own, exponent - form.exponent)
        snapped = numerics.snap(weight, own)
        out_exponent = form.exponent + own if centre is not None else _coarsest(snapped, bias, form, own)
    if form.drive_exponent is not None:
        drive_reach += form.drive_reach * float(real.abs().flatten(1).sum(1).max())
        fine_exponent = numerics.weight_exponent(real, bits=24)
        fine = numerics.snap(real, fine_exponent)
    if centre is not None and bias is not None:
        # Of the snapped weights, so that what snapping moved is multiplied by x - centre, and not by x.
        used = next(w for w in (snapped, fine) if w is not None)
        bias = bias - used @ (centre / form.factor)
    if bias is not None:
        drive_reach += float(bias.abs().max())
    if drive_exponent is None:
        drive_exponent = drive_grid(drive_reach)
        if out_exponent is not None:  # much finer than what it is added to would only cost range
            drive_exponent = max(drive_exponent, out_exponent - BIAS_BITS)
    unrounded = snapped is None or torch.equal(snapped, weight)
    if bias is not None:
        rounded = numerics.snap(bias, drive_exponent)
        unrounded, bias = unrounded and torch.equal(rounded, bias), rounded
    driven = bias is not None or fine is not None
    is_exact = form.is_exact and unrounded and fine is None
    driven_on = drive_exponent if driven else None
    result = Form(
        Fraction(1),
        out_exponent,
        driven_on,
        drive_reach,
        is_exact,
        is_summed=form.is_summed,
        is_divided=form.is_divided,
    )
    return SnappedMap(
        snapped, fine, bias, form.drive_exponent or 0, fine_exponent, drive_exponent, form.exponent or 0, result
    )


@RULES.module(nn.Linear)
def _linear_module(low: Lowering, module: nn.Linear, input: Any) -> SignalValue:
    return linear_map(low, low.signal(input), module.weight, module.bias, low.node_name)


@RULES.module(nn.Embedding)
def _embedding(low: Lowering, module: nn.Embedding, input: Any) -> SignalValue:
    return _embedded(low, input, module.weight, module.max_norm)


@RULES.function(F.embedding)
def _embedding_call(
    low: Lowering, input: Any, weight: Any, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> SignalValue:  # fmt: skip
    return _embedded(low, input, parameters(low, weight, None)[0], max_norm)


def _embedded(low: Lowering, tokens: Any, table: Tensor, max_norm: float | None) -> SignalValue:
    """Rows of `table`, on a fine grid."""
    if max_norm is not None:
        raise low.refuse(
            "max_norm rescales the table while it runs; renormalise the weights once and set max_norm=None"
        )
    if not isinstance(tokens, InputValue):
        raise low.refuse("its token ids come from spiking neurons; an embedding can only read the input")
    table = table.detach().double()
    exponent = low.numerics.weight_exponent(table, bits=TABLE_BITS)
    snapped = low.numerics.snap(table, exponent)
    form = Form(drive_exponent=exponent, drive_reach=float(table.abs().max()))
    return low.look_up(Table(snapped, tokens, low.node_name), form)


def rescaled(low: Lowering, x: SignalValue, target: Fraction = Fraction(1), bits: int | None = None) -> SignalValue:
    """`x` with its scale changed to `target`: its numbers times one factor, snapped to so many bits."""
    ratio = x.form.scale / target
    factor = torch.tensor(float(ratio), dtype=torch.float64)
    return x if ratio == 1 else scaled(low, x, factor, None, target, bits)


def common_denominator(scales: Iterable[Fraction]) -> int:
    """The least odd whole number that makes each scale a whole number of some power of two; 1 where that is too large.

    >>> common_denominator([Fraction(2, 9), Fraction(3, 4)]), common_denominator([Fraction(0.1)])
    (9, 1)
    """
    least = 1
    for scale in scales:
        odd = scale.denominator
        while odd % 2 == 0:
            odd //= 2
        least = math.lcm(least, odd)
    return least if least <= LARGEST_DENOMINATOR else 1


def scaled(
    low: Lowering, x: SignalValue, factor: Tensor, shift: Tensor | None, scale: Fraction, bits: int | None = None,
    axis: int | None = None,
) -> SignalValue:  # fmt: skip
    """`x` times `factor` plus `shift`, placed as those of `Channels`; the result has this scale.

    `bits` are those of a factor of the train; None: those of a weight.
    """
    shift = shift if shift is not None and bool(shift.any()) else None
    form, numerics = x.form, low.numerics
    coarse, exponent = snapped(numerics, factor, bits)
    fine, fine_exponent = snapped(numerics, factor, 24)
    reach, drive_exponent = form.drive_reach * float(fine.abs().max()), None
    if shift is not None:
        reach += float(shift.abs().max())
    unrounded = form.is_exact and torch.equal(coarse, factor)
    if form.drive_exponent is not None or shift is not None:
        drive_exponent = drive_grid(reach)
        if form.drive_exponent is not None:
            own = form.drive_exponent + fine_exponent
            unrounded = unrounded and torch.equal(fine, factor) and drive_exponent <= own
            if shift is None or is_on(shift, own):  # what lies on no finer grid needs none
                drive_exponent = max(own, drive_exponent)
    flowing = None if shift is None else numerics.snap(shift, drive_exponent or 0)
    unrounded = unrounded and (flowing is None or shift is None or torch.equal(flowing, shift))
    if flowing is not None and form.drive_exponent is None:
        drive_exponent = coarsest(flowing, drive_exponent or 0)
    op = Scale(factor=coarse, fine=fine, shift=flowing, drive_exponent=drive_exponent or 0, axis=axis)
    out_exponent = None if form.exponent is None else form.exponent + exponent
    result = Form(
        scale, out_exponent, drive_exponent, reach, unrounded, form.is_filled, form.is_summed, form.is_divided
    )
    return SignalValue(low.emit(op, x), result)


def _coarsest(weight: Tensor, bias: Tensor | None, form: Form, exponent: int) -> int:
    """The grid of what `weight`, on the grid of `exponent`, makes of a signal of this form: as coarse as it really is.

    Maps in a row then take no more bits than their weights have. Where anything is rounded, or a bias would be, the grid
    stays as fine as the bits of a weight allow.
    """
    result = (form.exponent or 0) + exponent
    if form.drive_exponent is not None or not form.is_exact:
        return result
    while bool(weight.any()) and is_on(weight, exponent + 1) and (bias is None or is_on(bias, result + 1)):
        exponent, result = exponent + 1, result + 1
    return result


@RULES.function(F.linear)
def _linear_call(low: Lowering, input: Any, weight: Any, bias: Any = None) -> SignalValue:
    known, known_bias = parameters(low, weight, bias)
    if known.dim() == 2:
        return linear_map(low, low.signal(input), known, known_bias, low.node_name)
    result = linear_map(low, low.signal(input), known.unsqueeze(0), known_bias, low.node_name)
    return SignalValue(low.emit(Layout(function="torch.squeeze"), result, -1), result.form)


def parameters(low: Lowering, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a functional call, which must be parameters as they stand."""
    known, known_bias = low.constant(weight), low.constant(bias)
    if known is None or (bias is not None and known_bias is None):
        raise low.refuse(
            "its weights are computed in the forward, and only parameters as they stand can be snapped; compute them once, "
            "after training, and hold the result as a parameter"
        )
    return known, known_bias
