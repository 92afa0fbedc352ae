"""JSON from a file that anyone may have written: read strictly, and taken apart without surprises."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeVar

T = TypeVar("T")
# Deeper than anything that we write, and far from what a recursive reader can bear.
_DEEPEST = 40


def parsed(text: str, finite: bool = True) -> Any:
    """The value in a JSON text.

    Args:
        finite: refuse `NaN` and `Infinity`, which JSON does not have.

    Raises:
        ValueError: it is malformed, names a key twice, holds an integer beyond 64 bits, or is nested too deeply.

    >>> parsed('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parsed('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: 'a' stands twice in one object
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_once,
            parse_int=_integer,
            parse_constant=_refused if finite else None,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value, _DEEPEST)
    return value


def record(value: Any, names: Collection[str], what: str) -> dict[str, Any]:
    """`value`, if it is an object with exactly these fields.

    Raises:
        ValueError: it is not.

    >>> record({"q": 2, "p": 3}, ("q",), "settings")
    Traceback (most recent call last):
    ...
    ValueError: settings: there is no field 'p'
    """
    found = of(dict, value, what)
    for name in sorted(names):
        if name not in found:
            raise ValueError(f"{what}: the field {name!r} is missing")
    for name in found:
        if name not in names:
            raise ValueError(f"{what}: there is no field {name!r:.80}")
    return found


def of(kind: type[T], value: Any, what: str) -> T:
    """`value`, if it is of this type; no bool is an int.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{what} must be {_NAMES.get(kind, kind.__name__)}; got {value!r:.80}")
    return value


def strings(value: Any, what: str) -> list[str]:
    """`value`, if it is a list of strings, none of them twice.

    Raises:
        ValueError: it is not.
    """
    found = [of(str, item, f"each of {what}") for item in of(list, value, what)]
    if len(set(found)) < len(found):
        raise ValueError(f"{what} names something twice: {found!r:.200}")
    return found


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.80} stands twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"the integer {digits:.40} is beyond 64 bits")
    return int(digits)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
