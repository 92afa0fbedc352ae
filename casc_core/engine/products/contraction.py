"""Products of two tensors, entry by entry or summed over dimensions that they share: one equation for all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine.products.exact_sums import exact_matrices
from casc_core.engine.signal import broadcast
from casc_core.errors import InputError

ELEMENTWISE = "...,...->..."
MATMUL = "...ik,...kj->...ij"
_FORM = re.compile(r"([A-Za-z]*(?:\.{3})?[A-Za-z]*),([A-Za-z]*(?:\.{3})?[A-Za-z]*)->([A-Za-z]*(?:\.{3})?[A-Za-z]*)")

Label = str | int
"""Of a dimension: a letter, or, of those that `...` stands for, its place from their end, -1 the last."""
_STEP = "step"  # no letter, so that no equation has it


@dataclass(frozen=True)
class Contraction:
    """A product of two tensors as `torch.einsum` computes it, by an equation of two operands with an arrow.

    Attributes:
        equation: each letter stands at most once in an operand, and the result's letters are those of the operands.

    >>> Contraction("bk,kj->bj")(torch.ones(2, 3), torch.ones(3, 4)).shape
    torch.Size([2, 4])
    >>> Contraction(ELEMENTWISE)(torch.tensor([2.0, 3.0]), torch.tensor(2.0))
    tensor([4., 6.])
    """

    equation: str

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """What stands for each operand, and for the result."""
        found = _FORM.fullmatch(self.equation)
        assert found is not None
        a, b, result = found.groups()
        return a, b, result

    @property
    def wrong(self) -> str | None:
        """What is wrong with the equation, if anything is."""
        if _FORM.fullmatch(self.equation) is None:
            return "no equation of two operands of letters, with an arrow"
        a, b, result = (part.replace("...", "") for part in self.parts)
        if any(len(set(part)) != len(part) for part in (a, b, result)):
            return "a letter stands twice in one operand"
        if not set(result) <= set(a + b):
            return "the result has a letter that no operand has"
        dots = ["..." in part for part in self.parts]
        return None if dots[2] == (dots[0] or dots[1]) else "'...' stands for dimensions that the result has"

    @property
    def is_summed(self) -> bool:
        """Whether it sums over dimensions."""
        a, b, result = self.parts
        return not set(a + b) <= set(result)

    def at(self, a: torch.Size, b: torch.Size) -> Labels:
        """Its dimensions for operands of these shapes.

        Raises:
            InputError: they do not fit.
        """
        return Labels.of(*self._fitting(len(a), len(b)), a, b)

    def between(self, a: int, b: int) -> str:
        """The equation for operands of so many dimensions, which `einsum` takes as it is.

        >>> Contraction(MATMUL).between(1, 3), Contraction(MATMUL).between(2, 3)
        ('k,...kj->...j', '...ik,...kj->...ij')
        """
        one, other, result = self._fitting(a, b)
        return f"{one},{other}->{result}"

    def _fitting(self, a: int, b: int) -> tuple[str, str, str]:
        """The parts for operands of so many dimensions: a vector in a matrix product has one letter less."""
        one, other, result = self.parts
        if self.equation == MATMUL and a == 1:
            one, result = "k", result.replace("i", "")
        if self.equation == MATMUL and b == 1:
            other, result = "k", result.replace("j", "")
        return one, other, result

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The product in the operands' type: exact in whatever order, if that holds every sum."""
        return self.at(a.shape, b.shape).product(a, b)


ENTRY_BY_ENTRY = Contraction(ELEMENTWISE)


