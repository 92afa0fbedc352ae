"""Currents of random spikes: the terms of deferred sums."""

from __future__ import annotations

import torch
from torch import Tensor

from casc_core import Exact
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.term import Term
from casc_core.engine.products.weight_cache import WeightCache


def whole(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers, the highest left out."""
    return torch.randint(low, high, shape, generator=generator)


def term(
    seed: int,
    outputs: int = 5,
    channels: int = 3,
    kernel: int = 3,
    steps: int = 4,
    exponent: int = -6,
    size: tuple[int, int] = (4, 6),
    groups: int = 1,
) -> Term:
    """Random spikes of two samples through a random convolution, padded to their size."""
    generator = torch.Generator().manual_seed(seed)
    weight = whole(generator, -40, 41, outputs, channels // groups, kernel, kernel).double() * 2.0**exponent
    train = whole(generator, -1, 2, steps, 2, channels, *size).to(torch.int8)
    geometry = Geometry((kernel, kernel), padding=(kernel // 2,) * 4, groups=groups)
    reach = float(weight.abs().flatten(1).sum(1).max())
    return Term(Filter(f"conv{seed}", weight, exponent, geometry, reach, WeightCache()), train, 1.0)


def currents(*terms: Term, dims: int = 2, peak: int = 1) -> DeferredSum:
    """Their sum."""
    return DeferredSum(terms, dims, Exact(), peak)
