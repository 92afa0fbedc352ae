"""The levels of a population behind convolutions of levels in one call: dense sums in integers, which are never written."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.kernels.convolution import is_own
from casc_core.engine.kernels.loader import address, empty, require, run, structure
from casc_core.engine.kernels.neurons import Neurons
from casc_core.engine.kernels.rows import INT32_UNITS, SUM_BITS
from casc_core.engine.products.geometry import Geometry

_Term = structure(
    "DenseTerm",
    (c_void_p, "levels"),
    (c_int64, "height width channels pixel columns"),
    (c_void_p, "weights"),
    (c_int64, "block_size span across own summed"),
    (c_void_p, "first"),
    (c_int64, "kernel_y kernel_x stride_y stride_x pad_y pad_x dilation_y dilation_x"),
    (c_void_p, "shift low low_unit error exact"),
    (c_double, "exact_unit most_read"),
    (c_int64, "inputs each_out"),
)
_Task = structure(
    "DenseTask",
    (Neurons, "neurons"),
    (c_void_p, "term"),
    (c_int64, "terms samples out_height out_width outputs bands together parts alike"),
    (c_void_p, "thresholds inverse lowest highest top begin"),
    (c_int64, "begin_by_position"),
    (c_void_p, "base unit exact_thresholds exact_begin out"),
)

_BLOCK = 16
# Next bits are read so many at a time.
_WORD = 32
# What rounding to whole numbers leaves out is at most a half: so many bits of it fit int16.
_LOW_BITS = 15
_LARGEST_INT16 = 2**15 - 1
# An item reads inputs that fit beside weights in a core's second cache, and its positions are enough for the weights to be
# read from a farther one meanwhile.
_INPUT_BYTES = 2**17
_POSITIONS = 128
# Items of work: enough that threads end at about the same time.
_LEAST_ITEMS = 16
# A level is worth as much as so many entries that other kernels write.
_COSTLY = 8
_MOST_TERMS = 16


@dataclass(frozen=True, eq=False)
class DenseFilter:
    """Weights of a convolution as pairs of int16, rounded where they are finer than that.

    Attributes:
        weights: int16, as the kernel reads them: `[blocks, parts, span / 2, 16, 2]`, or where each output has its own input
            channel `[blocks, pairs of taps, 16, 2]`.
        first: `[blocks]` int64, the first channel that each block reads.
        span: numbers of a part, which lies together in memory. merged: a part is a row of the kernel.
        shift: `[blocks * 16]` int32, to the population's units.
        low: int16, the next bits; None: nothing is left out. low_unit, error: `[outputs]` float64. See `DenseTerm` in
            tasks.h.
        exact: `[outputs, inputs, kh, kw]` float64, in units of `2**-exact_unit`.
        most: the largest magnitude of the levels that they meet.
    """

    weights: Tensor
    first: Tensor
    geometry: Geometry
    own: bool
    span: int
    merged: bool
    shift: Tensor
    low: Tensor | None
    low_unit: Tensor
    error: Tensor
    exact: Tensor
    exact_unit: float
    most: int

    @property
    def summed(self) -> bool:
        """Whether the levels that a position reads are summed, to know how far off its sums may be."""
        return self.low is not None and self.geometry.groups == 1

    def term(self, shape: torch.Size, out: tuple[int, int]) -> ctypes.Structure:
        """For the kernel, but for the levels `[samples, height, width, channels]`; `out`: the size of the outputs."""
        g, (_, height, width, channels) = self.geometry, shape
        columns = (out[1] - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
        outputs, inputs = self.exact.shape[:2]
        most_read = float(self.most) * inputs * math.prod(g.kernel)
        return _Term(
            None, height, width, channels, _even(channels), columns,
            self.weights.data_ptr(), self.weights[0].numel(), self.span, 1 if self.merged else g.kernel[1], self.own,
            self.summed, self.first.data_ptr(), *g.kernel, *g.stride, g.padding[0], g.padding[2], *g.dilation,
            self.shift.data_ptr(), address(self.low), self.low_unit.data_ptr(), self.error.data_ptr(),
            self.exact.data_ptr(), self.exact_unit, most_read, inputs, outputs // g.groups,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Begin:
    """What a population begins with, `[blocks * 16]`, or where it differs by position `[samples, height, width, outputs]`.

    Attributes:
        rounded: int32, in its units. exact: float64, in the finer ones.
    """

    rounded: Tensor
    exact: Tensor

    @property
    def by_position(self) -> bool:
        """Whether it differs by position."""
        return self.rounded.dim() > 1


@dataclass(frozen=True, eq=False)
class DensePopulation:
    """A population behind some convolutions as the kernel reads it: in int32 units, for each output its own.

    Attributes:
        filters: of each term. total: the largest level.
        exponents: `[outputs]` float64, of the units. finest: of the grid that all is on.
        thresholds, lowest, highest, top: `[blocks * 16]` int32; inverse: float32; see `DenseTask` in tasks.h.
        base, unit, exact_thresholds: `[outputs]` float64; likewise.
    """

    filters: tuple[DenseFilter, ...]
    total: int
    exponents: Tensor
    finest: int
    thresholds: Tensor
    inverse: Tensor
    lowest: Tensor
    highest: Tensor
    top: Tensor
    base: Tensor
    unit: Tensor
    exact_thresholds: Tensor

    @property
    def outputs(self) -> int:
        """How many channels it has."""
        return len(self.unit)

    @cached_property
    def last(self) -> list[_Call]:
        """What was asked of the kernel last; it is asked the same of other numbers of these shapes."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        """A copy has tensors of its own, and asks anew."""
        return {name: value for name, value in self.__dict__.items() if name != "last"}

    def begin(self, values: Tensor) -> Begin:
        """`[outputs]` or `[samples, height, width, outputs]` float64, no larger than the population was made for."""
        rounded = (values * torch.exp2(-self.exponents)).round_().int()
        exact = values * 2.0**-self.finest
        return Begin(_whole_blocks(rounded) if values.dim() == 1 else rounded.contiguous(), exact.contiguous())


def dense_population(
    terms: Sequence[tuple[Tensor, Geometry, int, int]], exponent: int, thresholds: Tensor, begin: float, total: int
) -> DensePopulation | None:
    """A population that settles at `clip(floor(received / threshold), 0, total)`; None: int32 does not hold its numbers.

    Args:
        terms: weights `[outputs, channels / groups, kh, kw]`, float64 multiples of `2**exponent`; how they move; the
            exponent of the grid that they are on; and the largest magnitude of the levels that they meet.
        exponent: of the grid that all is on.
        thresholds: `[outputs]` float64. begin: the largest magnitude of what it begins with.
    """
    most = (total + 1) * thresholds
    reach = begin + most
    for weight, _, _, level in terms:
        reach = reach + level * weight.abs().flatten(1).sum(1)
    units = (_binades(reach) - SUM_BITS).clamp(min=exponent)
    scale = torch.exp2(-units)
    rounded = (thresholds * scale).round()
    if not len(thresholds) or float(rounded.min()) < 1:
        return None
    # By how much sums may be off: what they begin with has been rounded, and a threshold counts as often as the level.
    base = 0.5 * (units > exponent) + 0.5 * total * (rounded != thresholds * scale).double()
    off, sums, filters = base, begin * scale + 1.0 + (total + 1) * rounded, []
    for weight, geometry, own_exponent, level in terms:
        made = _rounded_filter(weight, geometry, own_exponent, level, exponent, units)
        filters.append(made.filter)
        off, sums = off + made.off, sums + made.reach
        base = base if made.filter.summed else base + made.off
    if float((sums + off).max()) >= INT32_UNITS:
        return None
    # Bounds have been rounded themselves.
    margin, base = (torch.where(each > 0, each.ceil() + 1, 0.0) for each in (off, base))
    lowest = torch.where(off > 0, margin + 1, 0.0).minimum(rounded)
    highest, top = rounded - 1 - margin, total * rounded + lowest.maximum((rounded / 2).floor())
    # Slightly too large, so that what is on a threshold is not taken for less.
    inverse = ((1.0 + 2.0**-22) / rounded).float()
    beyond = 2**30  # behind the last output nothing is in doubt
    return DensePopulation(
        tuple(filters), total, units, exponent, _whole_blocks(rounded.int()), _whole_blocks(inverse),
        _whole_blocks(lowest.int(), -beyond), _whole_blocks(highest.int(), beyond), _whole_blocks(top.int()), base,
        torch.exp2(units - exponent), thresholds * 2.0**-exponent,
    )  # fmt: skip


@dataclass(frozen=True)
class _Rounded:
    """A filter, and `[outputs]` in units of the population: by how much its sums may be off, and how large they get."""

    filter: DenseFilter
    off: Tensor
    reach: Tensor


def _rounded_filter(
    weight: Tensor, geometry: Geometry, own_exponent: int, most: int, finest: int, units: Tensor
) -> _Rounded:
    """A filter, each output's weights rounded to the finest grid on which int16 holds them."""
    largest = weight.abs().flatten(1).amax(1)
    narrow = _binades(largest) - 15
    narrow += (largest * torch.exp2(-narrow)).round() > _LARGEST_INT16
    exponents = torch.where(largest > 0, narrow.clamp(min=own_exponent), units).maximum(units)
    shift = exponents - units
    exact = weight * torch.exp2(-exponents)[:, None, None, None]
    whole = exact.round()
    rest = exact - whole
    left_out = rest.abs().flatten(1).sum(1)
    reads, scale = weight[0].numel(), torch.exp2(shift)
    low, bits = None, torch.zeros_like(left_out)
    own = is_own(weight, geometry)
    if bool(left_out.any()):
        # Each of the next bits fits int16, and their sum, each as often as its level, int32.
        room = (INT32_UNITS / max(1, most) - reads) / left_out
        bits = (torch.frexp(room).exponent - 1.0).clamp(max=_LOW_BITS).minimum(exponents - finest)
        bits = torch.where(left_out > 0, bits, 0.0).clamp(min=0.0)
        low = (rest * torch.exp2(bits)[:, None, None, None]).round()
    laid_out = _own(whole, low) if own else _shared(whole, low, geometry)
    packed, first, span, merged, low = laid_out
    return _Rounded(
        DenseFilter(
            packed, first, geometry, own, span, merged, _whole_blocks(shift.int()), low,
            torch.exp2(exponents - bits - finest), 0.5 * scale, weight.contiguous(), 2.0**-finest, most,
        ),
        left_out * most * scale,
        whole.abs().flatten(1).sum(1) * most * scale,
    )  # fmt: skip


