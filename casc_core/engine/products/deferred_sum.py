"""Deferred sums: currents as the filters of spikes that they are sums of, computed only where a population reads them.

Convolutions and linear maps begin one, and so do factors: each channel to itself. Sums, factors, rearrangements, pools and
concatenations of such currents are again sums of filters, and so is what a map makes of factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.connected import connected_population
from casc_core.engine.products.filters import Filter, by_channel, identity
from casc_core.engine.products.input_product import ConvolutionSums
from casc_core.engine.signal import (
    LazyTrain,
    Rearrangement,
    Signal,
    along,
    concatenated,
    inverse,
    memory_order,
    over_steps,
    running_total,
    without_repeats,
)
from casc_core.numerics import Numerics
from casc_core.reporting.series import zero_padded

# Below so many entries of trains the lists are short, however much spikes.
_WORTH_A_LOOK = 100_000
# Nanoseconds, measured: a list and an entry of it; sixteen outputs' row of a table.
_LIST_COST, _ENTRY_COST, _TABLE_COST = 30.0, 1.25, 0.36
# More terms than this are put together first: a population reads every one of them at every step.
MOST_TERMS = 4


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
        if self.factors is not None:  # what reads them has proven that float64 holds them
            dtype = torch.float64
        else:
            dtype = self.numerics.dtype(self.bound * self.peak, exponent, self.terms[0].filter.name)
        total: Tensor | None = None
        for term in sorted(self.terms, key=lambda term: -len(term.train)):
            total = _added(term, dtype, total)
        assert total is not None
        return without_plane(total, self.dims)

    @property
    def is_computed(self) -> bool:
        """Whether the sum has been taken."""
        return "_tensor" in self.__dict__

    @property
    def channels(self) -> int:
        """How many it has, along its dimension 1."""
        return len(self.terms[0].filter.weight)

    @property
    def factors(self) -> list[Tensor] | None:
        """`[channels]` of each term, where all terms but multiply channels by factors; None: there are other terms."""
        found = [term.filter.factors for term in self.terms]
        return None if self.is_computed or None in found else [each for each in found if each is not None]

    def plus(self, other: DeferredSum) -> DeferredSum | None:
        """The sum of both; None: they are better added as tensors."""
        if self.is_computed or other.is_computed or self.size != other.size:
            return None
        terms = [term for term in (*self.terms, *other.terms) if len(term.train)] or self.terms[:1]
        return replace(self, terms=tuple(terms)) if len(terms) <= MOST_TERMS else None

    def times(self, factor: Tensor) -> DeferredSum | None:
        """Multiplied by a number, or one for each channel, which broadcasts with it; None: by others, or no compiled
        kernel would read it."""
        if self.is_computed or not kernels.ready(*(term.train for term in self.terms)):
            return None
        factors = along(factor, self.size, 1)
        return None if factors is None else self._with([term.filter.times(factors) for term in self.terms])

    def read_by(self, own: Filter) -> DeferredSum | None:
        """What a convolution makes of it: it takes the factors in; None: it is no sum of factors."""
        factors = self.factors
        if factors is None:
            return None
        return self._with([own.behind(each) for each in factors])

    def moved(self, function: Callable[[Tensor], Tensor], by_sample: bool) -> DeferredSum | None:
        """What a function of each step gives that moves, takes or repeats entries, as `Signal.map` has it; None: it is no
        sum of factors, or channels of several factors become one."""
        return self._mapped(lambda train, _: over_steps(function, train, by_sample), partial(_moved, function), 1.0)

    def pooled(self, function: Callable[[Tensor, float], Tensor], most: float) -> DeferredSum | None:
        """What a function of a train and its bound gives that adds up entries of a channel, at most so many; None: it is no
        sum of factors."""
        return self._mapped(function, lambda factors, size: factors, most)

    def _mapped(
        self,
        function: Callable[[Tensor, float], Tensor],
        of_factors: Callable[[Tensor, torch.Size], Tensor | None],
        growth: float,
    ) -> DeferredSum | None:
        factors, terms = self.factors, []
        if factors is None:
            return None
        dims = self.dims
        for term, each in zip(self.terms, factors, strict=True):
            own = of_factors(each, self.size)
            train = None if own is None else function(without_plane(term.train, self.dims), term.bound)
            if own is None or train is None or not 3 <= train.dim() <= 5:
                return None
            dims = train.dim() - 3
            own = own.expand(train.shape[2]).contiguous()
            terms.append(Term(by_channel(own), with_plane(train, dims), term.bound * growth))
        return replace(self, terms=tuple(terms), dims=dims)

    def _with(self, filters: Sequence[Filter | None]) -> DeferredSum | None:
        """The same trains through other filters; None: there is none for one of them."""
        terms = [replace(term, filter=each) for term, each in zip(self.terms, filters, strict=True) if each is not None]
        return replace(self, terms=tuple(terms)) if len(terms) == len(self.terms) else None

    def population(
        self,
        drive: Tensor | None,
        exponent: int,
        threshold: float | Tensor,
        neuron: KernelNeuron,
        guess: int,
        potential: Tensor | None = None,
        units: int | None = None,
    ) -> Tensor | None:
        """Spikes of the population that reads these currents, by the compiled kernel; None: it cannot.

        Args:
            drive: multiples of `2**exponent`, expanded to the population's shape; or None.
            exponent: of potentials.
            threshold: multiples of `2**exponent`: one, or one for each channel, which broadcasts with the population.
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
        if any(
            term.train[:, 0, :, 0].numel() * term.filter.geometry.kernel[0] > kernels.INT32_UNITS for term in self.terms
        ):
            return None  # the kernel numbers the spikes of rows of positions, over all steps, in 32 bits
        thresholds = along(threshold, self.size, 1)
        if thresholds is None:
            return None
        if self._is_connected:
            train = self.terms[0].train[..., 0, 0]
            begins = None if potential is None else along(potential, self.size, 1)
            if potential is None or begins is not None:
                spikes = connected_population(
                    self.terms[0].filter, train, drive, exponent, thresholds, neuron, guess, begins, units
                )
                if spikes is not None:
                    return spikes
        lowest = float(thresholds.min())
        for blocks in self._ways():
            packed = (
                self._packed(blocks, exponent)
                if units is None
                else self._rounded(blocks, exponent, lowest, neuron, units)
            )
            if packed is not None:
                break
        else:
            return None
        unit = packed.unit
        exact = None
        if packed.margin is not None:
            exact = kernels.Exact(
                exponent,
                thresholds * 2.0**-exponent,
                packed.margin,
                *(self._units(values, exponent, torch.float64) for values in (drive, potential)),
            )
        spikes = kernels.convolution(
            [(each, term.train) for each, term in zip(packed.filters, self.terms, strict=True)],
            blocks,
            (self.shape[1], self.channels, *self.terms[0].size),
            self._units(drive, unit, torch.int32),
            unit,
            (thresholds * 2.0**-unit).round().int(),
            neuron,
            guess,
            self._units(potential, unit, torch.int32),
            exact,
        )
        return without_plane(spikes, self.dims)

    @property
    def _is_connected(self) -> bool:
        """Whether it is what one map makes of spikes, without positions."""
        return self.dims == 0 and len(self.terms) == 1 and self._peak(self.terms[0]) == 1

    @property
    def are_levels(self) -> bool:
        """Whether every term has a train of one step, in int8, that a compiled kernel may read."""
        trains = [term.train for term in self.terms]
        one = all(len(train) == 1 and train.dtype == torch.int8 for train in trains)
        return one and not self.is_computed and kernels.ready(*trains)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Of each term."""
        return tuple(term.filter for term in self.terms)

    @property
    def bounds(self) -> tuple[float, ...]:
        """Of each term's train."""
        return tuple(term.bound for term in self.terms)

    def level_population(
        self, exponent: int, thresholds: Tensor, begin: float, total: int
    ) -> kernels.DensePopulation | None:
        """The population that reads these currents in levels, up to `total`, as a compiled kernel does; None: none can.

        Args:
            exponent: of potentials.
            thresholds: `[channels]` float64, multiples of `2**exponent`.
            begin: the largest magnitude of what it begins with.
        """
        if any(each.exponent < exponent for each in self.filters):
            return None
        own = self.filters[0]
        key = exponent, total, self.filters, self.bounds, begin, thresholds.numpy().tobytes()
        terms = [
            (each.weight.double(), each.geometry, each.exponent, math.ceil(bound * total))
            for each, bound in zip(self.filters, self.bounds, strict=True)
        ]
        return own.cache(
            own.weight, ("levels", *key), lambda: kernels.dense_population(terms, exponent, thresholds, begin, total)
        )

    def levels(self, population: kernels.DensePopulation, begin: kernels.Begin) -> Tensor:
        """The levels `[1, *size]` of the population that reads these currents."""
        trains = [term.train[0] for term in self.terms]
        return without_plane(kernels.dense(population, begin, trains, self.terms[0].size).unsqueeze(0), self.dims)

    def _packed(self, blocks: kernels.Blocks, exponent: int) -> _Packed | None:
        """The filters as they are."""
        return self._each(blocks, exponent, [None] * len(self.terms))

    def _rounded(
        self, blocks: kernels.Blocks, exponent: int, threshold: float, neuron: KernelNeuron, widest: int
    ) -> _Packed | None:
        """The filters rounded so that int32 holds every sum, on grids no finer than `2**widest`: what is listed to int16,
        the cheapest to sum, where that leaves few neurons near a decision; else to int32."""
        grids_of = [(1.0, [widest] * len(self.terms))]
        if not blocks.tabled:
            narrow = [widest if term.filter.is_own else max(widest, term.filter.narrow_exponent) for term in self.terms]
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

    def _ways(self) -> list[kernels.Blocks]:
        """Blocks for the kernel to take, the cheapest first, which may find no room: for tables, for lists."""
        first = self.terms[0].filter
        lists = kernels.Blocks.of(self.channels, first.geometry.groups, first.weight[0].numel())
        return [kernels.Blocks.for_tables(self.channels), lists] if self._is_worth_tables() else [lists]

    def _is_worth_tables(self) -> bool:
        """Whether the kernel can do without lists, and so many inputs spike that it costs less."""
        if not all(term.filter.can_be_tabled(self._peak(term)) for term in self.terms):
            return False
        if sum(term.train.numel() for term in self.terms) < _WORTH_A_LOOK:
            return False
        tabled = listed = 0.0
        for term in self.terms:
            if term.filter.is_own:
                continue  # by itself in either case
            reads, spiking = term.filter.weight[0].numel(), _share_that_spikes(term.train)
            busy = float((spiking > 0).sum())
            tabled += _TABLE_COST * busy * reads / 4 * -(-self.channels // 16)
            listed += _ENTRY_COST * float(spiking.sum()) * reads + _LIST_COST * busy
        return tabled <= listed

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


def _share_that_spikes(train: Tensor) -> Tensor:
    """`[steps]`: about which share of a train's entries is not zero, from some rows of some samples."""
    some = train[:, :: max(1, train.shape[1] // 2), :, :: max(1, train.shape[3] // 4)]
    return torch.count_nonzero(some, dim=(1, 2, 3, 4)) / max(1, some[:1].numel())


def _summed(train: Tensor) -> Tensor:
    """The sum over the steps."""
    order = memory_order(train)
    if train.dtype != torch.int8 or order is None or order[0] != 0 or not kernels.ready(train):
        return train.sum(0, dtype=torch.float64)
    return kernels.sum_middle(train.permute(order), 0).permute([dim - 1 for dim in inverse(order)[1:]])


def _added(term: Term, dtype: torch.dtype, total: Tensor | None) -> Tensor:
    """The currents of a term, added to those of longer ones, channels last in memory."""
    train, adds = term.train, total is not None
    if train.dtype == torch.int8 and kernels.ready(train):
        if total is None:
            shape = (*train.shape[:2], *term.size, len(term.filter.weight))
            total = kernels.empty(shape, dtype).permute(0, 1, 4, 2, 3)
        kernels.currents(term.filter.currents(dtype), train, total[: len(train)].permute(0, 1, 3, 4, 2), adds)
        return total
    part = _convolved(term, dtype)
    if total is None:
        return part
    total[: len(part)] += part
    return total


def _convolved(term: Term, dtype: torch.dtype) -> Tensor:
    train, factors = term.train, term.filter.factors
    if factors is not None:
        return train.to(dtype) * factors.to(train.device, dtype)[:, None, None]
    if not len(train):
        return train.new_zeros((0, train.shape[1], len(term.filter.weight), *term.size), dtype=dtype)
    # A type as wide as the sum's is wide enough for each term: no bound grows by leaving others out. The kernel takes
    # float64.
    summed = torch.float64 if kernels.ready(train) else dtype
    sums = ConvolutionSums(term.filter.geometry, 2)
    result = sums(train.flatten(0, 1).to(summed), term.filter.weight.to(train.device, summed)).to(dtype)
    unfolded: Tensor = result.unflatten(0, train.shape[:2])
    return unfolded


def deferred(numerics: Numerics, peak: int, train: Tensor | LazyTrain, bound: float) -> DeferredSum | None:
    """A train as a sum of filters of spikes; None: it is none.

    Args:
        numerics, peak: of the run.
        train: `[steps, batch, channels, (height,) width]`, or what computes it.
        bound: its largest magnitude per unit of spike count.
    """
    if isinstance(train, DeferredSum):
        return train
    if not isinstance(train, Tensor) or train.dtype != torch.int8:
        return None
    dims = train.dim() - 3
    if not 0 <= dims <= 2:
        return None
    return DeferredSum((Term(identity(train.shape[2]), with_plane(train, dims), bound),), dims, numerics, peak)


def filtered(own: Filter, numerics: Numerics, peak: int, signal: Signal, dims: int) -> DeferredSum:
    """What a filter makes of a signal's train, of so many spatial dimensions.

    Args:
        numerics, peak: of the run.
    """
    lazy = signal.lazy_train
    read = lazy.read_by(own) if isinstance(lazy, DeferredSum) else None
    if read is not None:
        return read
    return DeferredSum((Term(own, with_plane(signal.train, dims), signal.bound),), dims, numerics, peak)


def joined(signals: Sequence[DeferredSum | None]) -> DeferredSum | None:
    """Sums of factors, one each, behind one another along the channels; None: they are others."""
    known = [each for each in signals if each is not None and each.factors is not None and len(each.terms) == 1]
    if len(known) < len(signals) or len({each.dims for each in known}) > 1:
        return None
    terms, steps = [each.terms[0] for each in known], max(len(each.terms[0].train) for each in known)
    train = concatenated([zero_padded(term.train, steps) for term in terms], 2)
    own = by_channel(torch.cat([term.filter.weight.flatten() for term in terms]))
    return replace(known[0], terms=(Term(own, train, max(term.bound for term in terms)),))


def _moved(function: Callable[[Tensor], Tensor], factors: Tensor, size: torch.Size) -> Tensor | None:
    """The factor of each channel, once a function has moved entries of a tensor of this size; None: some have several."""
    if not bool(factors.all()):  # zero is what is filled in, whatever the factor
        return None
    values, kinds = factors.unique(return_inverse=True)
    find = _moved_kinds if isinstance(function, Rearrangement) else _moved_kinds.__wrapped__
    moved = find(function, tuple(kinds.tolist()), size)
    # Where there is nothing but what is filled in, any will do.
    return (
        None if moved is None else torch.tensor([1.0, *values.tolist()], dtype=torch.float64, device="cpu")[list(moved)]
    )


@lru_cache(maxsize=256)
def _moved_kinds(
    function: Callable[[Tensor], Tensor], kinds: tuple[int, ...], size: torch.Size
) -> tuple[int, ...] | None:
    """Of which kind, from 1, each channel is once a function has moved entries; 0: of none. None: some are of several."""
    numbers = torch.tensor(kinds, device="cpu") + 1
    numbers = numbers.to(torch.int8 if max(kinds) < kernels.LARGEST_COUNT else torch.float64)  # as trains may be
    moved = without_repeats(function(numbers.reshape(-1, *[1] * (len(size) - 2)).expand(size)))
    moved = moved.transpose(0, 1).flatten(1)
    if not moved.numel():
        return None
    own = moved.amax(1)
    if not bool(((moved == own[:, None]) | (moved == 0)).all()):
        return None
    return tuple(own.long().tolist())
