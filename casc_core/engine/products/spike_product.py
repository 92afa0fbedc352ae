"""Products of trains with weights: one interface, several ways, the same bits from each.

A train of spikes or counts times weights on a grid is a sum of integers, so every way that provably holds the sum gives
the same result. Which is cheapest depends on the processor, the shape and how many neurons spike; `Product` measures
the first once and counts the last.

- "float": one dense product in float32 or float64, whichever the proof asks for.
- "int8": weights cut into int8 limbs, each multiplied into int32 sums; the limbs' sums are put together afterwards.
- "rows": only the weights of neurons that spike are added (`casc_core.engine.kernels.rows`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import PackedWeights, Rounding
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.numerics import FLOAT64_UNITS

WAYS = ("float", "int8", "rows")
# Below this many multiply-adds a choice would cost more than it saves.
WORTH_CHOOSING = 2_000_000
# Every sample is looked at if there are no more; of larger batches as many, evenly spaced.
_LOOKED_AT = 32
_LIMB = 256

# What `only` asks for in this thread: nothing, or one way.
_forced: ContextVar[tuple[str, ...]] = ContextVar("forced", default=())


@contextmanager
def only(way: str) -> Iterator[None]:
    """Take this way in this thread wherever it is exact and available, "float" elsewhere; the bits are the same."""
    if way not in WAYS:
        raise ValueError(f"a product is one of {WAYS}; got {way!r}")
    before = _forced.set((way,))
    try:
        yield
    finally:
        _forced.reset(before)


class Product:
    """Products with one matrix; what it prepares from the weights is kept for the next call."""

    def __init__(self) -> None:
        self._cache = WeightCache()

    def __call__(self, train: Tensor, weight: Tensor, exponent: int, peak: float, dtype: torch.dtype) -> Tensor:
        """`train @ weight.T`, `[steps, ..., outputs]`.

        Args:
            train: `[steps, ..., inputs]`, of magnitude up to `peak`.
            weight: `[outputs, inputs]`, multiples of `2**exponent`.
            dtype: a floating type that provably holds every sum of the product.
        """
        if train.dtype != torch.int8 or train.device.type != "cpu" or peak > kernels.LARGEST_COUNT or not train.numel():
            return F.linear(train.to(dtype), weight.to(dtype))
        largest = math.ceil(peak)
        packed = self.packed(weight, exponent, largest) if kernels.ready(train) else None
        worth_it = bool(_forced.get()) or train.numel() * weight.shape[0] >= WORTH_CHOOSING
        fits = train.shape[-1] * largest * _LIMB // 2 <= kernels.INT32_UNITS  # the sums of each limb
        limbs = self._limbs(weight, exponent) if worth_it and fits and _int8_is_exact() else None
        steps, dense = self._plan(train, weight, packed, limbs, dtype)
        parts: list[Tensor] = []
        if steps and limbs is not None and dense == "int8":
            parts.append(_by_limbs(train[:steps], limbs, largest, dtype))
        elif steps:
            parts.append(F.linear(train[:steps].to(dtype), weight.to(dtype)))
        if packed is not None and steps < len(train):
            parts.append(kernels.rows(packed, train[steps:], dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _plan(
        train: Tensor, weight: Tensor, packed: PackedWeights | None, limbs: Limbs | None, dtype: torch.dtype
    ) -> tuple[int, str]:
        """How many steps go by a dense product, and which; the sparser steps that follow go by rows."""
        forced = _forced.get()
        if forced:
            by_rows = forced[0] == "rows" and packed is not None
            return (0 if by_rows else len(train)), forced[0]
        operations = train[0].numel() * weight.shape[0]
        if len(train) * operations < WORTH_CHOOSING:
            return (len(train) if packed is None else 0), "float"
        dense, seconds = _cheapest_dense(operations, limbs, dtype)
        return (len(train) if packed is None else _dense_steps(train, packed, seconds)), dense

    def packed(
        self, weight: Tensor, exponent: int, peak: int, rounding: Rounding | None = None
    ) -> PackedWeights | None:
        """`kernels.pack` of the weights, kept."""
        key = ("rows", peak, exponent, rounding)
        return self._cache(weight, key, lambda: kernels.pack(weight, exponent, peak, rounding))

    def _limbs(self, weight: Tensor, exponent: int) -> Limbs | None:
        return self._cache(weight, ("limbs", 0), lambda: limbs_of(weight, exponent))


@dataclass(frozen=True)
class Limbs:
    """`weight = 2**exponent * sum_i 256**i limbs[i]`; each limb `[inputs, outputs]` int8; `reach`: largest row of sums."""

    limbs: tuple[Tensor, ...]
    exponent: int
    reach: float


def limbs_of(weight: Tensor, exponent: int) -> Limbs | None:
    """The int8 limbs of weights on the grid `2**exponent`: digits -128..127 in base 256, as few as hold the largest.

    >>> limbs_of(torch.tensor([[1.0, -300.0]]), 0).limbs[1]
    tensor([[ 0],
            [-1]], dtype=torch.int8)
    """
    rest = weight.detach().double().T * 2.0**-exponent
    if not bool((rest == rest.round()).all()) or float(rest.abs().max()) >= FLOAT64_UNITS:
        return None
    limbs: list[Tensor] = []
    reach = float(rest.abs().sum(0).max())
    while not limbs or bool(rest.any()):
        digit = torch.remainder(rest + _LIMB // 2, _LIMB) - _LIMB // 2
        rest = (rest - digit) / _LIMB
        limbs.append(_with_usual_strides(digit.to(torch.int8)))
    return Limbs(tuple(limbs), exponent, reach)


def _by_limbs(train: Tensor, limbs: Limbs, peak: int, dtype: torch.dtype) -> Tensor:
    flat = _with_usual_strides(train.reshape(-1, train.shape[-1]))
    # Where the result fits int32, a sum may wrap around on the way to it.
    kind = torch.int32 if limbs.reach * peak <= kernels.INT32_UNITS else torch.float64
    total: Tensor | None = None
    for limb in reversed(limbs.limbs):
        part = torch._int_mm(flat, limb).to(kind)
        total = part if total is None else total.mul_(_LIMB).add_(part)
    assert total is not None
    return total.to(dtype).mul_(2.0**limbs.exponent).reshape(*train.shape[:-1], -1)


def _with_usual_strides(matrix: Tensor) -> Tensor:
    """The matrix laid out row by row. `contiguous` leaves the stride of a dimension of size 1 as it is, from which
    `torch._int_mm` (2.13, CPU) then reads a wrong row length."""
    usual = (matrix.shape[1], 1)
    return matrix if matrix.stride() == usual else torch.empty(matrix.shape, dtype=matrix.dtype).copy_(matrix)


@cache
def _int8_is_exact() -> bool:
    """Whether `torch._int_mm` is there and sums the largest entries without saturating, as some processors' int8 does.

    Libraries choose their method by shape, so a small product and a large one are tried.
    """
    try:
        for rows, inner, columns in ((32, 64, 32), (256, 300, 256)):
            x = torch.full((rows, inner), 127, dtype=torch.int8)
            x[rows // 2 :] = -128
            y = torch.full((inner, columns), -128, dtype=torch.int8)
            y[:, columns // 2 :] = 127
            if not torch.equal(torch._int_mm(x, y).double(), x.double() @ y.double()):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True


@dataclass(frozen=True)
class Speeds:
    """Seconds for one multiply-add of each dense way, and of one weight in a row that is added."""

    float32: float
    float64: float
    int8: float
    row: float


@cache
def speeds(threads: int) -> Speeds:
    """Measured on this processor, on this number of threads; takes a few hundredths of a second, once."""
    m, n = 256, 256
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-(2**14), 2**14, (n, n), generator=generator).double()
    train = (torch.rand(1, m, n, generator=generator) < 0.25).to(torch.int8)
    single, double, limb = weight.float(), weight, limbs_of(weight.clamp(-128, 127), 0)
    assert limb is not None
    operations = m * n * n
    row = float("inf")
    packed = kernels.pack(weight, 0, 1) if kernels.ready() else None
    if packed is not None:
        row = _seconds(lambda: kernels.rows(packed, train, torch.float32)) / (
            sum(kernels.count_rows(packed, train, 1)) * n
        )
    spikes = train[0]
    return Speeds(
        _seconds(lambda: F.linear(spikes.float(), single)) / operations,
        _seconds(lambda: F.linear(spikes.double(), double)) / operations,
        _seconds(lambda: _by_limbs(spikes, limb, 1, torch.float32)) / operations if _int8_is_exact() else float("inf"),
        row,
    )


def _seconds(call: Callable[[], object], repeats: int = 3) -> float:
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _cheapest_dense(operations: int, limbs: Limbs | None, dtype: torch.dtype) -> tuple[str, float]:
    """The cheaper dense way for this many multiply-adds, and its seconds."""
    measured = speeds(torch.get_num_threads())
    ways = {"float": measured.float32 if dtype == torch.float32 else measured.float64}
    if limbs is not None:
        ways["int8"] = measured.int8 * len(limbs.limbs)
    way = min(ways, key=ways.__getitem__)
    return way, ways[way] * operations


def _dense_steps(train: Tensor, packed: PackedWeights, dense: float) -> int:
    """How many steps from the first are cheaper dense, at `dense` seconds each, the others going by rows."""
    samples = train[0].numel() // packed.inputs
    by = -(-samples // _LOOKED_AT)
    looked_at = len(range(0, samples, by))
    row = speeds(torch.get_num_threads()).row * packed.values.shape[1] * samples / looked_at
    costs = [count * row for count in kernels.count_rows(packed, train, by)]
    totals = [dense * steps + sum(costs[steps:]) for steps in range(len(costs) + 1)]
    return totals.index(min(totals))
