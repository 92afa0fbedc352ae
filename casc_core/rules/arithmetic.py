"""Rules of sums, differences, and products with constants and masks."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch

from casc_core.lowering import Lowering
from casc_core.ops import (
    NOT_INTEGERS,
    Add,
    DividedByInput,
    TimesInput,
)
from casc_core.rules.affine import common_denominator, rescaled
from casc_core.rules.normalisation import offset
from casc_core.rules.table import RULES
from casc_core.values import Form, InputValue, SignalValue


def common_scale(low: Lowering, signals: list[SignalValue]) -> list[SignalValue]:
    """The signals brought to one scale: their own if they share it, else 1, or a part of 1 that no division rounds."""
    scales = {signal.form.scale for signal in signals}
    if len(scales) == 1:
        return signals
    common = Fraction(1, common_denominator(scales))
    return [rescaled(low, signal, common) for signal in signals]


def joint_form(forms: list[Form], reach: float) -> Form:
    exponents = [form.exponent for form in forms if form.exponent is not None]
    drives = [form.drive_exponent for form in forms if form.drive_exponent is not None]
    return Form(
        forms[0].scale,
        min(exponents, default=None),
        min(drives, default=None),
        reach,
        is_exact=all(form.is_exact for form in forms),
        is_filled=any(form.is_filled for form in forms),
        is_summed=any(form.is_summed for form in forms),
        is_divided=any(form.is_divided for form in forms),
    )


@RULES.function(operator.add, operator.iadd, torch.add, "add", "add_")
def add(low: Lowering, a: Any, b: Any, *, alpha: float = 1) -> SignalValue:
    """`a + alpha * b`."""
    if alpha != 1:
        b = b * alpha if isinstance(b, (int, float)) else _scaled(low, b, alpha)
    if isinstance(a, (int, float)):
        a, b = b, a
    if isinstance(b, (int, float)):  # zero where the built-in sum() begins
        if not math.isfinite(b):
            raise low.refuse(f"{b!r} is added")
        return offset(low, low.signal(a), float(b))
    signals = common_scale(low, [low.signal(a), low.signal(b)])
    forms = [signal.form for signal in signals]
    return SignalValue(low.emit(Add(), *signals), joint_form(forms, sum(form.drive_reach for form in forms)))


@RULES.function(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def _sub(low: Lowering, a: Any, b: Any, *, alpha: float = 1) -> SignalValue:
    return add(low, a, -alpha * b if isinstance(b, (int, float)) else _scaled(low, b, -alpha))


def _scaled(low: Lowering, x: Any, factor: float) -> SignalValue:
    return low.signal(x).times(_fraction(low, factor))


def _fraction(low: Lowering, factor: float) -> Fraction:
    if factor == 0 or not math.isfinite(factor):
        raise low.refuse(f"it is scaled by {factor!r}")
    return Fraction(factor if isinstance(factor, int) else float(factor))


@RULES.function(operator.neg, torch.neg, "neg")
def _neg(low: Lowering, x: Any) -> SignalValue:
    return _scaled(low, x, -1.0)


@RULES.function(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def _mul(low: Lowering, a: Any, b: Any) -> SignalValue:
    if not isinstance(a, SignalValue):
        a, b = b, a
    b = _number(low, b)
    if isinstance(b, (int, float)):
        return _scaled(low, a, b)
    if isinstance(b, SignalValue):
        raise low.refuse(
            "it multiplies two tensors that both depend on spikes (a gate, or attention), and a product of spike trains "
            "is not affine; remove the gate"
        )
    if not isinstance(b, InputValue):
        raise low.refuse(f"it multiplies by {b!r}; multiply by a number or a mask")
    # A mask from the inputs: integers, checked when the network runs.
    _refuse_real(low, b, "multiplied")
    return SignalValue(low.emit(TimesInput(), a, b), a.form)


@RULES.function(operator.truediv, torch.div, torch.true_divide, "div", "true_divide")
def _div(low: Lowering, a: Any, b: Any) -> SignalValue:
    if isinstance(b, SignalValue):
        raise low.refuse("it divides by a tensor that depends on spikes; divide by a constant or by the texts' lengths")
    b = _number(low, b)
    if isinstance(b, (int, float)):
        if b == 0:
            raise low.refuse(f"it divides by {b!r}")
        return low.signal(a).times(1 / _fraction(low, b))
    if not isinstance(b, InputValue):
        raise low.refuse(f"it divides by {b!r}; divide by a number or by the texts' lengths")
    _refuse_real(low, b, "divided")
    return SignalValue(low.emit(DividedByInput(), a, b), replace(a.form, is_divided=True))


def _number(low: Lowering, factor: Any) -> Any:
    """A learned number as a number; anything else as it is."""
    constant = low.constant(factor)
    single = constant is not None and constant.dim() == 0 and bool(constant)
    return float(constant) if constant is not None and single else factor


def _refuse_real(low: Lowering, factor: Any, verb: str) -> None:
    constant = low.constant(factor)
    if constant is not None and not bool((constant == constant.round()).all()):
        raise low.refuse(f"a spiking tensor is {verb} by {NOT_INTEGERS}")
