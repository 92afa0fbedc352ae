"""Sums of real-valued inputs, correct beyond float64 and the same whatever the batch, the threads and the order.

A float is cut into limbs: multiples of fixed powers of two, each of few enough bits that float64 sums their products with
the limbs of the weights exactly, in any order. The few sums of limbs are then added entry by entry, in a fixed order and
with the rounding error of each addition carried along (Knuth's TwoSum; Ogita, Rump and Oishi 2005, "Accurate sum and dot
product"), so that the result is rounded as if once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.signal import inverse, memory_order
from casc_core.numerics import AsTrained, Numerics, binade, largest, on_grid

# A limb of an input has this many bits: two of them hold what float32 has of numbers below 8, down to 2**-41.
LIMB_BITS = 22
_HIGHEST = 3
# What is smaller than this is nothing.
_LOWEST = -400
# Products of two limbs, of which so many are summed, stay below 2**53.
_TERMS_AT_ONCE = 2**8
# Sums are taken of about so many entries at a time.
AT_ONCE = 2**18


def limbs(x: Tensor) -> Iterator[Tensor]:
    """Parts of `x`, float64, that add up to it exactly, largest first: each is cut off at a fixed power of two.

    Where a number is cut depends on nothing else than that number.

    >>> import torch
    >>> [float(limb) for limb in limbs(torch.tensor(1.0 + 2.0**-30, dtype=torch.float64))]
    [1.0, 9.313225746154785e-10]
    """
    rest = x.double()
    while (reach := largest(rest)) > 2.0**_LOWEST:
        place = _place(reach)
        limb = rest.mul(2.0**-place).trunc_().mul_(2.0**place)
        yield limb
        rest = rest - limb


def limb_places(reach: float, grid: int, bits: int = LIMB_BITS) -> list[int]:
    """The exponents at which numbers up to this magnitude, on the grid `2**grid`, are cut into limbs of so many bits.

    Of `LIMB_BITS`, they are those at which `limbs` cuts.

    >>> limb_places(16.0, 0), limb_places(1.0, -40)
    ([3, -19], [-19, -41])
    """
    places = [_place(reach, bits)]
    while places[-1] > grid:
        places.append(places[-1] - bits)
    return places


def matrix_limb_bits(terms: int) -> int:
    """Of how many bits limbs are, so many of whose products with each other float64 sums exactly.

    >>> matrix_limb_bits(1), matrix_limb_bits(256), matrix_limb_bits(5000)
    (22, 22, 20)
    """
    return min(LIMB_BITS, (53 - (terms - 1).bit_length()) // 2)


def _place(reach: float, bits: int = LIMB_BITS) -> int:
    """Where the largest limb of numbers up to this magnitude is cut off."""
    # Every number is smaller than 2**below, and the largest no smaller than half of it.
    below = math.frexp(reach)[1]
    return _HIGHEST + bits * ((below - 1 - _HIGHEST) // bits)


def weight_limbs(weight: Tensor) -> list[Tensor]:
    """Parts of `weight`, outputs first, whose products with a limb of an input float64 sums exactly; at least one."""
    rest = weight.double()
    parts: list[Tensor] = []
    while not parts or largest_row(rest) > 2.0**_LOWEST:
        place = binade(largest_row(rest)) - (52 - LIMB_BITS)
        limb = rest.mul(2.0**-place).trunc_().mul_(2.0**place)
        parts.append(limb)
        rest = rest - limb
    return parts


def exact_product(
    numerics: Numerics,
    x: Tensor,
    weight: Tensor,
    exponent: int,
    weight_exponent: int,
    name: str,
    product: Callable[[Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    """`product(x, weight)` in float64, the same bits in whatever order it is summed.

    Args:
        exponent, weight_exponent: of the grids that `x` and `weight` are on, where the numerics round them to grids.
        name: that an error gives.
        product: where `x` has more dimensions than one, it treats each entry of dimension 0 alike.
    """
    weight = weight.double()
    if isinstance(numerics, AsTrained):
        return exact_sum(x, weight_limbs(weight), product)
    if not numerics.is_exact:
        return product(x, weight)
    return _on_grids(numerics, x, weight, exponent, weight_exponent, name, product)


def exact_sum(
    x: Tensor, parts: Sequence[Tensor], product: Callable[[Tensor, Tensor], Tensor], by_row: bool = True
) -> Tensor:
    """`product(x, weight)` of the weights of which these are the `weight_limbs`, rounded as if once.

    Args:
        by_row: `product` treats each entry of dimension 0 alike, where `x` has more dimensions than one.
    """

    def summed(x: Tensor) -> Tensor:
        return _added((product(limb, part) for limb in limbs(x) for part in parts), lambda: product(x, parts[0]))

    if x.dim() == 1 or not by_row:
        return summed(x)
    return _by_rows(summed, x, _at_once(x.shape, len(parts[0]) / parts[0].shape[1]))


def exact_matrices(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of matrices `[n, rows, terms]` and `[n, terms, columns]`, float64, each entry rounded as if once.

    Both are cut into limbs at fixed places, and the terms into runs of a fixed length whose products float64 sums exactly,
    so an entry depends on nothing but its own row and column.
    """

    def products() -> Iterator[Tensor]:
        for start in range(0, a.shape[-1], _TERMS_AT_ONCE):
            others = list(limbs(b[..., start : start + _TERMS_AT_ONCE, :]))
            for one in limbs(a[..., start : start + _TERMS_AT_ONCE]):
                yield from (one @ other for other in others)

    return _added(products(), lambda: (a @ b).double().zero_())


