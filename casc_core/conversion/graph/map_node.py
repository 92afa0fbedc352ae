"""What linear maps and convolutions have in common: they take in whatever normalises their outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from casc_core.conversion.graph.node import Node, SignalNode
from casc_core.conversion.grids import Reach
from casc_core.engine.products.exact_sums import largest_row
from casc_core.numerics import largest

MapT = TypeVar("MapT", bound="MapNode")


@dataclass(frozen=True, eq=False, repr=False)
class MapNode(SignalNode):
    """A linear map or a convolution of a signal.

    Attributes:
        weight, bias: float64, in the user's values; outputs come first.
        name: that errors give it.
    """

    x: SignalNode
    weight: Tensor
    bias: Tensor | None
    name: str

    @property
    @abstractmethod
    def axis(self) -> int:
        """The dimension along which its outputs lie, counted from the end."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """How many dimensions its result has; None: that is known only when the network runs."""

    @cached_property
    def stays_a_map(self) -> bool:
        """Whether folding leaves it a map."""
        return True

    @cached_property
    def is_mapped(self) -> bool:
        return self.x.has_spikes

    @cached_property
    def is_fine(self) -> bool:
        return self.x.has_spikes

    @cached_property
    def is_running(self) -> bool:
        return self.x.is_fine

    @cached_property
    def is_driven(self) -> bool:
        return self.x.is_driven or self.bias is not None

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(1)

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return of(self.x).times(largest_row(self.weight), largest(self._bias)).on_grid()

    def times(self: MapT, factor: float) -> MapT:
        """The map whose outputs are `factor` times these."""
        return replace(self, weight=self.weight * factor, bias=self._bias * factor)

    def affine(self: MapT, factor: Tensor, offset: Tensor) -> MapT:
        """The map whose outputs are `factor` times these plus `offset`, one number for each output or one for all."""
        by_output = factor.expand(len(self.weight)).reshape(-1, *[1] * (self.weight.dim() - 1))
        bias = self._bias * factor + offset
        return replace(self, weight=self.weight * by_output, bias=bias if bool(bias.any()) else None)

    @property
    def _bias(self) -> Tensor:
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias

    def by_output(self, values: Sequence[Tensor], placed: int | None) -> list[Tensor] | None:
        """Numbers placed as those of a `Normalisation` that one for each output, or one for all, stands for."""
        entries = entries_along(values, placed, self.axis, self.rank)
        # A single output meets several factors: it becomes several channels, unless normalisation counts them.
        if entries is None or (placed is None and len(self.weight) == 1 and len(entries[0]) > 1):
            return None
        return entries

    def details(self) -> str:
        biased = "" if self.bias is None else ", biased"
        return f"{self.name!r} {list(self.weight.shape)}{biased}"


def entries_along(values: Sequence[Tensor], placed: int | None, axis: int, rank: int | None) -> list[Tensor] | None:
    """Numbers as `[entries]`, if they lie along one dimension of a tensor and leave its number of dimensions as it is.

    Args:
        values: the numbers, of shapes that broadcast with each other.
        placed: 1: they are `[channels]` of dimension 1; None: they broadcast with the tensor from its last dimension on.
        axis: the dimension that is asked about, counted from the end.
        rank: of the tensor; None: unknown.

    >>> entries_along([torch.ones(1, 3, 1, 1), torch.ones(3, 1, 1)], None, -3, 4)
    [tensor([1., 1., 1.]), tensor([1., 1., 1.])]
    >>> entries_along([torch.ones(3, 1, 1)], None, -1, 4), entries_along([torch.ones(1, 3)], None, -1, None)
    (None, None)
    """
    if placed is not None:
        return list(values) if rank is not None and rank + axis == placed else None
    most = -axis if rank is None else rank
    for value in values:
        entries = value.shape[axis] if value.dim() >= -axis else 1
        if value.dim() > most or value.numel() != entries:
            return None
    return [value.reshape(-1) for value in torch.broadcast_tensors(*(value.reshape(-1) for value in values))]
