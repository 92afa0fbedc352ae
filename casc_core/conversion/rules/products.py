"""Rules of matrix products with constants, in the ways of writing them beside a linear layer."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.graph import SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.arithmetic import add, known, multiplied, times
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Layout

PRODUCT = (
    "a product of two spiking tensors (attention) is not affine; use a recurrent layer or a pooling. A product with "
    "weights belongs into an nn.Linear"
)
_BATCHED = (
    "it multiplies by {} matrices, one for each entry of a batch; hold one matrix, or use nn.Linear for each part"
)


@RULES.function(torch.matmul, torch.mm, torch.mv, operator.matmul, operator.imatmul, "matmul", "mm", "mv")
def matmul(reader: Reader, input: Any, other: Any) -> SignalNode:
    """A product with a constant matrix or vector on either side."""
    right = not isinstance(other, SignalNode)
    if not right and isinstance(input, SignalNode):
        raise reader.refuse(PRODUCT)
    weight = known(reader, other if right else input)
    if weight is None:
        raise reader.refuse(
            PRODUCT.replace("two spiking tensors (attention)", "a spiking tensor and one from the inputs")
        )
    if weight.dim() > 2:
        raise reader.refuse(_BATCHED.format(list(weight.shape[:-2])))
    x = reader.signal(input) if right else _moved(reader, other, "torch.transpose", -2, -1)
    rows = weight.unsqueeze(0) if weight.dim() == 1 else weight.T if right else weight
    result = linear_map(reader, x, rows, None, reader.name)
    if weight.dim() == 1:
        return _moved(reader, result, "torch.squeeze", -1)
    return result if right else _moved(reader, result, "torch.transpose", -2, -1)


def _moved(reader: Reader, x: SignalNode, function: str, *args: Any) -> SignalNode:
    return reader.apply(Layout(function=function), x, *args)


@RULES.function(torch.addmm, torch.addmv, "addmm", "addmv", "addmm_", "addmv_")
def _addmm(reader: Reader, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> SignalNode:
    product = times(reader, matmul(reader, mat1, mat2), alpha)
    return add(reader, product, input if beta == 1 else times(reader, input, beta))


@RULES.function(torch.bmm, torch.baddbmm, "bmm", "baddbmm")
def _bmm(reader: Reader, *args: Any, **kwargs: Any) -> SignalNode:
    matrices = [known(reader, value) for value in args[-2:] if not isinstance(value, SignalNode)]
    constant = next((matrix for matrix in matrices if matrix is not None), None)
    raise reader.refuse(PRODUCT if constant is None else _BATCHED.format(list(constant.shape[:-2])))


@RULES.function(torch.einsum)
def _einsum(reader: Reader, equation: Any, *operands: Any) -> SignalNode:
    """A sum over letters that the constant shares with the signal, as a linear map of them; over others, as a sum."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    signals = [value for value in operands if isinstance(value, SignalNode)]
    if len(signals) > 1:
        raise reader.refuse(PRODUCT)
    if not isinstance(equation, str) or "..." in equation or "->" not in equation or len(operands) > 2:
        raise reader.refuse("only equations of letters alone, of one or two operands, with a '->', can be taken apart")
    given, wanted = equation.replace(" ", "").split("->")
    letters = given.split(",")
    place = next((index for index, value in enumerate(operands) if isinstance(value, SignalNode)), None)
    if place is None:  # an input, beside a constant
        place = next((index for index, value in enumerate(operands) if known(reader, value) is None), 0)
    own = letters.pop(place)
    x, weight = reader.signal(operands[place]), None
    if letters:
        weight = known(reader, operands[1 - place])
        if weight is None:
            raise reader.refuse(
                PRODUCT.replace("two spiking tensors (attention)", "a spiking tensor and one from the inputs")
            )
    by = letters[0] if letters else ""
    if any(len(set(each)) != len(each) for each in (own, by, wanted)):
        raise reader.refuse("a letter stands twice in one operand (a diagonal); take the diagonal beforehand")
    alone = [at for at, letter in enumerate(own) if letter not in by + wanted]
    if alone:
        x = _summed(reader, x, [at - len(own) for at in alone])
        own = "".join(letter for letter in own if letter in by + wanted)
    if weight is None:
        return _moved(reader, x, "torch.permute", [own.index(letter) for letter in wanted])
    return _contracted(reader, x, own, weight, by, wanted)


def _summed(reader: Reader, x: SignalNode, dims: list[int]) -> SignalNode:
    result: SignalNode = reader.rules.functions[torch.sum](reader, x, dims)
    return result


def _contracted(reader: Reader, x: SignalNode, own: str, weight: Tensor, by: str, wanted: str) -> SignalNode:
    shared = [letter for letter in by if letter in own and letter not in wanted]
    new = [letter for letter in by if letter not in own and letter in wanted]
    for at in sorted((by.index(letter) for letter in by if letter not in own + wanted), reverse=True):
        weight, by = weight.sum(at), by[:at] + by[at + 1 :]
    batched = [letter for letter in by if letter in own and letter in wanted]
    if batched and (shared or new):
        raise reader.refuse(_BATCHED.format(" x ".join(str(weight.shape[by.index(letter)]) for letter in batched)))
    kept = [letter for letter in own if letter not in shared]
    if batched:  # entry by entry
        by_entry = weight.permute([by.index(letter) for letter in own if letter in by])
        sizes = iter(by_entry.shape)
        x = multiplied(reader, x, by_entry.reshape([next(sizes) if letter in by else 1 for letter in own]))
        return _moved(reader, x, "torch.permute", [own.index(letter) for letter in wanted])
    x = _moved(reader, x, "torch.permute", [own.index(letter) for letter in [*kept, *shared]])
    x = _moved(reader, x, "torch.flatten", -len(shared)) if len(shared) > 1 else x
    x = x if shared else _moved(reader, x, "torch.unsqueeze", -1)
    sizes_new = [weight.shape[by.index(letter)] for letter in new]
    matrix = weight.permute([by.index(letter) for letter in [*new, *shared]])
    result = linear_map(reader, x, matrix.reshape(math.prod(sizes_new), -1), None, reader.name)
    result = _moved(reader, result, "torch.unflatten", -1, sizes_new) if len(new) > 1 else result
    result = result if new else _moved(reader, result, "torch.squeeze", -1)
    order = [*kept, *new]
    return _moved(reader, result, "torch.permute", [order.index(letter) for letter in wanted])