def whole_sums(numerics: Numerics, x: Tensor, sums: Callable[[Tensor], Tensor], by_row: bool = False) -> Tensor:
    """`sums(x)`, sums of entries times whole numbers, the same bits in whatever order they are taken.

    With `Exact`, `x` is on a grid on which they are exact.

    Args:
        by_row: `sums` treats each entry of dimension 0 alike.
    """
    if not isinstance(numerics, AsTrained):
        return sums(x)

    def summed(x: Tensor) -> Tensor:
        return _added((sums(limb) for limb in limbs(x)), lambda: sums(x))

    return _by_rows(summed, x, _at_once(x.shape)) if by_row else summed(x)


def room_for_sums(numerics: Numerics, shape: torch.Size, given: int, growth: float = 1.0, by_row: bool = True) -> int:
    """Bytes that exact sums take beside `x` of this shape and the result, of so many entries.

    Args:
        growth: of a product, how many outputs its weights have for each input.
        by_row: each entry of dimension 0 is treated alike.
    """
    if not isinstance(numerics, AsTrained):
        return 0
    part = min(1.0, _at_once(shape, growth) / max(1, shape[0])) if by_row and shape else 1.0
    # A limb and the rest; the total before and after, what a product takes and gives, and what has been lost.
    return math.ceil(8 * part * (3 * shape.numel() + 6 * given))


def _at_once(shape: torch.Size, growth: float = 1.0) -> int:
    """How many entries of dimension 0 are summed at a time: what is made of them is to stay in a cache."""
    return max(1, int(AT_ONCE / max(1.0, math.prod(shape[1:]) * max(1.0, growth))))


def _by_rows(summed: Callable[[Tensor], Tensor], x: Tensor, at_once: int) -> Tensor:
    """`summed(x)`, so many entries of dimension 0 at a time; where they only repeat one entry, of this one alone."""
    rows = len(x)
    if rows > 1 and x.stride(0) == 0:
        one = summed(x[:1])
        return one.expand(rows, *one.shape[1:])
    if rows <= at_once:
        return summed(x)
    first = summed(x[:at_once])
    order = memory_order(first) or tuple(range(first.dim()))
    shape = rows, *first.shape[1:]
    result = first.new_empty([shape[dim] for dim in order]).permute(inverse(order))
    result[:at_once] = first
    for start in range(at_once, rows, at_once):
        result[start : start + at_once] = summed(x[start : start + at_once])
    return result


def _added(sums: Iterator[Tensor], nothing: Callable[[], Tensor]) -> Tensor:
    """The sum of exact sums, rounded as if once; of none of them, what `nothing` gives."""
    total: Tensor | None = None
    error: Tensor | None = None
    for each in sums:
        if total is None:
            total = each
            continue
        before, total = total, total + each
        seen = total - before
        lost = each - seen
        del each
        lost.add_(seen.neg_().add_(total).neg_().add_(before))  # before - (total - seen)
        error = lost if error is None else error.add_(lost)
    if total is None:
        return nothing()
    return total if error is None else total.add_(error)


def _on_grids(
    numerics: Numerics,
    x: Tensor,
    weight: Tensor,
    exponent: int,
    weight_exponent: int,
    name: str,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Of numbers on grids: where one product could round, the weights are split into two limbs.

    Each limb's product is exact; only their sum, one addition for each result, is rounded.
    """
    grid = exponent + weight_exponent
    reach = largest(x)
    excess = _excess(reach, weight, grid)
    if excess <= 0:
        return product(x, weight)
    high = on_grid(weight, weight_exponent + excess)
    low = weight - high
    numerics.dtype(reach * largest_row(high), grid + excess, name)
    numerics.dtype(reach * largest_row(low), grid, name)
    return product(x, high) + product(x, low)


def is_exact_in_one(reach: float, weight: Tensor, grid: int) -> bool:
    """Whether float64 holds the sums of products of weights with inputs up to `reach`, all on the grid `2**grid`."""
    return _excess(reach, weight, grid) <= 0


def _excess(reach: float, weight: Tensor, grid: int) -> int:
    """How many bits more than float64 has the sums may take."""
    return binade(reach * largest_row(weight)) - grid - 52


def largest_row(weight: Tensor) -> float:
    """The largest sum of magnitudes of the weights that one output has."""
    return float(weight.double().abs().flatten(1).sum(1).max())
