"""A population that reads currents from the spikes, as the compiled kernel takes it: in units, by tables or by lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.connected import connected_population
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.even_scale import EvenScale, even_scale
from casc_core.engine.products.term import without_plane
from casc_core.engine.signal import along

# Below so many entries of trains the lists are short, however much spikes.
_WORTH_A_LOOK = 100_000
# Nanoseconds, measured: what a position reads of a kernel row by lists, and where weights are rounded; an entry's weights
# of 32 outputs; a table's row of 16.
_LIST_COST, _ROUNDED_LIST_COST, _ENTRY_COST, _TABLE_COST = 20.0, 30.0, 0.15, 0.5
# Of sums that float64 holds in whole units.
_FLOAT64_BITS = 52


def are_spikes(currents: DeferredSum, exponent: int) -> bool:
    """Whether a compiled kernel may read the trains of currents, for potentials on the grid `2**exponent`."""
    if currents.is_computed or not kernels.ready(*(term.train for term in currents.terms)):
        return False
    return all(
        term.train.dtype == torch.int8
        and term.filter.exponent >= exponent
        # The kernel numbers the spikes of rows of positions, over all steps, in 32 bits.
        and term.train[:, 0, :, 0].numel() * term.filter.geometry.kernel[0] <= kernels.INT32_UNITS
        for term in currents.terms
    )


@dataclass(frozen=True)
class _Packed:
    """The filters of a sum as a kernel reads them, and the exponent of its units; the margin, where they are rounded."""

    filters: tuple[kernels.PackedConvolution, ...]
    unit: int
    margin: kernels.Margin | None = None


@dataclass(frozen=True, eq=False)
class SpikingPopulation:
    """A population that reads currents, and what has been prepared of it for the kernel that reads spikes.

    Attributes:
        exponent: of potentials.
        thresholds: `[channels]` float64, multiples of `2**exponent`, as drive and potential are.
        neuron: what it is and when it is awake.
        drive, potential: before the first step, as `DeferredSum.aligned` has them; or None.
        units: exponent of the coarser grid on which int32 holds every sum of the population; what that leaves out is
            summed only for neurons that are near a decision. None: int32 holds the sums as they are.
    """

    exponent: int
    thresholds: Tensor
    neuron: KernelNeuron
    drive: Tensor | None = None
    potential: Tensor | None = None
    units: int | None = None

    @cached_property
    def _by_way(self) -> dict[tuple[bool, int], kernels.SpikingPopulation | None]:
        return {}

    def spikes(self, currents: DeferredSum, guess: int) -> Tensor | None:
        """Those of the population that reads such currents, by the compiled kernel; None: it cannot.

        Args:
            guess: of the steps that will be needed.
        """
        spikes = self._connected(currents, guess)
        if spikes is not None:
            return spikes
        for blocks in _ways(currents, self.units is not None):
            packed = self._packed_for(currents, blocks)
            if packed is not None and _lists_fit(packed, currents):
                break
        else:
            return None
        shape = currents.shape[1], currents.channels, *currents.terms[0].size
        trains = [term.train for term in currents.terms]
        return without_plane(kernels.convolution(packed, trains, shape, guess), currents.dims)

    def _connected(self, currents: DeferredSum, guess: int) -> Tensor | None:
        """The spikes, where a fully connected map makes the currents of one train; None: they are others."""
        term, batch, drive, potential = currents.terms[0], currents.shape[1], self.drive, self.potential
        if currents.dims or len(currents.terms) > 1 or term.largest(currents.peak) != 1:
            return None
        if potential is not None and len(potential) > 1:  # they differ by sample
            return None
        return connected_population(
            term.filter,
            term.train[..., 0, 0],
            None if drive is None else drive[..., 0, 0].expand(batch, currents.channels),
            self.exponent,
            self.thresholds,
            self.neuron,
            guess,
            None if potential is None else potential[0, :, 0, 0].expand(currents.channels).contiguous(),
            self.units,
        )

    def _packed_for(self, currents: DeferredSum, blocks: kernels.Blocks) -> kernels.SpikingPopulation | None:
        """What was made for these blocks when they were first asked for."""
        way = blocks.tabled, blocks.width
        if way not in self._by_way:
            self._by_way[way] = self._made(currents, blocks)
        return self._by_way[way]

    def _made(self, currents: DeferredSum, blocks: kernels.Blocks) -> kernels.SpikingPopulation | None:
        """The population as the kernel reads it, for these blocks; None: there is no room."""
        if self.units is None:
            return self._in_units(_as_they_are(currents, blocks, self.exponent), blocks)
        # Float64 is to hold every sum in whole units still.
        most = _FLOAT64_BITS - (self.units + kernels.SUM_BITS - self.exponent)
        scale = self._even_scale(currents, most)
        scaled = self._times(scale)
        packed = scaled._rounded(currents, blocks, scale, max(self.units - scale.narrows, scaled.exponent))
        return scaled._in_units(packed, blocks)

    def _even_scale(self, currents: DeferredSum, most: int) -> EvenScale:
        """By what the numbers of each channel may be multiplied, `2**-most` at least."""
        sent, begins = torch.zeros_like(self.thresholds), torch.zeros_like(self.thresholds)
        for term in currents.terms:
            sent = sent + term.bound * term.filter.reaches
        for values in (self.drive, self.potential):
            each = None if values is None else along(values, values.shape, 1)
            if values is not None and each is None:
                return even_scale(sent, None, self.thresholds, most)
            begins = begins if each is None else begins + each.abs()
        return even_scale(sent, begins, self.thresholds, most)

    def _times(self, scale: EvenScale) -> SpikingPopulation:
        """The same population, with its numbers multiplied by channel."""
        drive, potential = (
            None if values is None else values * scale.factors[:, None, None] for values in (self.drive, self.potential)
        )
        thresholds = self.thresholds * scale.factors
        return SpikingPopulation(self.exponent - scale.finer, thresholds, self.neuron, drive, potential)

    def _in_units(self, packed: _Packed | None, blocks: kernels.Blocks) -> kernels.SpikingPopulation | None:
        """The population in the units of filters that have been packed for these blocks; None: they, or a threshold, have
        no room."""
        exponent, thresholds = self.exponent, self.thresholds
        if packed is None or float(thresholds.min()) * 2.0**-packed.unit < 1.0:
            return None
        exact, unit = None, packed.unit
        if packed.margin is not None:
            numbers = (_in_units(values, exponent, torch.float64) for values in (self.drive, self.potential))
            exact = kernels.Exact(exponent, thresholds * 2.0**-exponent, packed.margin, *numbers)
        drive, potential = (_in_units(values, unit, torch.int32) for values in (self.drive, self.potential))
        in_int32 = (thresholds * 2.0**-unit).round().int()
        return kernels.SpikingPopulation(packed.filters, blocks, unit, in_int32, self.neuron, drive, potential, exact)

    def _rounded(self, currents: DeferredSum, blocks: kernels.Blocks, scale: EvenScale, widest: int) -> _Packed | None:
        """The filters, multiplied by output as the population has been, and rounded so that int32 holds every sum, on grids
        no finer than `2**widest`: what is listed to int16, the cheapest to sum, where that leaves few neurons near a
        decision; else to int32."""
        terms, neuron = currents.terms, self.neuron
        grids_of = [(1.0, [widest] * len(terms))]
        if not blocks.tabled:
            narrow = [
                widest if term.filter.is_own else max(widest, term.filter.narrow_exponent(scale)) for term in terms
            ]
            grids_of.insert(0, (kernels.NEAR, narrow))
        for near, grids in grids_of:
            counts = [math.ceil(term.bound * neuron.total) for term in terms]
            unit = min(grids)
            ways = [kernels.Rounding(grid, self.exponent, count) for grid, count in zip(grids, counts, strict=True)]
            # What is left out of weights for each spike, of the drive and the threshold for each count, and of the
            # potential that all begins with.
            found = _each(currents, blocks, unit, ways, scale)
            if found is None:
                continue
            left_out = sum(
                math.ldexp(term.bound * each.left_out.largest, each.left_out.exponent - unit)
                for term, each in zip(terms, found.filters, strict=True)
                if each.left_out is not None
            )
            margin = math.ceil(neuron.total * (left_out + 1.0) + 1.0)
            if margin < near * math.ldexp(scale.size, -unit):  # else every neuron would be near a decision, always
                return replace(found, margin=kernels.Margin(margin, 2))
        return None


def _as_they_are(currents: DeferredSum, blocks: kernels.Blocks, exponent: int) -> _Packed | None:
    """The filters as they are."""
    return _each(currents, blocks, exponent, [None] * len(currents.terms))


def _lists_fit(packed: kernels.SpikingPopulation, currents: DeferredSum) -> bool:
    """Whether the kernel may list what spikes."""
    terms = zip(packed.filters, currents.terms, strict=True)
    return all(each.lists_fit(term.train.shape[4], packed.blocks) for each, term in terms)


def _each(
    currents: DeferredSum,
    blocks: kernels.Blocks,
    unit: int,
    ways: Sequence[kernels.Rounding | None],
    scale: EvenScale | None = None,
) -> _Packed | None:
    """Each filter, multiplied by output and rounded like this, where int32 holds the sums; None: it might not."""
    filters = []
    for term, rounding in zip(currents.terms, ways, strict=True):
        packed = term.filter.packed(term.largest(currents.peak), blocks, rounding, scale)
        if packed is None or packed.exponent - unit > 30:
            return None
        filters.append(packed)
    return _Packed(tuple(filters), unit)


def _ways(currents: DeferredSum, is_rounded: bool) -> list[kernels.Blocks]:
    """Blocks for the kernel to take, the cheapest first, which may find no room: for tables, for lists.

    Args:
        is_rounded: whether weights are.
    """
    first = currents.terms[0].filter
    lists = kernels.Blocks.of(currents.channels, first.geometry.groups, first.weight[0].numel())
    return [kernels.Blocks.for_tables(currents.channels), lists] if _is_worth_tables(currents, is_rounded) else [lists]


def _is_worth_tables(currents: DeferredSum, is_rounded: bool) -> bool:
    """Whether the kernel can do without lists, and so many inputs spike that it costs less."""
    if not all(term.filter.can_be_tabled(term.largest(currents.peak)) for term in currents.terms):
        return False
    if sum(term.train.numel() for term in currents.terms) < _WORTH_A_LOOK:
        return False
    tabled = listed = 0.0
    each_list = _ROUNDED_LIST_COST if is_rounded else _LIST_COST
    for term in currents.terms:
        if term.filter.is_own:
            continue  # by itself in either case
        reads, spiking = term.filter.weight[0].numel(), _share_that_spikes(term.train)
        busy = float((spiking > 0).sum())
        tabled += _TABLE_COST * busy * reads / 4 * -(-currents.channels // 16)
        listed += _ENTRY_COST * float(spiking.sum()) * reads * -(-currents.channels // 32)
        listed += each_list * busy * term.filter.geometry.kernel[0]
    return tabled <= listed


def _share_that_spikes(train: Tensor) -> Tensor:
    """`[steps]`: about which share of a train's entries is not zero, from some rows of some samples."""
    some = train[:, :: max(1, train.shape[1] // 2), :, :: max(1, train.shape[3] // 4)]
    return torch.count_nonzero(some, dim=(1, 2, 3, 4)) / max(1, some[:1].numel())


def _in_units(values: Tensor | None, exponent: int, dtype: torch.dtype) -> Tensor | None:
    """In whole units of `2**exponent`."""
    return None if values is None else (values * 2.0**-exponent).round_().to(dtype).contiguous()