@dataclass(frozen=True)
class Labels:
    """The dimensions of a product: which of those of the result, and of those that are summed, an operand has.

    Attributes:
        a, b, result: the labels of their dimensions.
        summed: those that the result does not have.
        sizes: by label, of result and summed ones.
    """

    a: tuple[Label, ...]
    b: tuple[Label, ...]
    result: tuple[Label, ...]
    summed: tuple[Label, ...]
    sizes: dict[Label, int]

    @classmethod
    def of(cls, a: str, b: str, result: str, shape_a: torch.Size, shape_b: torch.Size) -> Labels:
        """Those of an equation's parts."""
        one, other = _labels(a, len(shape_a)), _labels(b, len(shape_b))
        most = max([-label for label in (*one, *other) if isinstance(label, int)], default=0)
        wanted = _labels(result, len(result.replace("...", "")) + most * ("..." in result))
        summed = tuple(dict.fromkeys(label for label in (*one, *other) if label not in wanted))
        every = (*wanted, *summed)
        shapes = (torch.Size(_placed(list(shape), own, every)) for shape, own in ((shape_a, one), (shape_b, other)))
        return cls(one, other, wanted, summed, dict(zip(every, broadcast(*shapes), strict=True)))

    @property
    def every(self) -> tuple[Label, ...]:
        """The labels of the result, then those that are summed."""
        return (*self.result, *self.summed)

    @property
    def shape(self) -> torch.Size:
        """Of the result."""
        return torch.Size(self.sizes[label] for label in self.result)

    @property
    def terms(self) -> int:
        """Of how many products an entry of the result is the sum."""
        return math.prod(self.sizes[label] for label in self.summed)

    def over_steps(self, steps: int) -> Labels:
        """Those of operands and results with a dimension of so many steps before their own, each step by itself."""
        a, b, result = ((_STEP, *own) for own in (self.a, self.b, self.result))
        return replace(self, a=a, b=b, result=result, sizes={**self.sizes, _STEP: steps})

    def aligned(self, x: Tensor, own: Sequence[Label], every: Sequence[Label] | None = None) -> Tensor:
        """An operand with a dimension for each of `every` label, of size 1 for those that it has not."""
        every = self.every if every is None else every
        x = x.permute([own.index(label) for label in every if label in own])
        for place, label in enumerate(every):
            x = x if label in own else x.unsqueeze(place)
        return x

    def over_result(self, x: Tensor, own: Sequence[Label]) -> Tensor:
        """What is the same along summed dimensions, without them; it broadcasts with the result."""
        x = self.aligned(x, own)
        for _ in self.summed:
            x = x.select(-1, 0)
        return x

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The product of the operands, summed."""
        if not self.summed:
            return self.aligned(a, self.a) * self.aligned(b, self.b)
        one, other, order = self._matrices(a, b)
        return self._ordered(one @ other, order)

    def exact_product(self, a: Tensor, b: Tensor) -> Tensor:
        """The same in float64, each entry rounded as if once, whatever else is in the operands."""
        if not self.summed:
            return self.product(a, b)
        one, other, order = self._matrices(a, b)
        return self._ordered(exact_matrices(one, other), order)

    def _matrices(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, list[list[Label]]]:
        """Both as matrices, one for each entry that they share, and the labels of these entries, of rows and columns."""
        shared = [label for label in self.result if label in self.a and label in self.b]
        rows = [label for label in self.result if label not in self.b]
        columns = [label for label in self.result if label not in self.a]
        one = self._flat(a, self.a, shared, rows, list(self.summed))
        other = self._flat(b, self.b, shared, list(self.summed), columns)
        return one, other, [shared, rows, columns]

    def _flat(self, x: Tensor, own: Sequence[Label], *groups: list[Label]) -> Tensor:
        """`x` with one dimension for each group of labels; where it has a size of 1, the entry is repeated."""
        every = [label for group in groups for label in group]
        x = self.aligned(x, own, every).expand([self.sizes[label] for label in every])
        return x.reshape([math.prod(self.sizes[label] for label in group) for group in groups])

    def _ordered(self, x: Tensor, groups: list[list[Label]]) -> Tensor:
        """A product `[shared, rows, columns]` with the dimensions of the result."""
        every = [label for group in groups for label in group]
        return self.aligned(x.reshape([self.sizes[label] for label in every]), every, self.result)


def _labels(part: str, dims: int) -> tuple[Label, ...]:
    before, dots, behind = part.partition("...")
    repeated = dims - len(before) - len(behind)
    if repeated < 0 or (repeated and not dots):
        raise InputError(f"{part!r} of a product of tensors does not stand for one of {dims} dimensions")
    return (*before, *range(-repeated, 0), *behind)


def _placed(sizes: list[int], own: Sequence[Label], every: Sequence[Label]) -> list[int]:
    return [sizes[own.index(label)] if label in own else 1 for label in every]
