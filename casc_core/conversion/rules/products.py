"""Rules of matrix products with constants and of two signals, in the ways of writing them beside a linear layer."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.graph import Known, Product, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.affine import linear_call, linear_map, parameters
from casc_core.conversion.rules.arithmetic import add, known, multiplied, times
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Layout
from casc_core.engine.products.contraction import MATMUL, Contraction

_BATCHED = (
    "it multiplies by {} matrices, one for each entry of a batch; hold one matrix, or use nn.Linear for each part"
)


def contracted(reader: Reader, a: Any, b: Any, equation: str) -> SignalNode:
    """The product of two signals by an equation; real-valued inputs are drives."""
    for each in (a, b):
        if isinstance(each, Known):
            raise reader.refuse(_BATCHED.format(list(each.value.shape[:-2])))
    return reader.add(Product(reader.signal(a), reader.signal(b), reader.name, reader.levels, equation))


def _constant(reader: Reader, value: Any) -> Tensor | None:
    """A constant with which a product is a linear map; None: it is none, or holds several matrices."""
    weight = None if isinstance(value, SignalNode) else known(reader, value)
    return weight if weight is not None and weight.dim() <= 2 else None


@RULES.function(
    torch.matmul, torch.linalg.matmul, torch.mm, torch.mv, operator.matmul, operator.imatmul, "matmul", "mm", "mv"
)
def matmul(reader: Reader, input: Any, other: Any) -> SignalNode:
    """A product with a constant matrix or vector on either side, or of two signals."""
    weight = _constant(reader, other)
    right = weight is not None
    weight = weight if right else _constant(reader, input)
    if weight is None:
        return contracted(reader, input, other, MATMUL)
    x = reader.signal(input if right else other)
    x = x if right else _moved(reader, x, "torch.transpose", -2, -1)
    rows = weight.unsqueeze(0) if weight.dim() == 1 else weight.T if right else weight
    result = linear_map(reader, x, rows, None, reader.name)
    if weight.dim() == 1:
        return _moved(reader, result, "torch.squeeze", -1)
    return result if right else _moved(reader, result, "torch.transpose", -2, -1)


def _moved(reader: Reader, x: SignalNode, function: str, *args: Any) -> SignalNode:
    return reader.apply(Layout(function=function), x, *args)


@RULES.function(torch.addmm, torch.addmv, torch.baddbmm, "addmm", "addmv", "baddbmm", "addmm_", "addmv_", "baddbmm_")
def _addmm(reader: Reader, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> SignalNode:
    product = times(reader, matmul(reader, mat1, mat2), alpha)
    return add(reader, product, input if beta == 1 else times(reader, input, beta))


@RULES.function(torch.bmm, "bmm")
def _bmm(reader: Reader, input: Any, mat2: Any) -> SignalNode:
    return matmul(reader, input, mat2)


@RULES.function(F.linear)
def _linear(reader: Reader, input: Any, weight: Any, bias: Any = None) -> SignalNode:
    """A linear layer whose weights are parameters, or a signal."""
    if not isinstance(weight, SignalNode):
        return linear_call(reader, input, weight, bias)
    product = contracted(reader, input, weight, "...k,nk->...n")
    return product if bias is None else add(reader, product, bias)


@RULES.function(F.bilinear)
def bilinear(reader: Reader, input1: Any, input2: Any, weight: Any, bias: Any = None) -> SignalNode:
    """A linear map of one signal, to a matrix of each entry's own, times the other."""
    each, offset = parameters(reader, weight, bias)
    outputs, _, inputs = each.shape
    rows = each.transpose(1, 2).reshape(outputs * inputs, -1)
    matrices = _moved(
        reader,
        linear_map(reader, reader.signal(input1), rows, None, reader.name),
        "torch.unflatten",
        -1,
        (outputs, inputs),
    )
    result = contracted(reader, matrices, input2, "...nk,...k->...n")
    return result if offset is None else add(reader, result, reader.add(Known(offset)))


