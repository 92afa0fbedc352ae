"""Products with real-valued input that are rounded to a grid, as if the sums behind them had never been rounded.

As in computational geometry, plain sums in float64 come first, with a proven bound on their error. Where it cannot reach
the middle between two multiples of the grid, the nearest one is known; the few others are summed exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products.exact_sums import AT_ONCE, LIMB_BITS, exact_sum, largest_row, weight_limbs
from casc_core.engine.products.geometry import Geometry, convolve
from casc_core.engine.signal import along, without_repeats
from casc_core.numerics import Numerics, binade, largest, on_grid
from casc_core.reporting.series import zero_padded

# Sums are taken of so many products at a time, which bounds how often they round.
_BLOCK = 64
_SINGLE_BLOCK = 32  # in float32
# Rounding of one operation in float64, relative; and of an exact sum before it is rounded.
_ROUNDING = 2.0**-53
_EXACTLY = 2.0**-80
# Rounding of one operation in float32, and what is far below its largest number.
_SINGLE = 2.0**-24
_MOST_SINGLE = 2.0**100
# Errors above `2**-_PARTS` of a multiple leave so many sums open that all are taken in two parts at once.
_PARTS = 5
# What bounds have been rounded by themselves.
_OWN = 1.0 + 2.0**-20
# So many bounds on inputs lie between a power of two and the next one, twice.
_STEPS = 16
# If more than one of so many results has to be summed exactly, all are.
_RARE = 32

Multiply = Callable[[Tensor, Tensor], Tensor]


class Sums(ABC):
    """A linear map, each of whose results is a sum of products of inputs and weights."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """The dimension of a result that the rows of the weights belong to, from the end."""

    @abstractmethod
    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        """The results, outputs last in memory; `multiply` takes the products of matrices."""

    @abstractmethod
    def reads(self, x: Tensor) -> kernels.Reads:
        """Where the inputs lie that the results are sums of."""

    @abstractmethod
    def by_position(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the results but for the outputs."""


class LinearSums(Sums):
    """Those of a linear map of the last dimension."""

    @property
    def output_dim(self) -> int:
        return -1

    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        return multiply(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], len(weight))

    def by_position(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[:-1])

    def reads(self, x: Tensor) -> kernels.Reads:
        terms = x.shape[-1]
        return kernels.Reads(x.contiguous(), 1, 1, (terms, 0, 0, 0), 1, torch.arange(terms, device=x.device))


