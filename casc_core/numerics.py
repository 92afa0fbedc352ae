"""Exact arithmetic: power-of-two grids, and the cheapest floating-point type that provably never rounds on them.

A number on the grid `2**e` is an integer times `2**e`. Sums and products of such numbers are again on a grid, and a
floating-point type holds every partial sum exactly while it stays below `2**24` (float32) or `2**53` (float64) grid
units. So the order of summation, the batch split and the number of threads cannot change a bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from casc_core.errors import ConfigError, ExactnessError

INT32_UNITS = 2.0**31
FLOAT32_UNITS = 2.0**24
FLOAT64_UNITS = 2.0**53
# Sums of weights that nothing else is known of take so many bits of float64's; the rest is for spike counts.
SUM_BITS = 40
# With `Exact`, real-valued inputs are rounded once, to this grid, and must stay below this magnitude.
INPUT_EXPONENT = -16
INPUT_REACH = 1024.0
# They are expected to be about as large as this; only the choice of bits depends on it.
EXPECTED_INPUT = 8.0
# Real-valued currents keep this many bits; their products then fit float64 with room to spare.
DRIVE_BITS = 26


# Biases are up to this many bits finer than the weights beside them.
BIAS_BITS = 6
# A threshold spans at least 2**THRESHOLD_BITS grid units, so that rounding a real-valued current to it is harmless.
THRESHOLD_BITS = 14
# Where it is on the grid of the weights, at least so many: more cost a shift.
COARSE_THRESHOLD_BITS = 5


def binade(magnitude: float) -> int:
    """The smallest k with `magnitude <= 2**k`; 0 for zero.

    >>> binade(1.0), binade(0.3), binade(5.0)
    (0, -1, 3)
    """
    if magnitude <= 0.0:
        return 0
    mantissa, exponent = math.frexp(magnitude)
    return exponent - 1 if mantissa == 0.5 else exponent


def drive_grid(reach: float) -> int:
    """The grid on which a drive of this magnitude keeps `DRIVE_BITS` bits; one that is nothing at all is on any.

    >>> drive_grid(1.0), drive_grid(0.0)
    (-26, -26)
    """
    return binade(reach if reach > 1e-30 else 0.0) - DRIVE_BITS


def whole_type(magnitude: float) -> torch.dtype:
    """The cheapest type for sums of whole numbers up to this magnitude: int32, or float64 where that is too small.

    >>> whole_type(1e9), whole_type(3e9)
    (torch.int32, torch.float64)
    """
    return torch.int32 if magnitude < INT32_UNITS else torch.float64


def on_grid(x: Tensor, exponent: int) -> Tensor:
    """`x` in float64, rounded (half to even) to a multiple of `2**exponent`."""
    return x.double().mul(2.0**-exponent).round_().mul_(2.0**exponent)


def largest(x: Tensor) -> float:
    """The largest magnitude in `x`, read once; 0 if it is empty, NaN if it holds one.

    >>> largest(torch.tensor([1.0, -3.0])), largest(torch.zeros(0))
    (3.0, 0.0)
    """
    if not x.numel():
        return 0.0
    if not x.is_contiguous():  # several times as fast
        strides = x.stride()
        x = x.permute(sorted(range(x.dim()), key=lambda dim: -strides[dim]))
    low, high = torch.aminmax(x)
    return max(-float(low), float(high))


def stored(weight: Tensor) -> Tensor:
    """`weight` in float32 if that holds it exactly, else as it is."""
    single = weight.float()
    return single if torch.equal(single.double(), weight) else weight


class Numerics(ABC):
    """An arithmetic: which numbers weights, thresholds and real-valued inputs become, and in which type sums are taken."""

    is_float64: ClassVar[bool] = False
    """Whether what is computed from the inputs alone, and the readout, are float64 instead of float32."""
    is_exact: ClassVar[bool] = True
    """Whether every sum of whole spikes is proven exact before it is taken."""
    input_reach: ClassVar[float] = math.inf
    """Real-valued inputs must stay below this magnitude."""

    @property
    def bias_bits(self) -> int:
        """How many bits finer than the weights beside them biases may be."""
        return BIAS_BITS

    @property
    def threshold_bits(self) -> int:
        """Of a threshold that meets currents which are on a grid, at least."""
        return THRESHOLD_BITS

    @abstractmethod
    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        """The grid for weights that meet numbers on the grid `2**arriving`; where it goes by bits, of so many."""

    @abstractmethod
    def snap(self, x: Tensor, exponent: int) -> Tensor:
        """`x` in float64 on the grid `2**exponent`."""

    @abstractmethod
    def drive(self, x: Tensor, exponent: int | None) -> Tensor:
        """Real-valued input, or what is computed of it entry by entry, in float64, on its way to neurons."""

    @abstractmethod
    def dtype(self, bound: float, exponent: int, what: str) -> torch.dtype:
        """The cheapest type in which sums of magnitude up to `bound` on the grid `2**exponent` never round.

        Raises:
            ExactnessError: there is none.
        """


class _OnGrids(Numerics):
    """Weights on power-of-two grids; every sum of the run is proven exact before it is taken."""

    def snap(self, x: Tensor, exponent: int) -> Tensor:
        return on_grid(x, exponent)

    def dtype(self, bound: float, exponent: int, what: str) -> torch.dtype:
        try:
            units = math.ldexp(bound, -exponent)
        except OverflowError:
            units = math.inf
        if units < FLOAT32_UNITS:
            return torch.float32
        if units < FLOAT64_UNITS:
            return torch.float64
        raise ExactnessError(
            f"{what}: sums may reach {units:.3g} grid units and float64 is exact only below {FLOAT64_UNITS:.3g}; use "
            f"{self._remedy}smaller inputs or weights, or fewer levels or wake steps"
        )

    _remedy: ClassVar[str] = ""


@dataclass(frozen=True, repr=False)
class Exact(_OnGrids):
    """Weights snapped to a coarse power-of-two grid, for hardware and for speed; `casc_core.verify` says what that moved.

    Real-valued inputs are rounded to `2**-16`. Every sum of the run is proven exact before it is taken.

    Args:
        weight_bits: bits of a weight, sign included, 2 to 24. Fewer bits are coarser, and cheaper on hardware.
        bias_on_weight_grid: biases and thresholds are on the grid of the weights beside them too: one scale for each layer,
            so that hardware adds its currents to its potentials without a shift, in registers that are up to 14 bits
            narrower. Where several maps add up (a residual), the coarser are still shifted.
    """

    weight_bits: int = 16
    bias_on_weight_grid: bool = field(default=False, metadata={"written": "where it is not the default"})
    input_reach: ClassVar[float] = INPUT_REACH
    _remedy: ClassVar[str] = "fewer weight_bits, "

    def __post_init__(self) -> None:
        if isinstance(self.weight_bits, bool) or not isinstance(self.weight_bits, int):
            raise ConfigError(f"weight_bits must be an integer; got {self.weight_bits!r}")
        if not 2 <= self.weight_bits <= 24:
            raise ConfigError(f"weight_bits must lie in 2..24; got {self.weight_bits!r}")
        if not isinstance(self.bias_on_weight_grid, bool):
            raise ConfigError(f"bias_on_weight_grid must be True or False; got {self.bias_on_weight_grid!r}")

    def __repr__(self) -> str:
        further = ", bias_on_weight_grid=True" if self.bias_on_weight_grid else ""
        return f"Exact(weight_bits={self.weight_bits}{further})"

    @property
    def bias_bits(self) -> int:
        return 0 if self.bias_on_weight_grid else BIAS_BITS

    @property
    def threshold_bits(self) -> int:
        return COARSE_THRESHOLD_BITS if self.bias_on_weight_grid else THRESHOLD_BITS

    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        """The finest grid on which every entry of `weight` is a signed integer of `bits` bits (default: `weight_bits`)."""
        largest = float(weight.abs().max()) if weight.numel() else 0.0
        bits = bits or self.weight_bits
        exponent = binade(largest) - (bits - 1)
        # What rounds up to 2**(bits - 1) takes one bit more.
        fits = round(math.ldexp(largest, -exponent)) < math.ldexp(1.0, bits - 1)
        return exponent if fits else exponent + 1

    def drive(self, x: Tensor, exponent: int | None) -> Tensor:
        """On the grid `2**exponent`."""
        if exponent is None:
            raise ExactnessError(
                f"real-valued inputs enter this network unrounded, and {self} sums them on a grid: convert the trained "
                "model again"
            )
        return on_grid(x, exponent)


@dataclass(frozen=True)
class AsTrained(_OnGrids):
    """The network that was trained: real-valued inputs as they are, weights on the finest grids that are provably exact.

    Between populations, weights, thresholds, biases and initial potentials are on the finest power-of-two grid on which
    every sum is exact in float64: about 40 bits, from the largest row of weights, the thresholds and the levels. What is
    computed of real-valued inputs is rounded to that grid once, where neurons receive it.
    """

    _remedy: ClassVar[str] = 'a conversion for this schedule, a coarser grid (numerics="exact"), '

    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        """A grid for weights of which nothing else is known: it leaves room for the sums of a row."""
        row = float(weight.double().abs().flatten(1).sum(1).max()) if weight.dim() > 1 else largest(weight)
        return binade(row) - SUM_BITS

    def drive(self, x: Tensor, exponent: int | None) -> Tensor:
        """As it is."""
        return x.double()


@dataclass(frozen=True)
class Unrounded(Numerics):
    """No grid, and everything in float64: what a lowering computes before it is put on its grids.

    For `casc_core.verify`, which holds it against the network that was converted.
    """

    is_float64: ClassVar[bool] = True
    is_exact: ClassVar[bool] = False

    def weight_exponent(self, weight: Tensor, bits: int | None = None, arriving: int = 0) -> int:
        """No grid: 0."""
        return 0

    def snap(self, x: Tensor, exponent: int) -> Tensor:
        """`x` in float64, unchanged."""
        return x.double()

    def drive(self, x: Tensor, exponent: int | None) -> Tensor:
        """As it is."""
        return x.double()

    def dtype(self, bound: float, exponent: int, what: str) -> torch.dtype:
        """float64."""
        return torch.float64


def snapped(numerics: Numerics, x: Tensor, bits: int | None, arriving: int = 0) -> tuple[Tensor, int]:
    """`x` on a grid of this many bits, and the coarsest such grid: a half takes one bit, a third takes them all.

    `arriving` is the exponent of the grid of what it will be multiplied with.

    >>> snapped(Exact(), torch.tensor([0.5, -3.0]), 16)[1]
    -1
    """
    exponent = numerics.weight_exponent(x, bits=bits, arriving=arriving)
    on = numerics.snap(x, exponent)
    return on, coarsest(on, exponent)


def coarsest(x: Tensor, exponent: int) -> int:
    """The exponent of the coarsest grid that numbers on that of `exponent` are on; of zeros alone, none finer than 0.

    >>> coarsest(torch.tensor([0.5, -3.0]), -16), coarsest(torch.zeros(2), -16)
    (-1, 0)
    """
    if not bool(x.any()):
        return max(exponent, 0)
    while is_on(x, exponent + 1):
        exponent += 1
    return exponent


def is_on(x: Tensor, exponent: int) -> bool:
    """Whether every entry is a multiple of `2**exponent`."""
    return bool((x * 2.0**-exponent % 1 == 0).all())


def of_bits(weight_bits: int | None) -> Numerics:
    """`Exact` of so many bits; None: `AsTrained`."""
    return AsTrained() if weight_bits is None else Exact(weight_bits)


def as_numerics(numerics: Numerics | str) -> Numerics:
    """`AsTrained()`, `Exact()`, or the one of them named by "as trained" or "exact"."""
    if isinstance(numerics, (AsTrained, Exact)):
        return numerics
    named: dict[str, Numerics] = {"as trained": AsTrained(), "exact": Exact()}
    if not isinstance(numerics, str) or numerics not in named:
        raise ConfigError(
            f"numerics must be 'as trained', 'exact', casc_core.AsTrained() or casc_core.Exact(...); got {numerics!r}"
        )
    return named[numerics]
