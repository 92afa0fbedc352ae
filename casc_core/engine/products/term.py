"""A term of a sum of currents: a train, and the filter that it goes through."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.input_product import ConvolutionSums
from casc_core.engine.signal import inverse, memory_order


def with_plane(x: Tensor, dims: int) -> Tensor:
    """A tensor with so many spatial dimensions as one with two."""
    return x[..., None, None] if dims == 0 else x.unsqueeze(-2) if dims == 1 else x


def without_plane(x: Tensor, dims: int) -> Tensor:
    """A tensor with two spatial dimensions as one with so many."""
    return x[..., 0, 0] if dims == 0 else x.squeeze(-2) if dims == 1 else x


@dataclass(frozen=True)
class Term:
    """A train `[steps, batch, channels, height, width]` and the filter it goes through.

    Attributes:
        bound: largest magnitude of the train per unit of spike count.
    """

    filter: Filter
    train: Tensor
    bound: float

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of what it gives."""
        return self.filter.geometry.output_size(*self.train.shape[3:])

    def largest(self, peak: int) -> int:
        """The largest magnitude of the train, where a spike count changes by no more than `peak` in a step."""
        return math.ceil(self.bound * peak)

    def added(self, dtype: torch.dtype, total: Tensor | None) -> Tensor:
        """The currents, added to those of longer ones, channels last in memory."""
        train, adds = self.train, total is not None
        if train.dtype == torch.int8 and kernels.ready(train):
            if total is None:
                shape = (*train.shape[:2], *self.size, self.filter.outputs)
                total = kernels.empty(shape, dtype).permute(0, 1, 4, 2, 3)
            kernels.currents(self.filter.currents(dtype), train, total[: len(train)].permute(0, 1, 3, 4, 2), adds)
            return total
        part = self.convolved(dtype)
        if total is None:
            return part
        total[: len(part)] += part
        return total

    def convolved(self, dtype: torch.dtype) -> Tensor:
        """The currents, in this type."""
        train, factors = self.train, self.filter.factors
        if factors is not None:
            return train.to(dtype) * factors.to(train.device, dtype)[:, None, None]
        if not len(train):
            return train.new_zeros((0, train.shape[1], self.filter.outputs, *self.size), dtype=dtype)
        # A type as wide as the sum's is wide enough for each term: no bound grows by leaving others out. The kernel takes
        # float64.
        summed = torch.float64 if kernels.ready(train) else dtype
        sums = ConvolutionSums(self.filter.geometry, 2)
        result = sums(train.flatten(0, 1).to(summed), self.filter.weight.to(train.device, summed)).to(dtype)
        unfolded: Tensor = result.unflatten(0, train.shape[:2])
        return unfolded

    def total(self) -> Tensor:
        """The currents of all steps together, float64."""
        return replace(self, train=_summed(self.train).unsqueeze(0)).convolved(torch.float64)[0]


def _summed(train: Tensor) -> Tensor:
    """The sum over the steps."""
    order = memory_order(train)
    if train.dtype != torch.int8 or order is None or order[0] != 0 or not kernels.ready(train):
        return train.sum(0, dtype=torch.float64)
    return kernels.sum_middle(train.permute(order), 0).permute([dim - 1 for dim in inverse(order)[1:]])
