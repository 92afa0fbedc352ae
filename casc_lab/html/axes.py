"""Axes of charts: where a value stands, as a share of the axis, and what is written beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# The share of a logarithmic axis below its smallest power of ten, where zeros stand.
_ZERO = 0.12


@dataclass(frozen=True)
class Axis:
    """Where a value stands (0: the start of the axis, 1: its end), and the marks: values and what is written there.

    `zero`: zero is apart from the rest of a logarithmic axis.
    """

    place: Callable[[float], float]
    marks: Sequence[tuple[float, str]]
    zero: bool = False


def linear(values: Sequence[float], limits: tuple[float, float] | None = None, whole: bool = False) -> Axis:
    """From a round number to a round number, zero among them; or between limits. `whole`: marks are whole numbers.

    >>> [name for _, name in linear([0.3, 7.2]).marks], [name for _, name in linear([-3, 0]).marks]
    (['0', '2', '4', '6', '8'], ['-3', '-2', '-1', '0'])
    """
    low, high = limits or (min([0.0, *values]), max([0.0, *values]))
    if high <= low:
        high = low + 1.0
    step = max(round_step((high - low) / 4), 1.0 if whole else 0.0)
    if limits is None:
        low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    marks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(lambda value: (min(max(value, low), high) - low) / (high - low), [(m, number(m)) for m in marks])


def logarithmic(values: Sequence[float]) -> Axis:
    """Powers of ten. Zeros stand on a mark of their own, apart from the rest.

    >>> [name for _, name in logarithmic([0.0, 0.02, 3.0]).marks]
    ['0', '0.01', '0.1', '1', '10']
    """
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive)) + 1e-9), math.ceil(math.log10(max(positive)) - 1e-9)
    high = max(high, low + 1)
    start = _ZERO if any(value <= 0 for value in values) else 0.0

    def place(value: float) -> float:
        return 0.0 if value <= 0 else start + (1 - start) * (math.log10(value) - low) / (high - low)

    powers = range(low, high + 1, math.ceil((high - low) / 5))
    marks = [(10.0**power, number(10.0**power) if -3 <= power <= 4 else f"1e{power}") for power in powers]
    return Axis(place, ([(0.0, "0")] if start else []) + marks, start > 0)


def time(T: int) -> Axis:
    """Steps 1 to T, each doubling as wide as the one before: most happens early.

    >>> [name for _, name in time(6).marks], [name for _, name in time(40).marks]
    (['1', '2', '4', '6'], ['1', '2', '4', '8', '16', '40'])
    """
    marks = [2**power for power in range(T.bit_length()) if 2**power <= T]
    if marks[-1] < T:
        marks = [mark for mark in marks if mark == 1 or T / mark > 1.4] + [T]
    return Axis(
        lambda step: 0.5 if T == 1 else math.log2(step) / math.log2(T), [(float(mark), str(mark)) for mark in marks]
    )


def places(names: Sequence[str]) -> Axis:
    """Places 0, 1, ... with names; where there are many, some of the names.

    >>> [name for _, name in places(["a", "b", "c"]).marks]
    ['a', 'b', 'c']
    """
    count = len(names)
    marks = [(float(index), names[index]) for index in range(0, count, math.ceil(count / 12))]
    return Axis(lambda place: (place + 0.5) / count, marks)


def counting(last: int) -> Axis:
    """Whole numbers from 1 to `last`.

    >>> [name for _, name in counting(24).marks]
    ['1', '5', '10', '15', '20', '24']
    """
    step = max(1, int(round_step(last / 6)))
    inner = [mark for mark in range(step, last, step) if mark > 1 and last - mark >= step / 2]
    marks = [(float(mark), str(mark)) for mark in sorted({1, *inner, last})]
    return Axis(lambda value: 0.5 if last == 1 else (value - 1) / (last - 1), marks)


def round_step(wanted: float) -> float:
    """The smallest of 1, 2, 5, times a power of ten, that is no less.

    >>> round_step(3.0), round_step(0.11)
    (5.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * (1 - 1e-9))


def number(value: float) -> str:
    """A number as an axis shows it.

    >>> number(0.30000000000000004), number(20000.0)
    ('0.3', '20,000')
    """
    return f"{value:,.6g}"
