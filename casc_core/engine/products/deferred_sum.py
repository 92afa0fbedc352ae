"""Deferred sums: currents as the convolutions that they are sums of, computed only where a population reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.geometry import Geometry, convolve
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.signal import inverse, memory_order, running_total, without_repeats
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
        self, peak: int, blocks: kernels.Blocks, rounding: kernels.Rounding | None
    ) -> kernels.PackedConvolution | None:
        """For the compiled kernel, rounded if they are to be; None: its integers might not hold a sum."""
        key = (peak, rounding, blocks.tiled, blocks.width, *blocks.low.tolist())
        return self.cache(
            self.weight,
            key,
            lambda: kernels.pack_convolution(self.weight, self.geometry, self.exponent, peak, blocks, rounding),
        )

    def can_be_tiled(self, peak: int) -> bool:
        """Whether the kernel takes positions together."""
        return kernels.can_be_tiled(self.weight, self.geometry, peak)

    @property
    def narrow_exponent(self) -> int:
        """The finest grid on which int16 holds the weights, rounded."""
        return self.cache(self.weight, "narrow", lambda: kernels.narrow_exponent(self.weight))


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
class _Packed:
    """The filters of a sum as a kernel reads them, and the exponent of its units; the margin, where they are rounded."""

    filters: tuple[kernels.PackedConvolution, ...]
    unit: int
    margin: kernels.Margin | None = None


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
        return torch.Size([max(len(term.train) for term in self.terms), *self.size])

    @property
    def size(self) -> torch.Size:
        """`[batch, channels, (height,) width]`."""
        first = self.terms[0]
        return torch.Size([first.train.shape[1], len(first.filter.weight), *first.size[2 - self.dims :]])

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

    def total(self) -> Tensor:
        """The sum of the currents over all steps, float64: what the filters make of all spikes together."""
        if self.is_computed:
            return self._tensor.sum(0, dtype=torch.float64)
        parts = [
            _convolved(replace(term, train=_summed(term.train).unsqueeze(0)), torch.float64)[0] for term in self.terms
        ]
        return without_plane(sum(parts[1:], parts[0]), self.dims)

    def running(self, steps: int) -> Tensor:
        """The sum of the currents until each of the first `steps` steps, float64."""
        return running_total(self._tensor, steps)

    def summed(self, dims: tuple[int, ...]) -> Tensor | None:
        """None: its sums come from the whole."""
        return None

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
        outputs = len(first.weight)
        tiled = all(term.filter.can_be_tiled(self._peak(term)) for term in self.terms)
        blocks = (
            kernels.Blocks.tiles(outputs)
            if tiled
            else kernels.Blocks.of(outputs, first.geometry.groups, first.weight[0].numel())
        )
        packed = (
            self._packed(blocks, exponent)
            if units is None
            else self._rounded(blocks, exponent, threshold, neuron, units)
        )
        if packed is None:
            return None
        unit = packed.unit
        exact = None
        if packed.margin is not None:
            exact = kernels.Exact(
                exponent,
                math.ldexp(threshold, -exponent),
                packed.margin,
                *(self._units(values, exponent, torch.float64) for values in (drive, potential)),
            )
        spikes = kernels.convolution(
            [(each, term.train) for each, term in zip(packed.filters, self.terms, strict=True)],
            blocks,
            (self.shape[1], outputs, *self.terms[0].size),
            self._units(drive, unit, torch.int32),
            unit,
            round(math.ldexp(threshold, -unit)),
            neuron,
            guess,
            self._units(potential, unit, torch.int32),
            exact,
        )
        return without_plane(spikes, self.dims)

    def _packed(self, blocks: kernels.Blocks, exponent: int) -> _Packed | None:
        """The filters as they are."""
        return self._each(blocks, exponent, [None] * len(self.terms))

    def _rounded(
        self, blocks: kernels.Blocks, exponent: int, threshold: float, neuron: KernelNeuron, widest: int
    ) -> _Packed | None:
        """The filters rounded so that int32 holds every sum, on grids no finer than `2**widest`: to int16, the cheapest to
        sum, where that leaves few neurons near a decision; else to int32."""
        grids_of = [(1.0, [widest] * len(self.terms))]
        if not blocks.tiled:
            narrow = [max(widest, term.filter.narrow_exponent) for term in self.terms]
            grids_of.insert(0, (kernels.NEAR, narrow))
        for near, grids in grids_of:
            counts = [math.ceil(term.bound * neuron.total) for term in self.terms]
            unit = min(grids)
            ways = [kernels.Rounding(grid, exponent, count) for grid, count in zip(grids, counts, strict=True)]
            # What is left out of weights for each spike, of the drive and the threshold for each count, and of the
            # potential that all begins with.
            found = self._each(blocks, unit, ways)
            if found is None:
                continue
            left_out = sum(
                math.ldexp(term.bound * each.left_out.largest, each.left_out.exponent - unit)
                for term, each in zip(self.terms, found.filters, strict=True)
                if each.left_out is not None
            )
            margin = math.ceil(neuron.total * (left_out + 1.0) + 1.0)
            if margin < near * math.ldexp(threshold, -unit):  # else every neuron would be near a decision, always
                return replace(found, margin=kernels.Margin(margin, 2))
        return None

    def _each(self, blocks: kernels.Blocks, unit: int, ways: Sequence[kernels.Rounding | None]) -> _Packed | None:
        """Each filter, rounded like this, where int32 holds the sums; None: it might not."""
        filters = []
        for term, rounding in zip(self.terms, ways, strict=True):
            packed = term.filter.packed(self._peak(term), blocks, rounding)
            if packed is None or packed.exponent - unit > 30:
                return None
            filters.append(packed)
        return _Packed(tuple(filters), unit)

    def _peak(self, term: Term) -> int:
        """The largest magnitude of a term's train."""
        return math.ceil(term.bound * self.peak)

    def _units(self, values: Tensor | None, exponent: int, dtype: torch.dtype) -> Tensor | None:
        """In whole units of `2**exponent`, of its shape with a height; where it repeats, it still does."""
        if values is None:
            return None
        values = with_plane(values, self.dims)
        units = (without_repeats(values) * 2.0**-exponent).round_().to(dtype)
        return units.contiguous().expand(values.shape)


def _summed(train: Tensor) -> Tensor:
    """The sum over the steps."""
    order = memory_order(train)
    if train.dtype != torch.int8 or order is None or order[0] != 0 or not kernels.ready(train):
        return train.sum(0, dtype=torch.float64)
    return kernels.sum_middle(train.permute(order), 0).permute([dim - 1 for dim in inverse(order)[1:]])


def _convolved(term: Term, dtype: torch.dtype) -> Tensor:
    train = term.train
    if not len(train):
        return train.new_zeros((0, train.shape[1], len(term.filter.weight), *term.size), dtype=dtype)
    # A type as wide as the sum's is wide enough for each term: no bound grows by leaving others out.
    result = convolve(train.flatten(0, 1).to(dtype), term.filter.weight.to(train.device, dtype), term.filter.geometry)
    unfolded: Tensor = result.unflatten(0, train.shape[:2])
    return unfolded
