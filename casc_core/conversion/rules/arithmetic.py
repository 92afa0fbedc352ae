"""Rules of sums, differences, products and quotients: of signals with each other, with constants and with masks."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.graph import (
    Addition,
    Applied,
    Encoded,
    Factor,
    InputNode,
    Node,
    Normalisation,
    Offset,
    Product,
    SignalNode,
    Zeroed,
    is_boolean,
)
from casc_core.conversion.grids import common_denominator
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import DividedByInput, TimesInput


def known(reader: Reader, value: Any) -> Tensor | None:
    """A number, or a tensor that follows from parameters and buffers alone, in float64; None: it is neither."""
    number = torch.tensor(value, dtype=torch.float64) if isinstance(value, (int, float)) else value
    constant = number if isinstance(number, Tensor) else reader.constant(number)
    if constant is None:
        return None
    if constant.is_complex() or not bool(constant.isfinite().all()):
        raise reader.refuse(
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
def add(reader: Reader, input: Any, other: Any, *, alpha: float = 1) -> SignalNode:
    """`input + alpha * other`."""
    if all(_is_boolean(each) for each in (input, other)):
        raise reader.refuse(
            "of two masks it is a logical or, not a sum; cast one to numbers for a sum: (torch.relu(x) > 0.5).float()"
        )
    return added(reader, input, other if alpha == 1 else times(reader, other, alpha))


def added(reader: Reader, input: Any, other: Any) -> SignalNode:
    """The sum of two tensors that are no masks, or of masks of which one alone holds anywhere."""
    for signal, constant in ((input, other), (other, input)):
        amount = None if isinstance(constant, SignalNode) else known(reader, constant)
        if amount is not None:  # zero where the built-in sum() begins
            return _offset(reader, reader.signal(signal), amount)
    return reader.add(Addition(reader.signal(input), reader.signal(other)))


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Node) and is_boolean(value))


def _offset(reader: Reader, x: SignalNode, amount: Tensor) -> SignalNode:
    if amount.dim() > 1 or amount.numel() != 1:
        return reader.add(Offset(x, amount))
    return reader.add(Offset(x, amount.reshape(()))) if bool(amount) else x


@RULES.function(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract")
def subtract(reader: Reader, input: Any, other: Any, *, alpha: float = 1) -> SignalNode:
    """`input - alpha * other`."""
    return add(reader, input, times(reader, other, -alpha))


@RULES.function(torch.rsub, "rsub")
def _rsub(reader: Reader, input: Any, other: Any, *, alpha: float = 1) -> SignalNode:
    return subtract(reader, other, input, alpha=alpha)


@RULES.function(operator.neg, torch.neg, torch.negative, "neg", "neg_", "negative")
def _neg(reader: Reader, input: Any) -> SignalNode:
    return reader.add(Factor(reader.signal(input), Fraction(-1)))


def times(reader: Reader, x: Any, factor: Any) -> Any:
    """`x` times a number or a tensor that is known: a signal, or a tensor that is known as well."""
    by = known(reader, factor)
    if by is None:
        raise reader.refuse(f"it is scaled by {factor!r}, which follows from the inputs; multiply by it beforehand")
    own = None if isinstance(x, SignalNode) else known(reader, x)
    return by * own if own is not None else multiplied(reader, reader.signal(x), by)


def multiplied(reader: Reader, x: SignalNode, factor: Tensor) -> SignalNode:
    """`x` times constants, float64, that broadcast with it as torch does."""
    number = single(factor)
    if number is not None:
        return reader.add(Factor(x, number) if number else Zeroed(x))
    nothing = torch.zeros_like(factor)
    return reader.add(Normalisation(x, factor, nothing, nothing, None))


def divided(reader: Reader, x: SignalNode, divisor: Tensor) -> SignalNode:
    """`x` over constants, float64; what no binary fraction divides is left to the scale."""
    if not bool(divisor.all()):
        raise reader.refuse("it divides by 0.0")
    number = single(divisor)
    if number is not None:
        return reader.add(Factor(x, 1 / number))
    shares = common_denominator(1 / Fraction(each) for each in divisor.unique().tolist())
    return multiplied(reader, reader.add(Factor(x, Fraction(1, shares))), shares / divisor)


@RULES.function(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
def multiply(reader: Reader, input: Any, other: Any) -> SignalNode:
    """A product with a constant, another signal, a real-valued input, or a mask: integers, checked when it runs."""
    if not isinstance(input, SignalNode):
        input, other = other, input
    if isinstance(other, SignalNode):
        return reader.add(Product(input, other, reader.name, reader.levels))
    constant = known(reader, other)
    if constant is not None:
        if all(_is_boolean(each) for each in (input, other)):
            raise reader.refuse(
                "of two masks it is a mask; cast one to numbers for a product: (torch.relu(x) > 0.5).float()"
            )
        return multiplied(reader, input, constant)
    if not isinstance(other, InputNode):
        raise reader.refuse(f"it multiplies by {other!r}; multiply by a number or a mask")
    if reader.is_real(other):
        return reader.add(Product(input, reader.signal(other), reader.name, reader.levels))
    if not other.may_be_whole:
        return _by_fractions(reader, input, other)
    return reader.apply(TimesInput(), input, other)


def _by_fractions(reader: Reader, x: SignalNode, factor: InputNode) -> SignalNode:
    """`x` times what sizes, masks or lengths give and is not whole, such as the root of a size."""
    return reader.add(Product(x, reader.add(Encoded(factor)), reader.name, reader.levels))


@RULES.function(torch.square, "square")
def _square(reader: Reader, input: SignalNode) -> SignalNode:
    return multiply(reader, input, input)


@RULES.function(torch.pow, "pow", operator.pow)
def _power(reader: Reader, input: Any, exponent: Any) -> SignalNode:
    if isinstance(input, SignalNode) and isinstance(exponent, (int, float)):
        found = None if exponent == 2 else reader.by_level(input, lambda values: torch.pow(values, exponent))
        if found is not None:
            return found
        if exponent in (2, 3, 4):
            square = _square(reader, input)
            return square if exponent == 2 else multiply(reader, square, input if exponent == 3 else square)
    base = None if isinstance(input, SignalNode) else known(reader, input)
    if base is not None and base.dim() == 0:
        found = reader.by_level(exponent, lambda values: torch.pow(base, values))
        if found is not None:
            return found
    raise reader.refuse(
        "powers but the second, third and fourth are exact of levels alone, of which they are tables: quantise before, by "
        "nn.ReLU or nn.Hardtanh (which a preparation rounds), or write them as products"
    )


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
def divide(reader: Reader, input: Any, other: Any) -> SignalNode:
    """A quotient by a constant, or by positive integers from the inputs, checked when the network runs."""
    if isinstance(other, SignalNode):
        own = None if isinstance(input, SignalNode) else known(reader, input)
        found = None if own is None or own.dim() else reader.by_level(other, lambda values: own / values)
        if found is not None:
            return found
        raise reader.refuse(
            "it divides by a tensor that depends on spikes; divide by a constant or by the texts' lengths, or multiply by "
            "the reciprocal of levels: 1 / (torch.relu(x) + 1)"
        )
    constant = known(reader, other)
    if constant is not None:
        return divided(reader, reader.signal(input), constant)
    if not isinstance(other, InputNode):
        raise reader.refuse(f"it divides by {other!r}; divide by a number or by the texts' lengths")
    if reader.is_real(other):
        raise reader.refuse(
            "it divides by a real-valued input; divide by a constant, or by whole numbers that are an input of their own, "
            "such as the texts' lengths"
        )
    if not other.may_be_whole:
        return _by_fractions(reader, reader.signal(input), reader.call("operator.truediv", 1, other))
    return reader.add(Applied(DividedByInput(), (input, other), divides=True))


@RULES.function(torch.addcmul, "addcmul", "addcmul_")
def _addcmul(reader: Reader, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> SignalNode:
    return add(reader, input, times(reader, _product(reader, tensor1, tensor2), value))


@RULES.function(torch.addcdiv, "addcdiv", "addcdiv_")
def _addcdiv(reader: Reader, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> SignalNode:
    if not isinstance(tensor2, SignalNode) and (divisor := known(reader, tensor2)) is not None:
        own = None if isinstance(tensor1, SignalNode) else known(reader, tensor1)
        quotient = divided(reader, reader.signal(tensor1), divisor) if own is None else own / divisor
    else:
        quotient = divide(reader, tensor1, tensor2)
    return add(reader, input, times(reader, quotient, value))


def _product(reader: Reader, a: Any, b: Any) -> Any:
    both = [None if isinstance(value, SignalNode) else known(reader, value) for value in (a, b)]
    return both[0] * both[1] if both[0] is not None and both[1] is not None else multiply(reader, a, b)


@RULES.function(torch.lerp, "lerp", "lerp_")
def _lerp(reader: Reader, input: Any, end: Any, weight: Any) -> SignalNode:
    """`input + weight * (end - input)`, as two products with constants."""
    share = None if isinstance(weight, SignalNode) else known(reader, weight)
    if share is None:
        raise reader.refuse("its weight is no constant; only a weighted sum with constant weights is affine")
    return add(reader, times(reader, input, 1 - share), times(reader, end, share))