@dataclass(frozen=True)
class ConvolutionSums(Sums):
    """Those of a convolution in one or two dimensions. An input that is the same for all samples gives one result."""

    geometry: Geometry
    dims: int

    @property
    def output_dim(self) -> int:
        return -1 - self.dims

    def __call__(self, x: Tensor, weight: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
        plane = self._plane(x)
        if multiply is torch.matmul and x.dtype == weight.dtype == torch.float64 and kernels.ready(x, weight):
            result = self._compiled(plane, weight)
        else:
            result = convolve(plane, weight, self.geometry, multiply)
        result = result.squeeze(-2) if self.dims == 1 else result
        return result.expand(len(x), *result.shape[1:])

    def _compiled(self, plane: Tensor, weight: Tensor) -> Tensor:
        """What `convolve` gives, whose sums float64 holds, or rounds in whatever order."""
        height, width = self.geometry.output_size(*plane.shape[2:])
        reads, outputs = self.reads(plane), len(weight)
        if not len(reads.offsets) or not plane.numel():
            return plane.new_zeros(len(plane), outputs, height, width)
        whole = kernels.in_blocks(weight.flatten(1), reads.groups)
        values = kernels.products(reads, len(plane) * height * width, whole, outputs)
        return values.reshape(len(plane), height, width, outputs).permute(0, 3, 1, 2)

    def by_position(self, x: Tensor) -> tuple[int, ...]:
        size = self.geometry.output_size(*self._plane(x).shape[2:])
        return (len(x), *size[2 - self.dims :])

    def reads(self, x: Tensor) -> kernels.Reads:
        geometry, padded = self.geometry, self.geometry.padded(self._plane(x)).contiguous()
        channels = padded.shape[1] // geometry.groups
        by_sample, by_channel, by_row, by_column = padded.stride()
        (down, across), (dy, dx) = geometry.stride, geometry.dilation
        return kernels.Reads(
            padded, *replace(geometry, padding=(0, 0, 0, 0)).output_size(*padded.shape[2:]),
            (by_sample, down * by_row, across * by_column, channels * by_channel), geometry.groups,
            _offsets((channels, *geometry.kernel), (by_channel, dy * by_row, dx * by_column), x.device),
        )  # fmt: skip

    def _plane(self, x: Tensor) -> Tensor:
        same = x.dim() > 0 and x.stride(0) == 0 and len(x) > 1
        x = x[:1] if same else x
        return x.unsqueeze(-2) if self.dims == 1 and x.dim() == 3 else x


@lru_cache(maxsize=256)
def _offsets(sizes: tuple[int, int, int], strides: tuple[int, int, int], device: torch.device) -> Tensor:
    """Where the entries of a block of these sizes lie, seen from its first."""
    channels, rows, columns = (
        torch.arange(size, device=device) * stride for size, stride in zip(sizes, strides, strict=True)
    )
    return (channels[:, None, None] + rows[:, None] + columns).flatten()


@dataclass(frozen=True)
class InputWeights:
    """The weights that real-valued input meets, and what is made of them.

    Attributes:
        whole: float64, outputs first. limbs: its `weight_limbs`. split: the first of them, and all that is left.
        row: the largest sum of magnitudes that one output has. rest: that of what is left.
    """

    whole: Tensor
    limbs: tuple[Tensor, ...]
    split: kernels.SplitWeights
    row: float
    rest: float

    def in_blocks(self, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """The weights, their upper part and the lower one, as a kernel sums products with them."""
        if groups not in self._in_blocks:
            parts = self.whole.flatten(1), self.split.high, self.split.low
            whole, upper, lower = (kernels.in_blocks(part, groups) for part in parts)
            self._in_blocks[groups] = whole, upper, lower
        return self._in_blocks[groups]

    @cached_property
    def _in_blocks(self) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        return {}

    def packed(self, groups: int) -> Tensor:
        """In float32, as a kernel reads them for so many groups of outputs."""
        if groups not in self._packed:
            self._packed[groups] = kernels.pack_driven(self.whole.flatten(1), groups)
        return self._packed[groups]

    @cached_property
    def _packed(self) -> dict[int, Tensor]:
        return {}

    @classmethod
    def of(cls, weight: Tensor) -> InputWeights:
        """Those made of `weight`."""
        whole = weight.double()
        limbs = tuple(weight_limbs(whole))
        high = limbs[0].flatten(1)
        low = whole.flatten(1) - high
        split = kernels.SplitWeights(high.contiguous(), low.contiguous())
        return cls(whole, limbs, split, largest_row(whole), largest_row(low))

    @classmethod
    def on_grid(cls, weight: Tensor) -> InputWeights:
        """Those made of weights on a grid, whose products with inputs on another are exact in one part."""
        whole = weight.double()
        rows = whole.flatten(1).contiguous()
        return cls(whole, (whole,), kernels.SplitWeights(rows, torch.zeros_like(rows)), largest_row(whole), 0.0)


@dataclass(frozen=True)
class InputProduct:
    """A drive: the product of real-valued input with weights, and a bias, summed where it is known to which grid it goes.

    A `casc_core.engine.signal.LazyDrive`.

    Attributes:
        x: the input, float64.
        bias: one for each output, or None.
        shape: of the drive; None: as it comes.
    """

    x: Tensor
    weights: InputWeights
    sums: Sums
    bias: Tensor | None
    shape: torch.Size | None

    def values(self) -> Tensor:
        """`[*shape]` float64."""
        return self._values

    def on_grid(self, numerics: Numerics, exponent: int, most: float = math.inf) -> Tensor:
        """The values, rounded to the grid `2**exponent`; no matter which of those above `most`."""
        rounded = None if "_values" in self.__dict__ else self._rounded(exponent, most)
        if rounded is None:
            rounded = numerics.snap(without_repeats(self.values()), exponent)
        return self._shaped(rounded)

    def population(
        self,
        shape: torch.Size,
        exponent: int,
        threshold: Tensor | float,
        potential: Tensor | float,
        most: float,
        neuron: kernels.KernelNeuron,
    ) -> kernels.Driven | None:
        """A population of this shape that it alone drives, for the kernel; None: none takes it.

        It is the same for other inputs of about this size, as `key` has it.

        Args:
            exponent: of the grid that the drive is rounded to, and held within `most`; of thresholds and potentials.
            threshold, potential: before the first step; they broadcast against the population.
            neuron: what it is and when it is awake.
        """
        weights, reach, terms = self.weights.whole, self.reach, self.weights.whole[0].numel()
        thresholds, potentials = (along(each, shape, self.sums.output_dim) for each in (threshold, potential))
        if thresholds is None or potentials is None or not terms or not reach < _MOST_SINGLE:
            return None
        unit = math.ldexp(1.0, exponent)
        most = min(most, math.ceil(reach / unit) * unit)
        bias = thresholds.new_zeros(len(weights)) if self.bias is None else self.bias.double().contiguous()
        spread = (neuron.total + 2) * (most + float(thresholds.max())) + largest(potentials)
        units, first = max(exponent, binade(spread) - kernels.SUM_BITS), self.product_exponent
        error = _error(terms, reach, _SINGLE, _SINGLE_BLOCK) + (0.0 if first is None else math.ldexp(0.5, first))
        population = kernels.Driven(neuron, exponent, units, bias, thresholds, potentials, most, error, first)
        margin = (neuron.total + 2) * population.flow
        are_few = margin < kernels.NEAR * math.ldexp(float(thresholds.min()), -units)
        return population if are_few and self.is_decided(exponent) else None

    def spikes(
        self,
        population: kernels.Driven,
        shape: torch.Size,
        guess: int,
        fire: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor | None:
        """Those of a population of this shape; None: no compiled kernel takes them.

        Args:
            guess: of the steps that will be needed.
            fire: spikes `[steps, n]` of some neurons by drive, threshold and potential `[n]`.
        """
        x, weights, dim = self.x, self.weights, self.sums.output_dim
        repeats = x.dim() > 0 and len(x) > 1 and x.stride(0) == 0
        if repeats or not shape.numel() or not kernels.ready(x, weights.whole):
            return None
        outputs, terms = weights.whole.shape[0], weights.whole[0].numel()
        reads, (split, rest_error) = self.sums.reads(x), self._rest()
        positions, room = shape.numel() // outputs, max(_BLOCK, shape.numel() // _RARE)
        packed = weights.packed(reads.groups)
        found = kernels.driven(reads, positions, packed, weights.split, population, split, rest_error, room, guess)
        if found is None:
            return None
        spikes, near = found
        most = population.most
        for some in near.split(max(1, AT_ONCE // terms)) if len(near) else ():
            drive = on_grid(self._exactly(some), population.exponent).clamp(-most, most)
            own = some % outputs
            spikes = _put(spikes, some, fire(drive, population.thresholds[own], population.potential[own]))
        by_position = [each for index, each in enumerate(shape) if index != dim % len(shape)]
        return spikes.reshape(spikes.shape[0], *by_position, outputs).movedim(-1, dim)

    @property
    def key(self) -> tuple[object, ...]:
        """All that a population depends on but for what is its own, and the weights and the bias."""
        return self.largest_input, self.product_exponent, self.sums.output_dim

    @cached_property
    def largest_input(self) -> float:
        """A bound on the magnitudes in the input: of a few bits, so that it is that of other inputs too."""
        mantissa, exponent = math.frexp(largest(self.x))
        return math.ldexp(math.ceil(mantissa * _STEPS) / _STEPS, exponent) if math.isfinite(mantissa) else mantissa

    @cached_property
    def reach(self) -> float:
        """A bound on its magnitude."""
        return (self.largest_input * self.weights.row + (0.0 if self.bias is None else largest(self.bias))) * _OWN

    @property
    def product_exponent(self) -> int | None:
        """Of a grid that the product is rounded to before the bias is added; None: it is as it is."""
        return None

    def is_decided(self, exponent: int) -> bool:
        """Whether float64 decides nearly all sums that float32 leaves open, where they go to the grid `2**exponent`."""
        return _error(self.weights.whole[0].numel(), self.reach, _ROUNDING) < 2.0 ** (exponent - 2)

    @cached_property
    def _values(self) -> Tensor:
        return self._shaped(self._biased(exact_sum(self.x, self.weights.limbs, self.sums)))

    def _biased(self, result: Tensor) -> Tensor:
        return result if self.bias is None else result + self.bias.reshape(-1, *[1] * (-1 - self.sums.output_dim))

    def _shaped(self, x: Tensor) -> Tensor:
        return x if self.shape is None else x.expand(self.shape)

    def _rounded(self, exponent: int, most: float) -> Tensor | None:
        """What the filter gives; None: too much is left to be summed exactly."""
        terms, x, weights = self.weights.whole[0].numel(), without_repeats(self.x, 0), self.weights
        reach = self.reach
        error = _error(terms, reach, _ROUNDING)
        can_part = self.bias is None and min(reach, most) < 2.0 ** (exponent + 52)
        in_parts = not error < 2.0 ** (exponent - (_PARTS if can_part else 2))
        if in_parts and not can_part:
            return None
        error *= _OWN
        near: Tensor | None
        if terms and x.numel() and kernels.ready(x, weights.whole, self.bias):
            reads, shape = self.sums.reads(x), self.sums.by_position(x)
            positions, outputs = math.prod(shape), len(weights.whole)
            bias, (split, rest_error) = None if self.bias is None else self.bias.contiguous(), self._rest()
            room = max(_BLOCK, positions * outputs // _RARE)
            rounds = kernels.Rounds(
                exponent, bias, None if in_parts else error, weights.split, split, rest_error, most, room
            )
            blocks = weights.in_blocks(reads.groups)[: 3 if in_parts else 1]
            last, near = kernels.rounded_products(reads, positions, blocks, outputs, rounds)
            last = last.reshape(*shape, outputs)
        elif in_parts:
            last, near = self._in_two_parts(x, exponent, most)
        else:
            last, near = self._in_one(x, exponent, error)
        if near is None:
            return None
        for some in near.split(max(1, AT_ONCE // max(1, terms))):
            last.view(-1)[some] = on_grid(self._exactly(some), exponent)
        return last.movedim(-1, self.sums.output_dim)

    def _in_one(self, x: Tensor, exponent: int, error: float) -> tuple[Tensor, Tensor | None]:
        """Sums outputs last, rounded, and the places of those that this error leaves undecided; None: too many."""
        sums = self.sums(x, self.weights.whole, _in_blocks).movedim(self.sums.output_dim, -1).contiguous()
        scaled = (sums if self.bias is None else sums + self.bias) * 2.0**-exponent
        rounded = scaled.round()
        near = torch.nonzero(~((scaled - rounded).abs() < 0.5 - math.ldexp(error, -exponent)).flatten()).flatten()
        return rounded * 2.0**exponent, near if len(near) <= max(_BLOCK, sums.numel() // _RARE) else None

    def _in_two_parts(self, x: Tensor, exponent: int, most: float) -> tuple[Tensor, Tensor | None]:
        """Sums outputs last, rounded, and the places of those left undecided; None: too many.

        What the upper parts of inputs and weights give is exact; the rest is small, and its error smaller still.
        """
        split, rest_error = self._rest()
        upper = on_grid(x, split)
        high, low = self.weights.limbs[0], self.weights.whole - self.weights.limbs[0]
        exact, rest = self.sums(upper, high), self.sums(upper, low) + self.sums(x - upper, self.weights.whole)
        exact, rest = (each.movedim(self.sums.output_dim, -1) * 2.0**-exponent for each in (exact, rest))
        whole = exact.round()
        rest += exact - whole
        more = rest.round()
        # What the exact sum itself is rounded by counts as error: it is rounded to float64 first.
        error = (whole.abs() + 1.0) * (2 * _ROUNDING) + math.ldexp(rest_error, -exponent)
        undecided = ~((rest - more).abs() < 0.5 - error)
        if math.isfinite(most):
            undecided &= whole.abs() <= math.ldexp(most, -exponent) + 1.0
        near = torch.nonzero(undecided.flatten()).flatten()
        rounded = ((whole + more) * 2.0**exponent).contiguous()
        return rounded, near if len(near) <= max(_BLOCK, rounded.numel() // _RARE) else None

    def _rest(self) -> tuple[int, float]:
        """The exponent to which inputs are rounded so that sums with the upper parts of weights are exact, and the error of
        the sums of all else: of what inputs have below it, and of all products with what weights have left."""
        x, weights = self.largest_input, self.weights
        split = binade(x) - LIMB_BITS
        rest = 2.0**split * weights.row + x * weights.rest
        error = (2 * weights.whole[0].numel() + 16) * _ROUNDING * rest + _EXACTLY * (x * weights.row)
        return split, error * _OWN

    def _exactly(self, near: Tensor) -> Tensor:
        """The exact sums at some places of the result, outputs last."""
        count = len(self.weights.whole)
        positions, outputs = near // count, near % count
        reads = self.sums.reads(without_repeats(self.x, 0))
        read = reads.at(positions, outputs * reads.groups // count)
        rows = [limb.flatten(1)[outputs] for limb in self.weights.limbs]
        sums = exact_sum(read, rows, lambda x, weight: (x * weight).sum(1), by_row=False)
        return sums if self.bias is None else sums + self.bias[outputs]


def product_on_grid(
    numerics: Numerics, x: Tensor, weights: InputWeights, sums: Callable[[Tensor, Tensor], Tensor], exponent: int,
    most: float | None,
) -> Tensor:  # fmt: skip
    """The product of `x`, float64, with weights, rounded to the grid `2**exponent`.

    Args:
        most: its results are held within this, a multiple of `2**exponent`; None: they are as they are.
        sums: `(x, weight)` to their product, which treats each entry of dimension 0 alike; the fastest where it is `Sums`.
    """
    if isinstance(sums, Sums):
        result = InputProduct(x, weights, sums, None, None).on_grid(
            numerics, exponent, math.inf if most is None else most
        )
    else:
        result = numerics.snap(exact_sum(x, weights.limbs, sums), exponent)
    return result if most is None else result.clamp(-most, most)


def _error(terms: int, reach: float, rounding: float, block: int = _BLOCK) -> float:
    """That of a sum of so many products: of adding up within a block, of blocks, of rounding what is summed, and of adding
    the bias, in either way."""
    return (min(terms, block) + -(-terms // block) + 8) * rounding * reach


def _put(spikes: Tensor, places: Tensor, own: Tensor) -> Tensor:
    """Spikes `[steps, ...]`, those of the neurons at some places replaced by their own `[steps, places]`."""
    spikes = zero_padded(spikes, max(len(spikes), len(own)))
    by_neuron = spikes.flatten(1)  # a view
    by_neuron[:, places] = zero_padded(own, len(spikes)).to(spikes.dtype)
    return spikes


def _in_blocks(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`, the products of one result summed block by block."""
    total: Tensor | None = None
    for start in range(0, a.shape[-1], _BLOCK):
        part = torch.matmul(a[..., start : start + _BLOCK], b[..., start : start + _BLOCK, :])
        total = part if total is None else total.add_(part)
    return torch.matmul(a, b) if total is None else total
