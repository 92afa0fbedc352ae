"""Rules of matrix products with constants, in the ways of writing them beside a linear layer."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.arithmetic import add, known, multiplied, times
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import SignalValue
from casc_core.engine.ops import Layout

PRODUCT = (
    "a product of two spiking tensors (attention) is not affine; use a recurrent layer or a pooling. A product with "
    "weights belongs into an nn.Linear"
)
_BATCHED = (
    "it multiplies by {} matrices, one for each entry of a batch; hold one matrix, or use nn.Linear for each part"
)


@RULES.function(torch.matmul, torch.mm, torch.mv, operator.matmul, operator.imatmul, "matmul", "mm", "mv")
def matmul(low: Lowering, input: Any, other: Any) -> SignalValue:
    """A product with a constant matrix or vector on either side."""
    right = not isinstance(other, SignalValue)
    if not right and isinstance(input, SignalValue):
        raise low.refuse(PRODUCT)
    weight = known(low, other if right else input)
    if weight is None:
        raise low.refuse(PRODUCT.replace("two spiking tensors (attention)", "a spiking tensor and one from the inputs"))
    if weight.dim() > 2:
        raise low.refuse(_BATCHED.format(list(weight.shape[:-2])))
    x = low.signal(input) if right else _moved(low, other, "torch.transpose", -2, -1)
    rows = weight.unsqueeze(0) if weight.dim() == 1 else weight.T if right else weight
    result = linear_map(low, x, rows, None, low.node_name)
    if weight.dim() == 1:
        return _moved(low, result, "torch.squeeze", -1)
    return result if right else _moved(low, result, "torch.transpose", -2, -1)


def _moved(low: Lowering, x: SignalValue, function: str, *args: Any) -> SignalValue:
    return SignalValue(low.emit(Layout(function=function), x, *args), x.form)


@RULES.function(torch.addmm, torch.addmv, "addmm", "addmv", "addmm_", "addmv_")
def _addmm(low: Lowering, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> SignalValue:
    product = times(low, matmul(low, mat1, mat2), alpha)
    return add(low, product, input if beta == 1 else times(low, input, beta))


@RULES.function(torch.bmm, torch.baddbmm, "bmm", "baddbmm")
def _bmm(low: Lowering, *args: Any, **kwargs: Any) -> SignalValue:
    matrices = [known(low, value) for value in args[-2:] if not isinstance(value, SignalValue)]
    constant = next((matrix for matrix in matrices if matrix is not None), None)
    raise low.refuse(PRODUCT if constant is None else _BATCHED.format(list(constant.shape[:-2])))


@RULES.function(torch.einsum)
def _einsum(low: Lowering, equation: Any, *operands: Any) -> SignalValue:
    """A sum over letters that the constant shares with the signal, as a linear map of them; over others, as a sum."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    signals = [value for value in operands if isinstance(value, SignalValue)]
    if len(signals) > 1:
        raise low.refuse(PRODUCT)
    if not isinstance(equation, str) or "..." in equation or "->" not in equation or len(operands) > 2:
        raise low.refuse("only equations of letters alone, of one or two operands, with a '->', can be taken apart")
    given, wanted = equation.replace(" ", "").split("->")
    letters = given.split(",")
    place = next((index for index, value in enumerate(operands) if isinstance(value, SignalValue)), None)
    if place is None:  # an input, beside a constant
        place = next((index for index, value in enumerate(operands) if known(low, value) is None), 0)
    own = letters.pop(place)
    x, weight = low.signal(operands[place]), None
    if letters:
        weight = known(low, operands[1 - place])
        if weight is None:
            raise low.refuse(
                PRODUCT.replace("two spiking tensors (attention)", "a spiking tensor and one from the inputs")
            )
    by = letters[0] if letters else ""
    if any(len(set(each)) != len(each) for each in (own, by, wanted)):
        raise low.refuse("a letter stands twice in one operand (a diagonal); take the diagonal beforehand")
    alone = [at for at, letter in enumerate(own) if letter not in by + wanted]
    if alone:
        x = _summed(low, x, [at - len(own) for at in alone])
        own = "".join(letter for letter in own if letter in by + wanted)
    if weight is None:
        return _moved(low, x, "torch.permute", [own.index(letter) for letter in wanted])
    return _contracted(low, x, own, weight, by, wanted)


def _summed(low: Lowering, x: SignalValue, dims: list[int]) -> SignalValue:
    result: SignalValue = low.rules.functions[torch.sum](low, x, dims)
    return result


def _contracted(low: Lowering, x: SignalValue, own: str, weight: Tensor, by: str, wanted: str) -> SignalValue:
    shared = [letter for letter in by if letter in own and letter not in wanted]
    new = [letter for letter in by if letter not in own and letter in wanted]
    for at in sorted((by.index(letter) for letter in by if letter not in own + wanted), reverse=True):
        weight, by = weight.sum(at), by[:at] + by[at + 1 :]
    batched = [letter for letter in by if letter in own and letter in wanted]
    if batched and (shared or new):
        raise low.refuse(_BATCHED.format(" x ".join(str(weight.shape[by.index(letter)]) for letter in batched)))
    kept = [letter for letter in own if letter not in shared]
    if batched:  # entry by entry
        by_entry = weight.permute([by.index(letter) for letter in own if letter in by])
        sizes = iter(by_entry.shape)
        x = multiplied(low, x, by_entry.reshape([next(sizes) if letter in by else 1 for letter in own]))
        return _moved(low, x, "torch.permute", [own.index(letter) for letter in wanted])
    x = _moved(low, x, "torch.permute", [own.index(letter) for letter in [*kept, *shared]])
    x = _moved(low, x, "torch.flatten", -len(shared)) if len(shared) > 1 else x
    x = x if shared else _moved(low, x, "torch.unsqueeze", -1)
    sizes_new = [weight.shape[by.index(letter)] for letter in new]
    matrix = weight.permute([by.index(letter) for letter in [*new, *shared]])
    result = linear_map(low, x, matrix.reshape(math.prod(sizes_new), -1), None, low.node_name)
    result = _moved(low, result, "torch.unflatten", -1, sizes_new) if len(new) > 1 else result
    result = result if new else _moved(low, result, "torch.squeeze", -1)
    order = [*kept, *new]
    return _moved(low, result, "torch.permute", [order.index(letter) for letter in wanted])