_LaidOut = tuple[Tensor, Tensor, int, bool, Tensor | None]


def _own(whole: Tensor, low: Tensor | None) -> _LaidOut:
    """Weights by output, each of which has an input channel of its own."""
    outputs, taps = len(whole), whole[0].numel()
    pairs = torch.zeros(_blocks(outputs) * _BLOCK, _even(taps), dtype=torch.int16, device="cpu")
    pairs[:outputs, :taps] = whole.flatten(1)
    packed = pairs.view(-1, _BLOCK, _even(taps) // 2, 2).permute(0, 2, 1, 3).contiguous()
    first = torch.arange(0, len(pairs), _BLOCK, device="cpu")
    return packed, first, 2, False, None if low is None else low.flatten(1).to(torch.int16).contiguous()


def _shared(whole: Tensor, low: Tensor | None, geometry: Geometry) -> _LaidOut:
    """Weights of outputs that read the channels of a group, or of several where a block of outputs lies in several."""
    outputs, inputs, kernel_y, kernel_x = whole.shape
    groups, blocks = geometry.groups, _blocks(outputs)
    each_out, pixel = outputs // groups, _even(inputs * groups)
    lows = torch.arange(0, outputs, _BLOCK, device="cpu")
    highs = (lows + _BLOCK).clamp(max=outputs) - 1
    first = lows // each_out * inputs
    reads = _even(int(((highs // each_out + 1) * inputs - first).max()))
    first = first.clamp(max=pixel - reads)
    # What each output reads begins there, seen from where its block does.
    output = torch.arange(outputs, device="cpu")
    at = output // each_out * inputs - first[output // _BLOCK]
    sizes = 1 if low is None else 2, blocks * _BLOCK, kernel_y, kernel_x, reads
    room = torch.zeros(sizes, dtype=torch.int16, device="cpu")
    index = (at[:, None] + torch.arange(inputs, device="cpu"))[:, None, None].expand(-1, kernel_y, kernel_x, -1)
    for to, values in zip(room, (whole, low), strict=False):
        assert values is not None
        to[:outputs].scatter_(3, index, values.permute(0, 2, 3, 1).to(torch.int16))
    merged = geometry.dilation[1] == 1 and reads == pixel
    span = kernel_x * pixel if merged else reads
    by_part = room.view(len(room), blocks * _BLOCK, -1, span)
    packed = by_part[0].view(blocks, _BLOCK, -1, span // 2, 2).permute(0, 2, 3, 1, 4).contiguous()
    if low is None:
        return packed, first, span, merged, None
    parts = by_part.shape[2]
    next_bits = torch.zeros(outputs, parts, -(-span // _WORD) * _WORD, dtype=torch.int16, device="cpu")
    next_bits[:, :, :span] = by_part[1, :outputs]
    return packed, first, span, merged, next_bits


@dataclass(frozen=True, eq=False)
class _Call:
    """What a kernel is asked, but for the numbers it is asked it of.

    Attributes:
        key: the shapes of the levels and of what the population begins with. shape: of the result, channels last.
    """

    key: tuple[torch.Size, ...]
    shape: tuple[int, int, int, int]
    terms: ctypes.Array[ctypes.Structure]
    task: ctypes.Structure
    items: int

    @classmethod
    def of(cls, population: DensePopulation, key: tuple[torch.Size, ...], size: tuple[int, int]) -> _Call:
        """For a population of this height and width."""
        p, given, (height, width) = population, key[1:], size
        _check(population, key, size)
        structures = [each.term(shape, size) for each, shape in zip(p.filters, given, strict=True)]
        samples, outputs = given[0][0], p.outputs
        together, bands = _items(structures, samples, height, width)
        places = -(-samples // together) * bands
        parts = min(-(-outputs // (2 * _BLOCK)), max(1, _LEAST_ITEMS // max(1, places)))
        alike = all(each.own or each.geometry.groups == 1 for each in p.filters)
        task = _Task(
            Neurons(threshold=1.0, levels=True, total=p.total), None, len(structures), samples, height, width, outputs,
            bands, together, parts, alike, p.thresholds.data_ptr(), p.inverse.data_ptr(), p.lowest.data_ptr(),
            p.highest.data_ptr(), p.top.data_ptr(), None, len(key[0]) > 1, p.base.data_ptr(), p.unit.data_ptr(),
            p.exact_thresholds.data_ptr(), None, None,
        )  # fmt: skip
        shape = samples, height, width, outputs
        return cls(key, shape, (_Term * len(structures))(*structures), task, places * parts)

    def __call__(self, given: Sequence[Tensor], begin: Begin) -> Tensor:
        """The levels; threads may ask at the same time."""
        terms, task = type(self.terms).from_buffer_copy(self.terms), type(self.task).from_buffer_copy(self.task)
        for term, levels in zip(terms, given, strict=True):
            term.levels = levels.data_ptr()
        out = empty(self.shape, torch.int8)
        task.term, task.out = ctypes.addressof(terms), out.data_ptr()
        task.begin, task.exact_begin = begin.rounded.data_ptr(), begin.exact.data_ptr()
        if out.numel():
            run("dense", task, self.items, _COSTLY * out.numel())
        return out


def dense(population: DensePopulation, begin: Begin, trains: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Levels `[samples, channels, height, width]` int8 of a population, channels last in memory.

    Args:
        population: what it is. begin: what it begins with.
        trains: the levels `[samples, channels, height, width]` int8 that go through each of its filters.
        size: height and width of the population.
    """
    given = [train.permute(0, 2, 3, 1).contiguous() for train in trains]
    require(all(levels.dtype == torch.int8 for levels in given), "levels in another type than int8")
    key = begin.rounded.shape, *(levels.shape for levels in given)
    call = population.last[0] if population.last else None
    if call is None or call.key != key:
        call = _Call.of(population, key, size)
        population.last[:] = [call]
    return call(given, begin).permute(0, 3, 1, 2)


def _items(terms: Sequence[ctypes.Structure], samples: int, height: int, width: int) -> tuple[int, int]:
    """How many samples an item has together, and in how many bands of rows a sample is cut."""
    row_bytes = sum(2 * term.columns * term.pixel for term in terms)
    rows = max(term.stride_y for term in terms) * height + max((term.kernel_y - 1) * term.dilation_y for term in terms)
    bands = min(height, -(-rows * row_bytes // _INPUT_BYTES))
    if bands > 1:
        return 1, bands
    return min(samples, max(1, _POSITIONS // (height * width))), 1


def _check(population: DensePopulation, key: tuple[torch.Size, ...], size: tuple[int, int]) -> None:
    """That all sizes fit each other."""
    begin, *given = key
    require(len(given) == len(population.filters) <= _MOST_TERMS, f"{len(given)} terms")
    samples = given[0][0]
    for each, shape in zip(population.filters, given, strict=True):
        channels = each.exact.shape[1] * each.geometry.groups
        require(shape == (samples, *shape[1:3], channels), f"levels {list(shape)} for {channels} channels")
        found = each.geometry.output_size(*shape[1:3])
        require(found == size, f"an output of {list(found)} for a population of {list(size)}")
    expected = population.thresholds.shape if len(begin) == 1 else (samples, *size, population.outputs)
    require(begin == expected, f"what it begins with, {list(begin)}, for a population {list(expected)}")


def _binades(values: Tensor) -> Tensor:
    """Of each number the smallest k, float64, with `number <= 2**k`; 0 of zero."""
    mantissas, exponents = torch.frexp(values)
    return torch.where(values > 0, exponents - (mantissas == 0.5).int(), 0).double()


def _whole_blocks(values: Tensor, filled: float = 0) -> Tensor:
    """`[outputs]` with room for whole blocks."""
    room = values.new_full((_blocks(len(values)) * _BLOCK,), filled)
    room[: len(values)] = values
    return room


def _blocks(outputs: int) -> int:
    return -(-outputs // _BLOCK)


def _even(size: int) -> int:
    return -(-size // 2) * 2
