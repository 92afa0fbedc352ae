"""Deferred sums: currents as the filters of spikes that they are sums of, computed only where a population reads them.

Convolutions and linear maps begin one, and so do factors: each channel to itself. Sums, factors, rearrangements, pools and
concatenations of such currents are again sums of filters, and so is what a map makes of factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.filters import Filter, by_channel, identity
from casc_core.engine.products.moved_factors import moved_factors
from casc_core.engine.products.term import Term, with_plane, without_plane
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.signal import (
    LazyTrain,
    Signal,
    along,
    concatenated,
    over_steps,
    running_total,
    without_repeats,
)
from casc_core.numerics import Numerics
from casc_core.reporting.series import zero_padded

# More terms than this are put together first: a population reads every one of them at every step.
MOST_TERMS = 4


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
        return torch.Size([max(term.train.shape[0] for term in self.terms), *self.size])

    @cached_property
    def size(self) -> torch.Size:
        """`[batch, channels, (height,) width]`."""
        first = self.terms[0]
        return torch.Size([first.train.shape[1], self.channels, *first.size[2 - self.dims :]])

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
        parts = [term.total() for term in self.terms]
        return without_plane(sum(parts[1:], parts[0]), self.dims)

    def running(self, steps: int) -> Tensor:
        """The sum of the currents until each of the first `steps` steps, float64."""
        return running_total(self._tensor, steps)

    def unweighed(self) -> Tensor | None:
        """The spikes that it is once each channel has been multiplied by a factor; None: it is something else."""
        if len(self.terms) > 1:
            return None
        own, train, bound = self.terms[0].filter, self.terms[0].train, self.terms[0].bound
        are_spikes = own.factors is not None and train.dtype == torch.int8 and bound <= 1
        return without_plane(train, self.dims) if are_spikes else None

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
            total = term.added(dtype, total)
        assert total is not None
        return without_plane(total, self.dims)

    @property
    def is_computed(self) -> bool:
        """Whether the sum has been taken."""
        return "_tensor" in self.__dict__

    @property
    def channels(self) -> int:
        """How many it has, along its dimension 1."""
        return self.terms[0].filter.outputs

    @property
    def factors(self) -> list[Tensor] | None:
        """`[channels]` of each term, where all terms but multiply channels by factors; None: there are other terms."""
        found = [term.filter.factors for term in self.terms]
        return None if self.is_computed or None in found else [each for each in found if each is not None]

    def plus(self, other: DeferredSum) -> DeferredSum | None:
        """The sum of both; None: they are better added as tensors."""
        if self.is_computed or other.is_computed or self.size != other.size:
            return None
        terms = [term for term in (*self.terms, *other.terms) if term.train.shape[0]] or self.terms[:1]
        return replace(self, terms=tuple(terms)) if len(terms) <= MOST_TERMS else None

    def times(self, factor: Tensor, kept: WeightCache | None = None) -> DeferredSum | None:
        """Multiplied by a number, or one for each channel, which broadcasts with it; None: by others, or no compiled
        kernel would read it.

        Args:
            kept: what is made of the factor, if it is always the same.
        """
        if self.is_computed or not kernels.ready(*(term.train for term in self.terms)):
            return None

        def made() -> list[Filter | None] | None:
            factors = along(factor, self.size, 1)
            return None if factors is None else [each.times(factors) for each in self.filters]

        filters = made() if kept is None else kept(factor, (self.filters, len(self.size)), made)
        return None if filters is None else self._with(filters)

    def read_by(self, own: Filter) -> DeferredSum | None:
        """What a convolution makes of it: it takes the factors in; None: it is no sum of factors."""
        factors = self.factors
        if factors is None:
            return None
        return self._with([own.behind(each) for each in factors])

    def moved(self, function: Callable[[Tensor], Tensor], by_sample: bool) -> DeferredSum | None:
        """What a function of each step gives that moves, takes or repeats entries, as `Signal.map` has it; None: it is no
        sum of factors, or channels of several factors become one."""
        return self._mapped(
            lambda train, _: over_steps(function, train, by_sample), partial(moved_factors, function), 1.0
        )

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

    def aligned(self, values: Tensor | None) -> Tensor | None:
        """Values that broadcast with a step, of its dimensions with a height; of size 1 where they repeat."""
        return None if values is None else without_repeats(with_plane(values.expand(self.size), self.dims))

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """Of each term."""
        return tuple(term.filter for term in self.terms)

    @property
    def bounds(self) -> tuple[float, ...]:
        """Of each term's train."""
        return tuple(term.bound for term in self.terms)


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