@RULES.module(nn.Bilinear)
def _bilinear_module(reader: Reader, module: nn.Bilinear, input1: Any, input2: Any) -> SignalNode:
    weight, bias = (None if each is None else reader.add(Known(each.detach())) for each in (module.weight, module.bias))
    return bilinear(reader, input1, input2, weight, bias)


@RULES.function(torch.einsum)
def _einsum(reader: Reader, equation: Any, *operands: Any) -> SignalNode:
    """A sum over letters that the constant shares with the signal, as a linear map of them; over others, as a sum."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str) or len(operands) > 2:
        raise reader.refuse("only equations of one or two operands can be taken apart; take two at a time")
    equation = _with_arrow(equation.replace(" ", ""))
    given, wanted = equation.split("->")
    letters = given.split(",")
    if any(len(set(each)) != len(each) for each in (part.replace("...", "") for part in (*letters, wanted))):
        raise reader.refuse("a letter stands twice in one operand (a diagonal); take the diagonal beforehand")
    if len(operands) == 2:
        constant = next((at for at, value in enumerate(operands) if _is_known(reader, value)), None)
        if constant is None:
            return _of_two(reader, *operands, equation)
        if "..." in equation:
            raise reader.refuse("its equation has dots beside a constant; give each dimension a letter")
        return _of_one(reader, equation, operands[1 - constant], constant, known(reader, operands[constant]))
    if "..." in equation:
        raise reader.refuse("its equation of one operand has dots; give each dimension a letter")
    return _of_one(reader, equation, operands[0], 1, None)


def _with_arrow(equation: str) -> str:
    """The equation with its result, which einsum has by the alphabet: the letters that stand once.

    >>> _with_arrow("bk,kj"), _with_arrow("...k,k")
    ('bk,kj->bj', '...k,k->...')
    """
    if "->" in equation:
        return equation
    letters = equation.replace("...", "").replace(",", "")
    alone = "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    return f"{equation}->{'...' if '...' in equation else ''}{alone}"


def _is_known(reader: Reader, value: Any) -> bool:
    return not isinstance(value, SignalNode) and known(reader, value) is not None


def _of_two(reader: Reader, a: Any, b: Any, equation: str) -> SignalNode:
    wrong = Contraction(equation).wrong
    if wrong is not None:
        raise reader.refuse(f"its equation is {wrong}; write it as a matrix product, or as a product and a sum")
    return contracted(reader, a, b, equation)


def _of_one(reader: Reader, equation: str, x: Any, place: int, weight: Tensor | None) -> SignalNode:
    """A signal alone, or beside a constant, which stands at this place."""
    given, wanted = equation.split("->")
    letters = given.split(",")
    by = "" if weight is None else letters.pop(place)
    (own,) = letters
    shared = set(own) & set(by)
    if weight is not None and shared & set(wanted) and (shared - set(wanted) or set(by) & set(wanted) - set(own)):
        apart = [letter for letter in by if letter in shared & set(wanted)]
        raise reader.refuse(_BATCHED.format(" x ".join(str(weight.shape[by.index(letter)]) for letter in apart)))
    x = reader.signal(x)
    alone = [at for at, letter in enumerate(own) if letter not in by + wanted]
    if alone:
        x = _summed(reader, x, [at - len(own) for at in alone])
        own = "".join(letter for letter in own if letter in by + wanted)
    if weight is None:
        return _moved(reader, x, "torch.permute", [own.index(letter) for letter in wanted])
    return _mapped(reader, x, own, weight, by, wanted)


def _summed(reader: Reader, x: SignalNode, dims: list[int]) -> SignalNode:
    result: SignalNode = reader.rules.functions[torch.sum](reader, x, dims)
    return result


def _mapped(reader: Reader, x: SignalNode, own: str, weight: Tensor, by: str, wanted: str) -> SignalNode:
    shared = [letter for letter in by if letter in own and letter not in wanted]
    new = [letter for letter in by if letter not in own and letter in wanted]
    for at in sorted((by.index(letter) for letter in by if letter not in own + wanted), reverse=True):
        weight, by = weight.sum(at), by[:at] + by[at + 1 :]
    batched = [letter for letter in by if letter in own and letter in wanted]
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
