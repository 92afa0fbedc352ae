"""Deferred sums: currents as the convolutions that they are sums of, computed only where a population reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.geometry import Geometry, convolve
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.signal import without_repeats
from casc_core.numerics import Numerics

# More terms than this are put together first: a population reads every one of them at every step.
MOST_TERMS = 4


@dataclass(frozen=True)
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
        self, peak: int, blocks: kernels.Blocks, units: int | None = None, finest: int | None = None
    ) -> kernels.PackedConvolution | None:
        """For the compiled kernel; None: its integers might not hold a sum.

        Args:
            units: exponent of the grid that they are rounded to; None: they are not.
            finest: then, of the units in which they are kept as they are.
        """
        key = (peak, units, finest, blocks.width, *blocks.low.tolist())
        exponent = self.exponent if units is None else units
        return self.cache(
            self.weight,
            key,
            lambda: kernels.pack_convolution(self.weight, self.geometry, exponent, peak, blocks, finest),
        )


def with_plane(x: Tensor, dims: int) -> Tensor:
    """A tensor with so many spatial dimensions as one with two."""
    return x[..., None, None] if dims == 0 else x.unsqueeze(-2) if dims == 1 else x


def without_plane(x: Tensor, dims: int) -> Tensor:
    """A tensor with two spatial dimensions as one with so many."""
    return x[..., 0, 0] if dims == 0 else x.squeeze(-2) if dims == 1 else x


@cache
def identity(channels: int, factor: float) -> Filter:
    """Every channel to itself, times `factor`."""
    weight = torch.full((channels, 1, 1, 1), factor, dtype=torch.float64, device="cpu")
    denominator = factor.as_integer_ratio()[1]
    geometry = Geometry((1, 1), groups=channels)
    return Filter("a shortcut", weight, -(denominator.bit_length() - 1), geometry, abs(factor), WeightCache())


@dataclass(frozen=True)
class Term:
    """A train `[steps, batch, channels, height, width]` and the filter it goes through.

    Attributes:
        bound: largest magnitude of the train per unit of spike count.
    """

    filter: Filter
    train: Tensor
    bound: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what it gives."""
        return self.filter.geometry.output_size(*self.train.shape[3:])


