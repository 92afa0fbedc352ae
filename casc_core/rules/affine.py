"""Rules of linear maps: how one is snapped to its grids; linear layers, embeddings, factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.lowering import Lowering
from casc_core.numerics import binade, stored
from casc_core.ops import Linear, RequireFeatures, Scale, exact_product
from casc_core.rules.table import RULES
from casc_core.values import Form, InputValue, SignalValue

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
    snapped = snapped_map(low, x.form, weight, weight, bias, exponent, centre)
    if x.ref.name in low.tables and snapped.fine is not None:
        table, tokens, embedding = low.tables[x.ref.name]
        table = exact_product(low.numerics, table, snapped.fine, snapped.input_exponent, snapped.fine_exponent, name)
        table = low.numerics.snap(table, snapped.drive_exponent)
        table = table if snapped.bias is None else table + snapped.bias
        biases = 0 if snapped.bias is None else len(snapped.bias)
        return SignalValue(low.look_up(tokens, table, embedding, weight.numel(), biases), snapped.form)
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
    return SnappedMap(
        snapped, fine, bias, form.drive_exponent or 0, fine_exponent, drive_exponent, form.exponent or 0, result
    )


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
    shift = shift if shift is not None and bool(shift.any()) else None
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
    return linear_map(low, low.signal(input), *parameters(low, weight, bias), low.node_name)


def parameters(low: Lowering, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a functional call, which must be parameters as they stand."""
    known, known_bias = low.constant(weight), low.constant(bias)
    if known is None or (bias is not None and known_bias is None):
        raise low.refuse(
            "its weights are computed in the forward, and only parameters as they stand can be snapped; compute them once, "
            "after training, and hold the result as a parameter"
        )
    return known, known_bias
