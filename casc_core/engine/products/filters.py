"""Filters: what spikes go through on their way to a population, be it a convolution or a factor for each channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.even_scale import EvenScale
from casc_core.engine.products.exact_sums import largest_row
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.numerics import FLOAT64_UNITS, largest


@dataclass(frozen=True, eq=False)
class Filter:
    """The weights of a convolution and what has been prepared from them.

    Attributes:
        name: what errors call it.
        weight: `[O, C/groups, kh, kw]`, multiples of `2**exponent`.
        reach: largest sum of magnitudes that one output has.
    """

    name: str
    weight: Tensor
    exponent: int
    geometry: Geometry
    reach: float
    cache: WeightCache

    def packed(
        self, peak: int, blocks: kernels.Blocks, rounding: kernels.Rounding | None, scale: EvenScale | None = None
    ) -> kernels.PackedConvolution | None:
        """For the compiled kernel, by output multiplied and rounded if they are to be; None: its integers might not hold a
        sum."""
        key = (peak, rounding, blocks.tabled, blocks.width, *blocks.low.tolist(), scale and scale.key)

        def make() -> kernels.PackedConvolution | None:
            weight = self._of_outputs(scale)
            return kernels.pack_convolution(weight, self.geometry, self.exponent, peak, blocks, rounding)

        return self.cache(self.weight, key, make)

    def _of_outputs(self, scale: EvenScale | None) -> Tensor:
        """The weights, multiplied by output."""
        return self.weight if scale is None else self.weight.double() * scale.factors[:, None, None, None]

    def currents(self, dtype: torch.dtype) -> kernels.CurrentWeights:
        """For the kernel that writes currents in this type."""
        return self.cache(
            self.weight, ("currents", dtype), lambda: kernels.pack_currents(self.weight, self.geometry, dtype)
        )

    def can_be_tabled(self, peak: int) -> bool:
        """Whether the kernel takes positions together, for a train of this peak."""
        return kernels.can_be_tabled(self.weight, self.geometry, peak)

    @property
    def is_own(self) -> bool:
        """Whether each output has one input channel, that of its number."""
        return kernels.is_own(self.weight, self.geometry)

    def narrow_exponent(self, scale: EvenScale | None = None) -> int:
        """The finest grid on which int16 holds the weights, by output multiplied and rounded."""
        key = "narrow", None if scale is None else scale.key
        return self.cache(self.weight, key, lambda: kernels.narrow_exponent(self._of_outputs(scale)))

    @property
    def reaches(self) -> Tensor:
        """`[O]`: the sum of magnitudes of each output's weights."""
        return self.cache(self.weight, "reaches", lambda: self.weight.double().abs().flatten(1).sum(1))

    @cached_property
    def outputs(self) -> int:
        """How many channels it gives."""
        return len(self.weight)

    @cached_property
    def factors(self) -> Tensor | None:
        """`[channels]`, where it does nothing but multiply each channel by a factor; None: it does something else."""
        each = self.geometry == Geometry((1, 1), groups=len(self.weight)) and self.weight.shape[1] == 1
        return self.weight.flatten() if each else None

    def times(self, factors: Tensor) -> Filter | None:
        """With what it gives multiplied by factors `[O]`; None: float64 does not hold the products."""
        return self._scaled("times", factors, lambda: factors[:, None, None, None])

    def behind(self, factors: Tensor) -> Filter | None:
        """With what it reads multiplied by factors `[C]`; None: float64 does not hold the products."""

        def by_input() -> Tensor:
            groups, (outputs, inputs) = self.geometry.groups, self.weight.shape[:2]
            each = factors.view(groups, 1, inputs).expand(groups, outputs // groups, inputs)
            return each.reshape(outputs, inputs, 1, 1)

        return self._scaled("behind", factors, by_input)

    def _scaled(self, kind: str, factors: Tensor, aligned: Callable[[], Tensor]) -> Filter | None:
        """With its weights multiplied by factors, which `aligned` aligns with them."""

        def make() -> Filter | None:
            weight, finest = self.weight * aligned(), grid_of(self.weight) + grid_of(factors)
            if math.ldexp(largest(self.weight) * largest(factors), -finest) >= FLOAT64_UNITS:
                return None
            return replace(
                self, weight=weight, exponent=grid_of(weight), reach=largest_row(weight), cache=WeightCache()
            )

        if bool((factors == 1.0).all()):
            return self
        return self.cache(self.weight, (kind, factors.numpy().tobytes()), make)


def by_channel(factors: Tensor) -> Filter:
    """Every channel to itself, times its factor `[channels]`, float64."""
    return _by_channel(factors.numpy().tobytes())


@lru_cache(maxsize=256)
def identity(channels: int) -> Filter:
    """Every channel to itself."""
    return by_channel(torch.ones(channels, dtype=torch.float64, device="cpu"))


@lru_cache(maxsize=256)
def _by_channel(factors: bytes) -> Filter:
    weight = torch.frombuffer(bytearray(factors), dtype=torch.float64).reshape(-1, 1, 1, 1)
    geometry = Geometry((1, 1), groups=len(weight))
    return Filter("factors of channels", weight, grid_of(weight), geometry, largest(weight), WeightCache())


def grid_of(values: Tensor) -> int:
    """The exponent of the coarsest power of two of which all of these are multiples; 0 of zeros.

    >>> grid_of(torch.tensor([0.75, 2.0])), grid_of(torch.tensor([12.0, 8.0]))
    (-2, 2)
    """
    mantissas, exponents = torch.frexp(values.double()[values != 0])
    if not len(mantissas):
        return 0
    whole = (mantissas * 2.0**53).long()
    trailing = torch.frexp((whole & -whole).double()).exponent - 1
    return int((exponents + trailing).min()) - 53