@dataclass(frozen=True)
class DeferredSum:
    """The sum of some terms, all of one shape: a `casc_core.engine.signal.LazyTrain`.

    Attributes:
        dims: spatial dimensions of the user's tensor, 0 to 2; the others, of size 1, are left out: the height first.
        numerics, peak: of the run.
    """

    terms: tuple[Term, ...]
    dims: int
    numerics: Numerics
    peak: int

    @property
    def shape(self) -> torch.Size:
        """`[steps, batch, channels, (height,) width]`."""
        first = self.terms[0]
        steps, channels = max(len(term.train) for term in self.terms), len(first.filter.weight)
        return torch.Size([steps, first.train.shape[1], channels, *first.size[2 - self.dims :]])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.terms[0].train.device

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds on to."""
        return sum(term.train.nbytes for term in self.terms)

    @property
    def bound(self) -> float:
        """Largest magnitude per unit of spike count."""
        return sum(term.bound * term.filter.reach for term in self.terms)

    def tensor(self) -> Tensor:
        """The currents, each term in the cheapest type that provably holds it, the sum likewise."""
        return self._tensor

    @cached_property
    def _tensor(self) -> Tensor:
        exponent = min(term.filter.exponent for term in self.terms)
        dtype = self.numerics.dtype(self.bound * self.peak, exponent, self.terms[0].filter.name)
        total: Tensor | None = None
        for term in sorted(self.terms, key=lambda term: -len(term.train)):
            part = _convolved(term, dtype)
            if total is None:
                total = part
            else:
                total[: len(part)] += part
        assert total is not None
        return without_plane(total, self.dims)

    @property
    def is_computed(self) -> bool:
        """Whether the sum has been taken."""
        return "_tensor" in self.__dict__

    def plus(self, train: Tensor | DeferredSum, bound: float) -> DeferredSum | None:
        """With another train added, of this bound; None: the two are better added as tensors."""
        if isinstance(train, DeferredSum):
            more = train.terms
        elif train.dtype == torch.int8 and train.dim() == self.dims + 3:
            train = with_plane(train, self.dims)
            more = (Term(identity(train.shape[2], 1.0), train, bound),)
        else:
            return None
        result = DeferredSum((*self.terms, *more), self.dims, self.numerics, self.peak)
        computed = self.is_computed or (isinstance(train, DeferredSum) and train.is_computed)
        alike = self.shape[1:] == DeferredSum(more, self.dims, self.numerics, self.peak).shape[1:]
        return result if alike and not computed and len(result.terms) <= MOST_TERMS else None

    def population(
        self,
        drive: Tensor | None,
        exponent: int,
        threshold: float,
        neuron: KernelNeuron,
        guess: int,
        potential: Tensor | None = None,
        units: int | None = None,
    ) -> Tensor | None:
        """Spikes of the population that reads these currents, by the compiled kernel; None: it cannot.

        Args:
            drive: multiples of `2**exponent`, expanded to the population's shape; or None.
            exponent: of potentials. threshold: a multiple of `2**exponent`.
            neuron: what it is and when it is awake.
            guess: of the steps that will be needed.
            potential: before the first step, as the drive; or None.
            units: exponent of the coarser grid on which int32 holds every sum of the population; what that leaves out is
                summed only for neurons that are near a decision. None: int32 holds the sums as they are.
        """
        if not kernels.ready(drive, potential, *(term.train for term in self.terms)):
            return None
        if any(term.train.dtype != torch.int8 or term.filter.exponent < exponent for term in self.terms):
            return None
        if any(term.train[:, 0, :, 0].numel() > kernels.INT32_UNITS for term in self.terms):
            return None  # the kernel numbers the spikes of a row of positions, over all steps, in 32 bits
        first = self.terms[0].filter
        outputs, geometry = len(first.weight), first.geometry
        blocks = kernels.Blocks.of(outputs, geometry.groups, first.weight[0].numel())
        finest, exponent = (None, exponent) if units is None else (exponent, units)
        packs = []
        for term in self.terms:
            packed = term.filter.packed(math.ceil(term.bound * self.peak), blocks, units, finest)
            if packed is None or packed.exponent - exponent > 30:
                return None
            packs.append((packed, term.train))
        shape = (self.shape[1], outputs, *self.terms[0].size)
        flowing, start = (self._units(values, exponent, torch.int32) for values in (drive, potential))
        exact = None
        if finest is not None:
            # What rounding leaves out: of weights for each spike, of the drive and the threshold for each count, and of
            # the potential that all begins with.
            left_out = sum(term.bound * packed.left_out for term, (packed, _) in zip(self.terms, packs, strict=True))
            margin = math.ceil(neuron.total * (left_out + 1.0) + 1.0)
            if margin >= math.ldexp(threshold, -exponent):
                return None  # every neuron would be near a decision, always
            exact = kernels.Exact(
                math.ldexp(threshold, -finest),
                margin,
                *(self._units(values, finest, torch.float64) for values in (drive, potential)),
            )
        spikes = kernels.convolution(
            packs,
            blocks,
            shape,
            flowing,
            exponent,
            round(math.ldexp(threshold, -exponent)),
            neuron,
            guess,
            start,
            exact,
        )
        return without_plane(spikes, self.dims)

    def _units(self, values: Tensor | None, exponent: int, dtype: torch.dtype) -> Tensor | None:
        """In whole units of `2**exponent`, of its shape with a height; where it repeats, it still does."""
        if values is None:
            return None
        values = with_plane(values, self.dims)
        units = (without_repeats(values) * 2.0**-exponent).round_().to(dtype)
        return units.contiguous().expand(values.shape)


def _convolved(term: Term, dtype: torch.dtype) -> Tensor:
    train = term.train
    if not len(train):
        return train.new_zeros((0, train.shape[1], len(term.filter.weight), *term.size), dtype=dtype)
    # A type as wide as the sum's is wide enough for each term: no bound grows by leaving others out.
    result = convolve(train.flatten(0, 1).to(dtype), term.filter.weight.to(train.device, dtype), term.filter.geometry)
    unfolded: Tensor = result.unflatten(0, train.shape[:2])
    return unfolded
