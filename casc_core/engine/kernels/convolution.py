"""A population behind convolutions in one call: only spikes are visited, currents are never written."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, empty, require, run, structure, with_capacity
from casc_core.engine.kernels.neurons import NOTHING, Exactly, KernelNeuron, Margin, Neurons
from casc_core.engine.kernels.rows import (
    INT32_UNITS,
    LARGEST_COUNT,
    NOTHING_LEFT_OUT,
    WIDE,
    LeftOut,
    LeftOutTask,
    Rounding,
    coarsest,
    kind_of,
)
from casc_core.engine.products.geometry import Geometry

_Term = structure(
    "ConvolutionTerm",
    (c_void_p, "train"),
    (c_int64, "steps height width channels"),
    (c_void_p, "weights"),
    (c_int64, "kind block_bytes shift most_in"),
    (c_void_p, "in_lo in_n"),
    (c_int64, "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x ring"),
    (LeftOutTask, "left_out"),
    (c_int64, "own"),
    (c_void_p, "tables"),
    (c_int64, "table_bytes quarters padded_width"),
)
_Task = structure(
    "ConvolutionTask",
    (Neurons, "neurons"),
    (c_void_p, "term"),
    (c_int64, "terms samples out_height out_width outputs bands width tile"),
    (c_void_p, "out_lo out_n thresholds drive"),
    (c_int64, "drive_sample drive_channel drive_y drive_x"),
    (c_void_p, "potential"),
    (c_int64, "potential_sample potential_channel potential_y potential_x"),
    (Exactly, "exactly"),
    (c_void_p, "exact_thresholds exact_drive exact_potential"),
    (c_int64, "capacity"),
    (c_void_p, "out"),
)

_LANES = 32
_WIDEST = 128
# Of blocks for tables, and positions of a tile at most.
_TABLED_LANES = 16
_WIDEST_TABLED = 64
_TILE = 16
# Outputs of a tile by lists: more would not stay in the nearest cache.
_LISTED = 512
# Of tables: patterns of four inputs that each spike once, not at all or once back, and rows of a kernel.
_PATTERNS_OF_FOUR = 81
_MOST_KERNEL = 16
# Tables of a convolution at most: more would not stay in the caches.
_TABLE_BYTES = 2**20
# The weights of one block are to stay in a core's second cache.
_BLOCK_BYTES = 640 * 2**10
# Items of work: enough that threads end at about the same time.
_LEAST_ITEMS = 16


@dataclass(frozen=True)
class Blocks:
    """The output channels of a population in blocks of neighbours, `width` wide at most: a multiple of 32, for tables 16.

    Attributes:
        low, count: `[blocks]` int64, the outputs of each block.
        tabled: whether weights are int32 and tabled, unless each output has its own input channel.
    """

    width: int
    low: Tensor
    count: Tensor
    tabled: bool = False

    @cached_property
    def end(self) -> int:
        """The first output that none of them has.

        Raises:
            ValueError: they are no blocks of outputs.
        """
        narrow = int(self.low.min()) >= 0 and int(self.count.min()) >= 1 and int(self.count.max()) <= self.width
        require(narrow, f"blocks of {self.width} channels")
        return int((self.low + self.count).max())

    @classmethod
    @cache
    def of(cls, outputs: int, groups: int, reads: int) -> Blocks:
        """Blocks that do not straddle groups more than they must; `reads`: weights that one output has."""
        each, most = outputs // groups, _WIDEST
        starts: Sequence[int]
        while most > _LANES and most * reads * 2 > _BLOCK_BYTES:
            most -= _LANES
        if groups > 1 and each <= most // 2:  # several whole groups to a block
            size = max(1, _LANES // each) * each
            starts = range(0, outputs, size)
        else:
            size = -(-each // -(-each // most))
            size = min(each, _padded(size))
            starts = [group * each + start for group in range(groups) for start in range(0, each, size)]
        counts = [min(size, outputs - low, each - low % each if size <= each else size) for low in starts]
        return cls(_padded(max(counts)), _int64(starts), _int64(counts))

    @property
    def tile(self) -> int:
        """How many positions that lie side by side are taken together: as many as keep the sums of tables in registers."""
        if self.tabled:
            return _TILE if self.width == _TABLED_LANES else _TILE // 2
        return min(_TILE // 2, _LISTED // self.width)

    @classmethod
    @cache
    def for_tables(cls, outputs: int) -> Blocks:
        """Blocks for tables, all about as wide."""
        size = _padded(-(-outputs // -(-outputs // _WIDEST_TABLED)), _TABLED_LANES)
        starts = range(0, outputs, size)
        return cls(size, _int64(starts), _int64([min(size, outputs - low) for low in starts]), tabled=True)


def is_own(weight: Tensor, geometry: Geometry) -> bool:
    """Whether each output has one input channel, that of its number."""
    return geometry.groups == len(weight) and weight.shape[1] == 1


def can_be_tabled(weight: Tensor, geometry: Geometry, peak: int) -> bool:
    """Whether `weight` `[O, C/groups, kh, kw]` needs no lists, for trains of magnitude up to `peak`: it has tables that
    stay in the caches, or each output has its own input channel."""
    if is_own(weight, geometry):
        return peak <= LARGEST_COUNT
    blocks = Blocks.for_tables(len(weight))
    quarters = _padded(-(-weight.shape[1] // 4), 4)
    nbytes = 4 * _PATTERNS_OF_FOUR * quarters * blocks.width * len(blocks.low) * math.prod(geometry.kernel)
    return geometry.groups == 1 and peak <= 1 and geometry.kernel[0] <= _MOST_KERNEL and nbytes <= _TABLE_BYTES


@dataclass(frozen=True)
class PackedConvolution:
    """Weights of a convolution in units of `2**exponent`, the coarsest grid they are on, for some blocks of outputs.

    Attributes:
        values: `[blocks, taps, inputs of a block, width]` int16 or int32, taps column by column, each block's inputs
            closely packed; where each output has its `own` input channel, `[blocks, taps, width]` int32, row by row.
        tables: `[blocks, taps, quarters, patterns, width]` int32: what every four inputs of a block send in each pattern.
        kind: how they are summed.
        low, count: `[blocks]` int64, the input channels that each block reads.
        left_out: where the units are rounded, what that has left out, `[blocks, width, reads]`.
    """

    values: Tensor
    kind: int
    geometry: Geometry
    exponent: int
    low: Tensor
    count: Tensor
    left_out: LeftOut | None = None
    tables: Tensor | None = None
    own: bool = False

    @cached_property
    def most_in(self) -> int:
        """The most input channels that a block reads."""
        return int(self.count.max())

    @cached_property
    def reads_until(self) -> int:
        """The first input channel that no block reads."""
        return int((self.low + self.count).max())

    def term(self, shape: Sequence[int], exponent: int) -> ctypes.Structure:
        """For the kernel, but for the train, closely packed; `shape`: samples, height, width, channels of a step."""
        g, (_, height, width, channels) = self.geometry, shape
        tables: tuple[int | None, ...] = (None, 0, 0, 0)
        if self.tables is not None:
            quarters = self.tables.shape[2]
            across = _padded(g.output_size(height, width)[1], _TILE)  # positions of whole tiles
            read = (across - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
            padded = max(read, g.padding[2] + width)
            tables = (self.tables.data_ptr(), self.tables[0].nbytes, quarters, padded)
        return _Term(
            None, 0, height, width, channels,
            self.values.data_ptr(), self.kind, self.values[0].nbytes, self.exponent - exponent, self.most_in,
            self.low.data_ptr(), self.count.data_ptr(), *g.kernel, *g.stride, g.padding[0], g.padding[2], *g.dilation,
            (g.kernel[0] - 1) * g.dilation[0] + 1,
            NOTHING_LEFT_OUT if self.left_out is None else self.left_out.structure(exponent), self.own, *tables,
        )  # fmt: skip


def pack_convolution(
    weight: Tensor, geometry: Geometry, exponent: int, peak: int, blocks: Blocks, rounding: Rounding | None = None
) -> PackedConvolution | None:
    """`weight` `[O, C/groups, kh, kw]`, multiples of `2**exponent`, for trains of magnitude up to `peak`; None: no room.

    Args:
        rounding: of weights that are on a finer grid, first.
    """
    if not weight.numel() or peak > LARGEST_COUNT:
        return None
    rounded = None
    if rounding is None:
        units, exponent = coarsest(weight, exponent)
    elif rounding.fits(weight):
        rounded = rounding.apply(weight)
        units, exponent = coarsest(rounded.units * 2.0**rounding.exponent, rounding.exponent)
    else:
        return None
    reach = float(units.abs().flatten(1).sum(1).max()) * peak
    kind = kind_of(units, reach)
    if kind is None:
        return None
    own = is_own(weight, geometry)
    if own or blocks.tabled:
        kind = WIDE
    outputs, each_in = weight.shape[:2]
    each_out = outputs // geometry.groups
    first = blocks.low // each_out * each_in
    count = ((blocks.low + blocks.count - 1) // each_out + 1) * each_in - first
    most, taps = int(count.max()), math.prod(geometry.kernel)

    def arranged(units: Tensor, dtype: torch.dtype) -> Tensor:
        room = taps * most * blocks.width
        return _arranged(units, dtype, blocks, first, count, each_in, each_out, room)

    def by_output(units: Tensor, dtype: torch.dtype) -> Tensor:
        rows = arranged(units, dtype).view(len(blocks.low), -1, blocks.width)
        room = torch.zeros(len(blocks.low), blocks.width, _padded(rows.shape[1]), dtype=dtype, device="cpu")
        room[:, :, : rows.shape[1]] = rows.transpose(1, 2)
        return room

    left_out = None if rounding is None or rounded is None else rounding.left_out(rounded, peak, by_output)
    tables = None
    if own:
        values = torch.zeros(len(blocks.low), taps, blocks.width, dtype=torch.int32, device="cpu")
        for number, (low, size) in enumerate(zip(blocks.low.tolist(), blocks.count.tolist(), strict=True)):
            values[number, :, :size] = units.flatten(1)[low : low + size].T
    else:
        values = arranged(units, torch.int32 if kind == WIDE else torch.int16)
        if blocks.tabled:
            tables = _tables(values.view(len(blocks.low), taps, most, blocks.width))
    return PackedConvolution(values, kind, geometry, exponent, first, count, left_out, tables, own)


def _tables(values: Tensor) -> Tensor:
    """`[blocks, taps, quarters, patterns, width]` int32 of weights `[blocks, taps, inputs, width]`: for every four inputs
    what they send in each pattern, a number in base 3 with the digits -1, 0 and 1, from the lowest on."""
    blocks, taps, inputs, width = values.shape
    quarters = _padded(-(-inputs // 4), 4)
    padded = values.new_zeros(blocks, taps, 4 * quarters, width)
    padded[:, :, :inputs] = values
    tables = values.new_zeros(blocks, taps, quarters, 1, width)
    for weight in padded.unflatten(2, (quarters, 4)).unbind(3):
        each = torch.stack([-weight, torch.zeros_like(weight), weight], 3)  # the next digit is worth more
        tables = (each.unsqueeze(4) + tables.unsqueeze(3)).flatten(3, 4)
    return tables.contiguous()


def _arranged(
    units: Tensor,
    dtype: torch.dtype,
    blocks: Blocks,
    first: Tensor,
    count: Tensor,
    each_in: int,
    each_out: int,
    room: int,
) -> Tensor:
    """`[blocks, room]`: what each block reads, as `PackedConvolution.values`."""
    values = torch.zeros(len(blocks.low), room, dtype=dtype, device="cpu")
    by_tap = units.transpose(2, 3).flatten(2).permute(2, 1, 0)  # [taps, inputs of a group, O]
    taps = len(by_tap)
    for number, (low, size, low_in, reads) in enumerate(
        zip(*(t.tolist() for t in (blocks.low, blocks.count, first, count)), strict=True)
    ):
        block = values[number, : taps * reads * blocks.width].view(taps, reads, blocks.width)
        for group in range(low // each_out, (low + size - 1) // each_out + 1):
            start, end = max(low, group * each_out), min(low + size, (group + 1) * each_out)
            at = group * each_in - low_in
            block[:, at : at + each_in, start - low : end - low] = by_tap[:, :, start:end].to(dtype)
    return values


@dataclass(frozen=True)
class Exact:
    """The numbers of a population as they are, where those in int32 units are rounded: in float64 units of a finer grid.

    Attributes:
        exponent: of that grid.
        thresholds: `[channels]`, in its units.
        margin: of sums in int32.
        drive, potential: as those in int32 units, of the same strides.
    """

    exponent: int
    thresholds: Tensor
    margin: Margin
    drive: Tensor | None
    potential: Tensor | None


@dataclass(frozen=True, eq=False)
class SpikingPopulation:
    """A population behind some convolutions as the kernel reads it, in units of `2**exponent`.

    Attributes:
        filters: of each term, packed for these blocks of outputs; exponent: at most that of any.
        thresholds: `[channels]` int32. neuron: what it is and when it is awake.
        drive, potential: before the first step; int32, as they broadcast with the population; or None.
        exact: the same numbers where those in these units are rounded.
    """

    filters: tuple[PackedConvolution, ...]
    blocks: Blocks
    exponent: int
    thresholds: Tensor
    neuron: KernelNeuron
    drive: Tensor | None = None
    potential: Tensor | None = None
    exact: Exact | None = None

    @cached_property
    def last(self) -> list[_Call]:
        """What was asked of the kernel last; it is asked the same of other spikes of these shapes."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        """A copy has tensors of its own, and asks anew."""
        return {name: value for name, value in self.__dict__.items() if name != "last"}


@dataclass(frozen=True, eq=False)
class _Call:
    """What the kernel is asked, but for the spikes it is asked it of.

    Attributes:
        key: the shapes of the trains, without their steps, and of the population.
    """

    key: tuple[Sequence[int], ...]
    terms: ctypes.Array[ctypes.Structure]
    task: ctypes.Structure
    items: int

    @classmethod
    def of(cls, population: SpikingPopulation, key: tuple[Sequence[int], ...]) -> _Call:
        """For trains and a population of these shapes."""
        p, given, (samples, channels, height, width) = population, key[:-1], key[-1]
        _check(p, key)
        blocks, thresholds, exact = p.blocks, p.thresholds, p.exact
        drive, potential = (None if each is None else each.expand(*key[-1]) for each in (p.drive, p.potential))
        exactly: tuple[object, ...] = (NOTHING, None, None, None)
        if exact is not None:
            _check_exact(p.filters, channels, p.drive, p.potential, exact)
            parts = exact.margin.structure(float(exact.thresholds.max()), 2.0 ** (p.exponent - exact.exponent))
            exactly = (parts, *(address(values) for values in (exact.thresholds, exact.drive, exact.potential)))
        structures = [packed.term(shape, p.exponent) for packed, shape in zip(p.filters, given, strict=True)]
        bands = max(1, min(height, -(-_LEAST_ITEMS // (samples * len(blocks.low)))))
        strides, steps = ((0, 0, 0, 0) if values is None else values.stride() for values in (drive, potential))
        task = _Task(
            p.neuron.structure(int(thresholds.max())), None, len(structures), samples, height, width, channels,
            bands, blocks.width, blocks.tile, blocks.low.data_ptr(), blocks.count.data_ptr(), thresholds.data_ptr(),
            address(drive), *strides, address(potential), *steps, *exactly, 0, None,
        )  # fmt: skip
        return cls(key, (_Term * len(structures))(*structures), task, len(blocks.low) * samples * bands)

    def __call__(self, trains: Sequence[Tensor], neuron: KernelNeuron, guess: int) -> Tensor:
        """The spikes; threads may ask at the same time."""
        terms, task = type(self.terms).from_buffer_copy(self.terms), type(self.task).from_buffer_copy(self.task)
        for term, train in zip(terms, trains, strict=True):
            term.train, term.steps = train.data_ptr(), len(train)
        samples, channels, height, width = self.key[-1]
        task.term = ctypes.addressof(terms)

        def attempt(capacity: int) -> tuple[Tensor, int]:
            out = empty((capacity, samples, height, width, channels), torch.int8)
            task.capacity, task.out = capacity, out.data_ptr()
            return out, run("convolution", task, self.items, out.numel())

        arriving = max(map(len, trains))
        out, needed = with_capacity(neuron.room(arriving, guess), neuron.longest(arriving), attempt)
        return out[:needed].permute(0, 1, 4, 2, 3)


def convolution(
    population: SpikingPopulation, trains: Sequence[Tensor], shape: tuple[int, int, int, int], guess: int
) -> Tensor:
    """Spikes `[steps, samples, channels, height, width]` of a population, channels last in memory.

    Args:
        trains: `[steps, samples, channels, height, width]` int8, that go through each of its filters.
        shape: samples, channels, height, width of the population.
        guess: of the steps that will be needed.
    """
    require(all(train.dtype == torch.int8 and train.dim() == 5 for train in trains), "trains of spikes")
    trains = [train.permute(0, 1, 3, 4, 2).contiguous() for train in trains]
    key = *(train.shape[1:] for train in trains), shape
    call = population.last[0] if population.last else None
    if call is None or call.key != key:
        call = _Call.of(population, key)
        population.last[:] = [call]
    return call(trains, population.neuron, guess)


def _check(population: SpikingPopulation, key: tuple[Sequence[int], ...]) -> None:
    """That all sizes fit each other: those of the trains, channels last, and of the population."""
    p, blocks, given, shape = population, population.blocks, key[:-1], key[-1]
    samples, channels, height, width = shape
    require(not p.neuron.in_levels, "a population in levels")
    require(bool(given) and 0 not in shape, f"{len(given)} terms for a population of {list(shape)}")
    lowest = int(checked(p.thresholds, "the thresholds", torch.int32, (channels,)).min())
    require(lowest > 0, f"a threshold of {lowest}")
    require(blocks.end <= channels, f"blocks of {channels} channels")
    for packed, (own_samples, *plane, inputs) in zip(p.filters, given, strict=True):
        require(own_samples == samples, f"a train of {own_samples} samples for {samples}")
        require(packed.reads_until <= inputs, f"{inputs} channels")
        size = packed.geometry.output_size(*plane)
        require(size == (height, width), f"an output of {list(size)} for a population of {[height, width]}")
        taps, most = math.prod(packed.geometry.kernel), 1 if packed.own else packed.most_in
        numbers, expected = packed.values.numel(), len(blocks.low) * taps * most * blocks.width
        require(numbers == expected, f"weights packed for other blocks: {packed.values.shape}")
        is_tabled = packed.tables is not None
        require(packed.own or is_tabled == blocks.tabled, f"weights packed for {'tables' if is_tabled else 'lists'}")
        require(0 <= packed.exponent - p.exponent <= 30, f"a shift of {packed.exponent - p.exponent}")
    for values in (p.drive, p.potential):
        if values is not None:
            fits = values.dim() == 4 and all(own in (1, size) for own, size in zip(values.shape, shape, strict=True))
            require(fits, f"a drive or a potential {list(values.shape)} for a population of {list(shape)}")
            checked(values, "a drive or a potential", torch.int32, values.shape, packed=False)


def _check_exact(
    filters: Sequence[PackedConvolution],
    channels: int,
    drive: Tensor | None,
    potential: Tensor | None,
    exact: Exact,
) -> None:
    """That the exact numbers lie as the rounded ones do."""
    checked(exact.thresholds, "the exact thresholds", torch.float64, (channels,))
    for packed in filters:
        kept = packed.left_out is not None and packed.left_out.finest == exact.exponent
        require(kept, "weights without those that they were rounded from")
    for rounded_one, own in ((drive, exact.drive), (potential, exact.potential)):
        require((rounded_one is None) == (own is None), "a drive or a potential without what it was rounded from")
        if rounded_one is not None and own is not None:
            require(own.dtype == torch.float64 and own.stride() == rounded_one.stride(), "an exact drive or potential")
            require(own.shape == rounded_one.shape and own.device.type == "cpu", "an exact drive or potential")


def fits_int32(reach: float, exponent: int) -> bool:
    """Whether sums of this magnitude, in units of `2**exponent`, fit int32."""
    return math.ldexp(reach, -exponent) < INT32_UNITS


def _padded(size: int, to: int = _LANES) -> int:
    return -(-size // to) * to


def _int64(values: Sequence[int] | range) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device="cpu")
