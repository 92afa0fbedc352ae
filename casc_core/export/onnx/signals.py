"""Signals of a network that is written as a graph, and exact sums of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.products.exact_sums import LIMB_BITS, limb_places, matrix_limb_bits
from casc_core.errors import ConversionError
from casc_core.export.onnx.graph import Graph, Likes, SymbolicTensor, likes
from casc_core.numerics import INPUT_REACH, AsTrained, Numerics, stored

LOWEST = -1e300
"""No number of a network is as low: below it is what stands for minus infinity."""
LARGEST_WHOLE = 4096.0
"""Whole numbers that are computed from the inputs, such as lengths of texts, are no larger."""
Product = Callable[[SymbolicTensor, Tensor], SymbolicTensor]
Map = Callable[[SymbolicTensor], SymbolicTensor]
Operation = Callable[[SymbolicTensor, SymbolicTensor], SymbolicTensor]


@dataclass(frozen=True)
class SymbolicSignal:
    """A signal in levels: `(total + levels * drive) / divisor`, up to a constant factor known at conversion.

    Attributes:
        total: what comes of spikes, at all steps together; None for zero.
        drive: what flows at each wake step, float64; None for zero. The total or the drive has the shape of the signal.
        divisor: positive whole numbers that broadcast against it; one number where it does not depend on the inputs.
        bound: largest magnitude of the total for each level.
        reach, grid: largest magnitude of the drive, and the exponent of a grid that it is on.
        is_rounded: the total is a product that has been rounded once, and a readout reads it whatever its bound is.
        is_on_grid: whether anything else may read it.
    """

    total: SymbolicTensor | None
    drive: SymbolicTensor | None
    divisor: SymbolicTensor | float = 1.0
    bound: float = 0.0
    reach: float = 0.0
    grid: int = 0
    is_rounded: bool = False
    is_on_grid: bool = True

    @property
    def framed(self) -> SymbolicTensor:
        """A tensor of its shape."""
        tensors = [each for each in (self.total, self.drive) if each is not None]
        return max(tensors, key=lambda each: (each.dim, each.like[0].numel()))

    @property
    def like(self) -> Likes:
        """Its shape."""
        return self.framed.like

    @property
    def dim(self) -> int:
        """How many dimensions it has."""
        return self.like[0].dim()


class Writer:
    """What operations write themselves with.

    Attributes:
        graph: that grows.
        numerics, levels: of the network.
        input_reach: real-valued inputs are below this in magnitude.
    """

    def __init__(self, graph: Graph, numerics: Numerics, levels: int) -> None:
        self.graph, self.numerics, self.levels = graph, numerics, levels
        self.input_reach = min(numerics.input_reach, INPUT_REACH)

    @property
    def is_as_trained(self) -> bool:
        """Whether what is computed of inputs is on no coarse grid."""
        return isinstance(self.numerics, AsTrained)

    def all_of(self, signal: SymbolicSignal) -> SymbolicTensor:
        """What a signal adds up to over all steps, of its shape."""
        drive = None if signal.drive is None else self.graph.mul(signal.drive, float(self.levels))
        if signal.total is None or drive is None:
            summed = drive if signal.total is None else signal.total
            assert summed is not None
            return summed
        return self.graph.add(signal.total, drive)

    def full(self, x: SymbolicTensor, signal: SymbolicSignal) -> SymbolicTensor:
        """What broadcasts against a signal, in its shape."""
        return self.expanded(x, signal.framed)

    def expanded(self, x: SymbolicTensor, frame: SymbolicTensor) -> SymbolicTensor:
        """`x` in the shape of another tensor, against which it broadcasts."""
        if [like.shape for like in x.like] == [like.shape for like in frame.like]:
            return x
        shape = self.graph.shape([self.graph.size(frame, dim) for dim in range(frame.dim)])
        name = self.graph.node("Expand", x.name, shape.name)[0]
        return SymbolicTensor(name, likes(lambda x, frame: x.expand(frame.shape), x, frame), x.most)

    def map(self, signal: SymbolicSignal, function: Map) -> SymbolicSignal:
        """The signal under a map that only moves, takes or repeats entries."""
        total, drive = (
            None if each is None else function(self.full(each, signal)) for each in (signal.total, signal.drive)
        )
        divisor = signal.divisor
        if isinstance(divisor, SymbolicTensor) and divisor.dim:
            divisor = replace(function(self.full(divisor, signal)), most=divisor.most)
        return replace(signal, total=total, drive=drive, divisor=divisor)

    def constant(self, signal: SymbolicSignal, value: Tensor) -> SymbolicTensor:
        """What the drive of a signal grows by when this is added at each wake step."""
        graph = self.graph
        if isinstance(signal.divisor, float):
            return graph.constant(value.double() * signal.divisor)
        return graph.mul(graph.constant(value.double()), signal.divisor)

    def weights(self, weight: Tensor) -> SymbolicTensor:
        """A constant of float64, written in half as many bytes where they hold it."""
        return self.graph.cast(self.graph.constant(stored(weight.double())), torch.float64)

    def plus(self, drive: SymbolicTensor | None, more: SymbolicTensor) -> SymbolicTensor:
        return more if drive is None else self.graph.add(drive, more)

    def times(self, x: SymbolicTensor | None, factor: SymbolicTensor | float) -> SymbolicTensor | None:
        return None if x is None else self.graph.mul(x, factor)

    def multiplied(self, signal: SymbolicSignal, by: SymbolicTensor | float) -> SymbolicSignal:
        """The numbers of a signal multiplied by positive whole numbers."""
        if by == 1.0:
            return signal
        total, drive = self.times(signal.total, by), self.times(signal.drive, by)
        most = self.largest_whole(by)
        return replace(signal, total=total, drive=drive, bound=signal.bound * most, reach=signal.reach * most)

    def whole(self, value: Any) -> SymbolicTensor:
        """A tensor of whole numbers that are computed from the inputs, float64."""
        graph, given = self.graph, self.graph.tensor(value)
        wide = graph.cast(given, torch.float64)
        if given.dtype.is_floating_point and given.most is None:
            graph.require(graph.compare("Equal", wide, graph.unary("Round", wide)))
        if wide.most is not None and wide.most <= LARGEST_WHOLE:
            return wide
        graph.require(graph.compare("LessOrEqual", graph.unary("Abs", wide), graph.constant(LARGEST_WHOLE)))
        return replace(wide, most=LARGEST_WHOLE)

    def largest_whole(self, value: SymbolicTensor | float) -> float:
        """The largest magnitude of a whole number, or of those that `whole` lets pass."""
        if isinstance(value, float):
            return abs(value)
        assert value.most is not None
        return value.most

    def product(self, a: SymbolicTensor | float, b: SymbolicTensor | float) -> SymbolicTensor | float:
        """Of two divisors."""
        if isinstance(a, float) and isinstance(b, float):
            return a * b
        most = self.largest_whole(a) * self.largest_whole(b)
        a, b = (b, a) if isinstance(a, float) else (a, b)
        assert not isinstance(a, float)
        return replace(self.graph.mul(a, b), most=most)

    def with_uniform_divisor(self, signal: SymbolicSignal, dims: Sequence[int]) -> SymbolicSignal:
        """With a divisor of size 1 along dimensions, along which a sum is about to be taken."""
        divisor = signal.divisor
        if isinstance(divisor, float) or not divisor.dim:
            return signal
        for dim in dims:
            divisor = self.uniform(divisor, dim)
        return replace(signal, divisor=divisor)

    def uniform(self, x: SymbolicTensor, dim: int) -> SymbolicTensor:
        """The first entry along a dimension, which all others must be like."""
        if all(like.shape[dim] == 1 for like in x.like):
            return x
        first = replace(self.graph.gather(x, dim, self.graph.constant([0])), most=x.most)
        self.graph.require(self.graph.compare("Equal", x, first))
        return first

    def reduced_divisor(self, signal: SymbolicSignal, dims: Sequence[int], keepdim: bool) -> SymbolicTensor | float:
        """The divisor of what is reduced over dimensions along which it is uniform."""
        divisor = signal.divisor
        if isinstance(divisor, float) or not divisor.dim or keepdim:
            return divisor
        kept = [dim for dim in range(divisor.dim) if dim not in {each % divisor.dim for each in dims}]
        first, second = ([like.shape[dim] for dim in kept] for like in divisor.like)
        return self.graph.reshape(divisor, (first, second))

    def drive(self, x: SymbolicTensor, exponent: int) -> SymbolicTensor:
        """What is computed of inputs, as it is or on the grid `2**exponent`, as the arithmetic has it."""
        return x if self.is_as_trained else self.graph.snap(x, exponent)

    def rounded(
        self, x: SymbolicTensor, exponent: int, held: float | None, bound: float
    ) -> tuple[SymbolicTensor, float]:
        """A total rounded once to the grid `2**exponent`, and its largest magnitude for each level.

        Args:
            held: within so much for each step; None: it is not.
            bound: largest magnitude before.
        """
        unit, total = math.ldexp(1.0, exponent), self.graph.snap(x, exponent)
        bound += unit
        if held is None:
            return total, bound
        most = math.ceil(held * (self.levels + 2) / unit) * unit
        return self.graph.clip(total, -most, most), min(bound, most / self.levels)

    def check(self, bound: float, exponent: int, name: str) -> None:
        """Refuse sums that float64 might round.

        Raises:
            ExactnessError: numbers on the grid `2**exponent` up to this magnitude have too many bits.
        """
        self.numerics.dtype(bound, exponent, name)

    def exact_sum(
        self, x: SymbolicTensor, reach: float, grid: int, parts: Sequence[Tensor], product: Product
    ) -> SymbolicTensor:
        """`product(x, weight)` of the weights of which these are the `weight_limbs`, rounded as if once."""
        return self._added([product(limb, part) for limb in self._limbs(x, reach, grid) for part in parts])

    def exact_product(
        self, a: tuple[SymbolicTensor, float, int], b: tuple[SymbolicTensor, float, int], terms: int, product: Operation
    ) -> SymbolicTensor:
        """`product(a, b)`, each entry the sum of so many products and rounded as if once.

        Args:
            a, b: tensors, the largest magnitude of each, and the exponent of a grid that it is on.
        """
        bits = matrix_limb_bits(terms)
        ones, others = (self._limbs(*each, bits) for each in (a, b))
        return self._added([product(one, other) for one in ones for other in others])

    def whole_sum(self, x: SymbolicTensor, reach: float, grid: int, sums: Map) -> SymbolicTensor:
        """`sums(x)`, sums of entries times whole numbers, rounded as if once."""
        return self._added([sums(limb) for limb in self._limbs(x, reach, grid)]) if self.is_as_trained else sums(x)

    def _limbs(self, x: SymbolicTensor, reach: float, grid: int, bits: int = LIMB_BITS) -> list[SymbolicTensor]:
        """Parts of `x` that add up to it, cut off where `casc_core.engine.products.exact_sums.limb_places` says."""
        graph, rest = self.graph, x
        parts: list[SymbolicTensor] = []
        for place in limb_places(reach, grid, bits):
            if place <= grid:
                return [*parts, rest]
            cut = graph.cast(graph.cast(graph.mul(rest, 2.0**-place), torch.int64), torch.float64)
            limb = graph.mul(cut, 2.0**place)
            parts.append(limb)
            rest = graph.sub(rest, limb)
        return [*parts, rest]

    def _added(self, sums: Sequence[SymbolicTensor]) -> SymbolicTensor:
        """The sum of exact sums, rounded as if once: the error of each addition is carried along."""
        graph, total, error = self.graph, sums[0], None
        for each in sums[1:]:
            before, total = total, graph.add(total, each)
            seen = graph.sub(total, before)
            lost = graph.add(graph.sub(each, seen), graph.sub(before, graph.sub(total, seen)))
            error = lost if error is None else graph.add(error, lost)
        return total if error is None else graph.add(total, error)


def unsupported(name: str, why: str) -> ConversionError:
    """An error that names what cannot be written."""
    return ConversionError(f"{name} cannot be written as ONNX: {why}")
