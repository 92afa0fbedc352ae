"""What operations are made from: kinds and ranges of their settings, types and shapes of their tensors.

An operation declares both (`Op.SETTINGS`, `Op.TENSORS`), and is checked against them whenever one is made, by a rule or
from a file: what a kernel will be given is known to fit before any runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType, MappingProxyType
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import ConfigError
from casc_core.numerics import largest

Shape = tuple[str | int | EllipsisType, ...]
"""Of a tensor: a number, or a name for a size, the same wherever the operation says it; `...` for any dimensions."""


_REQUIRED = object()


class Kind(ABC):
    """What one setting may be: some of the values that JSON has."""

    default: Any = _REQUIRED
    """What it is where it is not given."""

    @abstractmethod
    def wrong(self, value: Any) -> str | None:
        """What `value` should have been, if it is something else."""


@dataclass(frozen=True)
class Whole(Kind):
    """An integer in `least..most`.

    >>> Whole(1, 8).wrong(3), Whole(1, 8).wrong(3.0), Whole(1, 8).wrong(True)
    (None, 'an integer in 1..8', 'an integer in 1..8')
    """

    least: int
    most: int

    def wrong(self, value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and self.least <= value <= self.most else f"an integer in {self.least}..{self.most}"


@dataclass(frozen=True)
class Positive(Kind):
    """A finite number above 0."""

    def wrong(self, value: Any) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and 0 < value <= LARGEST else f"a number above 0, at most {LARGEST:g}"


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    def wrong(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "True or False"


@dataclass(frozen=True)
class Text(Kind):
    """A string."""

    def wrong(self, value: Any) -> str | None:
        return None if isinstance(value, str) else "a string"


@dataclass(frozen=True)
class OneOf(Kind):
    """One of these."""

    choices: Collection[Any]

    def wrong(self, value: Any) -> str | None:
        known = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value in self.choices
        shown = sorted(map(repr, self.choices))
        return None if known else f"one of {', '.join(shown[:12])}{', ...' if len(shown) > 12 else ''}"


@dataclass(frozen=True)
class Several(Kind):
    """A list of `least..most` of one kind."""

    each: Kind
    least: int
    most: int

    def wrong(self, value: Any) -> str | None:
        listed = isinstance(value, list) and self.least <= len(value) <= self.most
        count = str(self.least) if self.least == self.most else f"{self.least}..{self.most}"
        if not listed:
            return f"a list of {count}"
        return next((f"a list of {wrong}" for item in value if (wrong := self.each.wrong(item))), None)


@dataclass(frozen=True)
class OrNone(Kind):
    """One of a kind, or None."""

    kind: Kind
    default: Any = field(default=None, init=False)

    def wrong(self, value: Any) -> str | None:
        wrong = None if value is None else self.kind.wrong(value)
        return None if wrong is None else f"{wrong}, or None"


@dataclass(frozen=True)
class Otherwise(Kind):
    """One of a kind; `default` where it is not given."""

    kind: Kind
    default: Any

    def wrong(self, value: Any) -> str | None:
        return self.kind.wrong(value)


LARGEST = 2.0**400
_WITHIN_FLOAT32 = -60
EXPONENT = Whole(-400, 400)
"""Of a grid. Sums of two, as those of a product, are still exponents of float64."""
GRIDS = Otherwise(OrNone(Several(EXPONENT, 2, 2)), None)
"""Of what is rounded: the exponents of the grids of what arrives and of the result; None: it is not rounded."""
# No window of a network is larger; a network that says so would run for hours.
WINDOW = Whole(1, 2**12)
PADDING = Whole(0, 2**12)
NAME = Text()

REAL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Numbers:
    """What one tensor may be.

    Args:
        shapes: it has one of these; none of its sizes is 0.
        grid: the setting whose power of two all its numbers are multiples of; None: of none in particular.
        optional: it may be missing.
        types: of its numbers.
        finite: whether infinite ones and NaN are refused.
    """

    shapes: tuple[Shape, ...] = ((...,),)
    grid: str | None = None
    optional: bool = False
    types: Collection[torch.dtype] = REAL
    finite: bool = True


def settings(**kinds: Kind) -> Mapping[str, Kind]:
    """The settings of an operation, by name."""
    return MappingProxyType(kinds)


def tensors(**numbers: Numbers) -> Mapping[str, Numbers]:
    """The tensors of an operation, by name."""
    return MappingProxyType(numbers)


def bind(
    kind: str,
    declared: Mapping[str, Kind],
    numbers: Mapping[str, Numbers],
    values: Sequence[Any],
    named: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    """Settings and tensors as an operation is made from them: by name, or in the order of the declarations, settings first.

    Tuples become lists, which JSON has. An optional tensor that is not given is None.

    Raises:
        ConfigError: there are more values than declarations, or one is given twice.

    >>> bind("Pool", {"kernel": Several(Whole(1, 8), 2, 2), "below": OrNone(Positive())}, {}, [(3, 3)], {})
    ({'kernel': [3, 3], 'below': None}, {})
    """
    names = [*declared, *numbers]
    if len(values) > len(names):
        raise ConfigError(f"{kind}: it takes {', '.join(names) or 'nothing'}; got {len(values)} values")
    given = dict(zip(names, values, strict=False))
    twice = sorted(given.keys() & named.keys())
    if twice:
        raise ConfigError(f"{kind}: {twice[0]!r} is given twice")
    given |= named
    tensors = {name: given.pop(name, None) for name in numbers if name in given or numbers[name].optional}
    settings = {name: each.default for name, each in declared.items() if each.default is not _REQUIRED} | given
    ordered = {name: settings.pop(name) for name in declared if name in settings} | settings
    return {name: list(value) if isinstance(value, tuple) else value for name, value in ordered.items()}, tensors


def check_settings(kind: str, declared: Mapping[str, Kind], given: Mapping[str, Any]) -> None:
    """Refuse settings that are not as declared.

    Raises:
        ConfigError: one is missing, too many, or of another kind or range.

    >>> check_settings("Pool", {"kernel": Whole(1, 8)}, {"kernel": 9})
    Traceback (most recent call last):
    ...
    casc_core.errors.ConfigError: Pool: 'kernel' must be an integer in 1..8; got 9
    """
    _check_names(kind, "setting", declared, given)
    for name, value in given.items():
        wrong = declared[name].wrong(value)
        if wrong is not None:
            raise ConfigError(f"{kind}: {name!r} must be {wrong}; got {value!r:.80}")


def check_tensors(kind: str, declared: Mapping[str, Numbers], given: Mapping[str, Tensor | None]) -> None:
    """Refuse tensors that are not as declared, or whose sizes do not fit each other.

    Raises:
        ConfigError: one is missing, too many, or of another type or shape, or holds a number that is not finite.

    >>> square = {"weight": Numbers((("n", "n"),))}
    >>> check_tensors("Recurrence", square, {"weight": torch.ones(2, 3)})
    Traceback (most recent call last):
    ...
    casc_core.errors.ConfigError: Recurrence: 'weight' must be [n, n]; got [2, 3]
    """
    _check_names(kind, "tensor", declared, given)
    sizes: dict[str, int] = {}
    for name, tensor in given.items():
        numbers = declared[name]
        if tensor is None:
            if not numbers.optional:
                raise ConfigError(f"{kind}: the tensor {name!r} is missing")
            continue
        if tensor.dtype not in numbers.types:
            raise ConfigError(f"{kind}: {name!r} cannot be of type {tensor.dtype}")
        fits = (_fitted(tensor.shape, shape, sizes) for shape in numbers.shapes)
        found = next((known for known in fits if known is not None), None)
        if found is None:
            wanted = " or ".join(_shown(shape) for shape in numbers.shapes)
            where = f" where {', '.join(f'{key} is {size}' for key, size in sizes.items())}" if sizes else ""
            raise ConfigError(f"{kind}: {name!r} must be {wanted}{where}; got {list(tensor.shape)}")
        sizes |= found
        if numbers.finite and tensor.dtype.is_floating_point and not math.isfinite(largest(tensor)):
            raise ConfigError(f"{kind}: {name!r} holds a number that is not finite")


def is_on_grid(value: Tensor | float, exponent: int) -> bool:
    """Whether all of it is multiples of `2**exponent`.

    >>> is_on_grid(0.75, -2), is_on_grid(torch.tensor([0.75]), -1)
    (True, False)
    """
    if isinstance(value, Tensor):
        # A power of two scales exactly in any type that holds the result.
        units = (value if _WITHIN_FLOAT32 <= exponent <= 0 else value.double()) * 2.0**-exponent
        return bool((units == units.round()).all())
    return float(value * 2.0**-exponent).is_integer()


def _check_names(kind: str, what: str, declared: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing, surplus = sorted(declared.keys() - given.keys()), sorted(given.keys() - declared.keys())
    if missing:
        raise ConfigError(f"{kind}: the {what} {missing[0]!r} is missing")
    if surplus:
        raise ConfigError(f"{kind}: it declares no {what} {surplus[0]!r:.80}")


def _fitted(found: torch.Size, shape: Shape, known: Mapping[str, int]) -> dict[str, int] | None:
    """The named sizes, if the shape is such a one and they agree with those known; else None."""
    if any(size < 1 for size in found):
        return None
    if ... in shape:
        return {}
    if len(found) != len(shape):
        return None
    sizes: dict[str, int] = {}
    for size, wanted in zip(found, shape, strict=True):
        expected = known.get(wanted, sizes.get(wanted, size)) if isinstance(wanted, str) else wanted
        if size != expected:
            return None
        if isinstance(wanted, str):
            sizes[wanted] = size
    return sizes


def _shown(shape: Shape) -> str:
    return f"[{', '.join('...' if size is ... else str(size) for size in shape)}]"
