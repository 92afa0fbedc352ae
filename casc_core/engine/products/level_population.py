"""A population that reads currents in levels, as the compiled kernel takes it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.term import with_plane, without_plane
from casc_core.engine.signal import along
from casc_core.numerics import binade, largest


def are_levels(currents: DeferredSum) -> bool:
    """Whether every term has a train of one step, in int8, that a compiled kernel may read."""
    trains = [term.train for term in currents.terms]
    one = all(train.shape[0] == 1 and train.dtype == torch.int8 for train in trains)
    return one and not currents.is_computed and kernels.ready(*trains)


class LevelPopulation(NamedTuple):
    """A population that reads currents in levels as the kernel takes it, and what it begins with."""

    population: kernels.DensePopulation
    begin: kernels.Begin

    def levels(self, currents: DeferredSum) -> Tensor:
        """The levels `[1, *size]` of currents."""
        trains = [term.train[0] for term in currents.terms]
        levels = kernels.dense(*self, trains, currents.terms[0].size)
        return without_plane(levels.unsqueeze(0), currents.dims)


def level_population(
    currents: DeferredSum, exponent: int, thresholds: Tensor, begin: Tensor, total: int
) -> LevelPopulation | None:
    """The population that reads these currents in levels, up to `total`, as a compiled kernel does; None: none can.

    Args:
        exponent: of potentials.
        thresholds: `[channels]` float64, multiples of `2**exponent`.
        begin: what it begins with, float64, which broadcasts with a step.
    """
    if any(each.exponent < exponent for each in currents.filters):
        return None
    # No more of it than its order of magnitude, so that other inputs find the population as it was prepared.
    reach = largest(begin)
    most = 2.0 ** binade(reach) if reach else 0.0
    own = currents.filters[0]
    key = exponent, total, currents.filters, currents.bounds, most, thresholds.numpy().tobytes()
    terms = [
        (each.weight.double(), each.geometry, each.exponent, math.ceil(bound * total))
        for each, bound in zip(currents.filters, currents.bounds, strict=True)
    ]
    population = own.cache(
        own.weight, ("levels", *key), lambda: kernels.dense_population(terms, exponent, thresholds, most, total)
    )
    if population is None:
        return None
    values = along(begin, currents.size, 1)
    if values is None:
        values = with_plane(begin.expand(currents.size), currents.dims).permute(0, 2, 3, 1)
    return LevelPopulation(population, population.begin(values))
