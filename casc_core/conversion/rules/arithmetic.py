"""Rules of sums, differences, products and quotients: of signals with each other, with constants and with masks."""

from __future__ import annotations

import operator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import common_denominator, rescaled, scaled
from casc_core.conversion.rules.normalisation import normalised, offset
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Form, InputValue, Mapped, SignalValue
from casc_core.engine.ops import (
    Add,
    DividedByInput,
    TimesInput,
)


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


def known(low: Lowering, value: Any) -> Tensor | None:
    """A number, or a tensor that follows from parameters and buffers alone, in float64; None: it is neither."""
    number = torch.tensor(value, dtype=torch.float64) if isinstance(value, (int, float)) else value
    constant = number if isinstance(number, Tensor) else low.constant(number)
    if constant is None:
        return None
    if constant.is_complex() or not bool(constant.isfinite().all()):
        raise low.refuse(
            f"it computes with the constant {_first_not_finite(constant)!r}; only finite numbers can be exact"
        )
    return constant.detach().double()


def _first_not_finite(constant: Tensor) -> Any:
    bad = constant.reshape(-1) if constant.is_complex() else constant[~constant.isfinite()].reshape(-1)
    return bad[0].item()


def single(constant: Tensor) -> Fraction | None:
    """The number that a constant is, if it is one and leaves the shape of what it meets as it is."""
    return Fraction(constant.item()) if constant.dim() <= 1 and constant.numel() == 1 else None


@RULES.function(operator.add, operator.iadd, torch.add, "add", "add_")
def add(low: Lowering, input: Any, other: Any, *, alpha: float = 1) -> SignalValue:
    """`input + alpha * other`."""
    other = other if alpha == 1 else times(low, other, alpha)
    for signal, constant in ((input, other), (other, input)):
        amount = None if isinstance(constant, SignalValue) else known(low, constant)
        if amount is not None:  # zero where the built-in sum() begins
            return offset(low, low.signal(signal), amount)
    signals = common_scale(low, [low.signal(input), low.signal(other)])
    forms = [signal.form for signal in signals]
    return SignalValue(low.emit(Add(), *signals), joint_form(forms, sum(form.drive_reach for form in forms)))


@RULES.function(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract")
def subtract(low: Lowering, input: Any, other: Any, *, alpha: float = 1) -> SignalValue:
    """`input - alpha * other`."""
    return add(low, input, times(low, other, -alpha))


@RULES.function(torch.rsub, "rsub")
def _rsub(low: Lowering, input: Any, other: Any, *, alpha: float = 1) -> SignalValue:
    return subtract(low, other, input, alpha=alpha)


@RULES.function(operator.neg, torch.neg, torch.negative, "neg", "neg_", "negative")
def _neg(low: Lowering, input: Any) -> SignalValue:
    return low.signal(input).times(Fraction(-1))


def times(low: Lowering, x: Any, factor: Any) -> Any:
    """`x` times a number or a tensor that is known: a signal, or a tensor that is known as well."""
    by = known(low, factor)
    if by is None:
        raise low.refuse(f"it is scaled by {factor!r}, which follows from the inputs; multiply by it beforehand")
    own = None if isinstance(x, SignalValue) else known(low, x)
    return by * own if own is not None else multiplied(low, low.signal(x), by)


def multiplied(low: Lowering, x: SignalValue, factor: Tensor) -> SignalValue:
    """`x` times constants, float64, that broadcast with it as torch does."""
    number = single(factor)
    if number:
        return x.times(number)
    nothing = torch.zeros_like(factor)
    if number is not None and not isinstance(x.origin, Mapped):  # times zero
        return scaled(low, x, nothing.reshape(()), None, Fraction(1))
    return normalised(low, x, factor, nothing, nothing, None)


def divided(low: Lowering, x: SignalValue, divisor: Tensor) -> SignalValue:
    """`x` over constants, float64; what no binary fraction divides is left to the scale."""
    if not bool(divisor.all()):
        raise low.refuse("it divides by 0.0")
    number = single(divisor)
    if number is not None:
        return x.times(1 / number)
    shares = common_denominator(1 / Fraction(each) for each in divisor.unique().tolist())
    return multiplied(low, x.times(Fraction(1, shares)), shares / divisor)


@RULES.function(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
def multiply(low: Lowering, input: Any, other: Any) -> SignalValue:
    """A product with a constant, or with a mask from the inputs: integers, checked when the network runs."""
    if not isinstance(input, SignalValue):
        input, other = other, input
    if isinstance(other, SignalValue):
        raise low.refuse(
            "it multiplies two tensors that both depend on spikes (a gate, or attention), and a product of spike trains "
            "is not affine; remove the gate"
        )
    constant = known(low, other)
    if constant is not None:
        return multiplied(low, input, constant)
    if not isinstance(other, InputValue):
        raise low.refuse(f"it multiplies by {other!r}; multiply by a number or a mask")
    return SignalValue(low.emit(TimesInput(), input, other), input.form)


@RULES.function(
    operator.truediv,
    operator.itruediv,
    torch.div,
    torch.divide,
    torch.true_divide,
    "div",
    "div_",
    "divide",
    "true_divide",
)
def divide(low: Lowering, input: Any, other: Any) -> SignalValue:
    """A quotient by a constant, or by positive integers from the inputs, checked when the network runs."""
    if isinstance(other, SignalValue):
        raise low.refuse("it divides by a tensor that depends on spikes; divide by a constant or by the texts' lengths")
    constant = known(low, other)
    if constant is not None:
        return divided(low, low.signal(input), constant)
    if not isinstance(other, InputValue):
        raise low.refuse(f"it divides by {other!r}; divide by a number or by the texts' lengths")
    return SignalValue(low.emit(DividedByInput(), input, other), replace(input.form, is_divided=True))


@RULES.function(torch.addcmul, "addcmul", "addcmul_")
def _addcmul(low: Lowering, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> SignalValue:
    return add(low, input, times(low, _product(low, tensor1, tensor2), value))


@RULES.function(torch.addcdiv, "addcdiv", "addcdiv_")
def _addcdiv(low: Lowering, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> SignalValue:
    if not isinstance(tensor2, SignalValue) and (divisor := known(low, tensor2)) is not None:
        own = None if isinstance(tensor1, SignalValue) else known(low, tensor1)
        quotient = divided(low, low.signal(tensor1), divisor) if own is None else own / divisor
    else:
        quotient = divide(low, tensor1, tensor2)
    return add(low, input, times(low, quotient, value))


def _product(low: Lowering, a: Any, b: Any) -> Any:
    both = [None if isinstance(value, SignalValue) else known(low, value) for value in (a, b)]
    return both[0] * both[1] if both[0] is not None and both[1] is not None else multiply(low, a, b)


@RULES.function(torch.lerp, "lerp", "lerp_")
def _lerp(low: Lowering, input: Any, end: Any, weight: Any) -> SignalValue:
    """`input + weight * (end - input)`, as two products with constants."""
    share = None if isinstance(weight, SignalValue) else known(low, weight)
    if share is None:
        raise low.refuse("its weight is no constant; only a weighted sum with constant weights is affine")
    return add(low, times(low, input, 1 - share), times(low, end, share))
