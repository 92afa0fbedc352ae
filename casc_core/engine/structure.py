"""What a forward returns: one output, or a tuple, list, dict, named tuple or dataclass of outputs, nested as they may be.

The outputs are numbered; a structure says where each of them stands. It is saved by kinds and names, never as code: the
named tuples and dataclasses of a loaded network are made anew, of the same names.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from casc_core.storage.strict import of, record

SINGLE = "logits"
"""The name of an output that is all that a forward returns."""


@dataclass(frozen=True)
class Output:
    """One of the outputs, by its number."""

    number: int


ONE = Output(0)
"""The structure of a single output."""


@dataclass(frozen=True)
class Fixed:
    """What is no tensor, and the same whatever the inputs are: None, a number, a string."""

    value: bool | int | float | str | None


@dataclass(frozen=True)
class Container:
    """A container of outputs.

    Attributes:
        kind: one of `KINDS`.
        keys: of its items: of a tuple or list their places, of a record its fields.
        items: what stands there.
        name: of a record, its class's.
        make: a record of these fields; None: one made for the name.
    """

    kind: str
    keys: tuple[str | int, ...]
    items: tuple[Structure, ...]
    name: str = ""
    make: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def record(self) -> Callable[..., Any]:
        """What makes a record of these fields."""
        if self.make is not None:
            return self.make
        fields = [str(key) for key in self.keys]
        return (
            namedtuple(self.name, fields)
            if self.kind == "named tuple"
            else dataclasses.make_dataclass(self.name, fields)
        )

    def holding(self, items: Sequence[Any]) -> Any:
        """The container with these items."""
        return KINDS[self.kind](self, items)

    def items_of(self, value: Any) -> list[Any]:
        """The items of a container like this one.

        Raises:
            ValueError: it is not like this one.
        """
        fits, items = False, []
        if self.kind in ("tuple", "list"):
            fits = isinstance(value, (tuple, list)) and len(value) == len(self.keys)
            items = list(value) if fits else []
        elif self.kind in ("dict", "ordered dict"):
            fits = isinstance(value, Mapping) and set(value) == set(self.keys)
            items = [value[key] for key in self.keys] if fits else []
        else:
            fits = all(hasattr(value, str(key)) for key in self.keys)
            items = [getattr(value, str(key)) for key in self.keys] if fits else []
        if not fits:
            raise ValueError(f"a {type(value).__name__} where there is {described(self)}")
        return items


Structure = Output | Fixed | Container


@dataclass(frozen=True)
class Record:
    """A dataclass of outputs while a forward is read: `kind` called with these fields."""

    kind: type
    fields: Mapping[str, Any]


def _dataclass(container: Container, items: Sequence[Any]) -> Any:
    fields = dict(zip(map(str, container.keys), items, strict=True))
    declared = getattr(container.record, "__dataclass_fields__", {})
    made = container.record(**{name: each for name, each in fields.items() if declared[name].init})
    for name, each in fields.items():  # whatever it made of them when it was made, it has made of them before
        if getattr(made, name, None) is not each:
            object.__setattr__(made, name, each)
    return made


KINDS: dict[str, Callable[[Container, Sequence[Any]], Any]] = {
    "tuple": lambda container, items: tuple(items),
    "list": lambda container, items: list(items),
    "dict": lambda container, items: dict(zip(container.keys, items, strict=True)),
    "ordered dict": lambda container, items: OrderedDict(zip(container.keys, items, strict=True)),
    "named tuple": lambda container, items: container.record(*items),
    "dataclass": _dataclass,
}
"""How each kind of container is made of its items."""


def structure_of(
    value: Any, number: Callable[[Any], int], opened: Callable[[Any], Any] = lambda value: value
) -> Structure:
    """The structure of what a forward returns.

    Args:
        value: of which every tensor is what stands for it.
        number: the number of an output.
        opened: gives the container that a value stands for, or the value.

    Raises:
        ValueError: a key of a dict is neither a string nor an integer, or a record cannot be made of its fields.
    """
    value = opened(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return Fixed(value)
    name, make = type(value).__name__, None
    kind: str
    keys: list[str | int]
    if isinstance(value, Record):
        kind, keys, items = "dataclass", list(value.fields), list(value.fields.values())
        name, make = value.kind.__name__, value.kind
    elif isinstance(value, dict):
        kind = "ordered dict" if isinstance(value, OrderedDict) else "dict"
        keys, items = list(value), list(value.values())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        kind, keys, items, make = "named tuple", list(value._fields), list(value), type(value)
    elif isinstance(value, (tuple, list)):
        kind, keys, items = "tuple" if isinstance(value, tuple) else "list", list(range(len(value))), list(value)
    else:
        return Output(number(value))
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise ValueError(f"keys of a dict of outputs are strings or integers; one is {key!r:.80}")
    below = tuple(structure_of(item, number, opened) for item in items)
    container = Container(kind, tuple(keys), below, name if make is not None else "", make)
    try:
        container.holding(items)
    except Exception as error:  # whatever the user's class raises
        raise ValueError(
            f"a {name} cannot be made of its fields, {', '.join(map(str, keys))}: {type(error).__name__}: {error}"
        ) from error
    return container


def outputs_in(structure: Structure) -> Iterator[tuple[int, str]]:
    """Number and name of the outputs, in their order; one that stands at two places comes twice.

    A name is where it stands: keys, places and fields from the outside in.

    >>> list(outputs_in(Container("dict", ("a", 3), (Container("tuple", (0, 1), (Output(0), Output(2))), Output(1)))))
    [(0, 'a.0'), (2, 'a.1'), (1, '3')]
    """
    if isinstance(structure, Output):
        yield structure.number, SINGLE
    elif isinstance(structure, Container):
        for key, item in zip(structure.keys, structure.items, strict=True):
            for number, name in outputs_in(item):
                yield number, str(key) if isinstance(item, Output) else f"{key}.{name}"


def names_of(structure: Structure) -> tuple[str, ...]:
    """The names of the outputs, by number, no two alike."""
    names: dict[int, str] = {}
    for number, name in outputs_in(structure):
        unique, count = name, 1
        while unique in names.values():
            count += 1
            unique = f"{name}#{count}"
        names.setdefault(number, unique)
    return tuple(names[number] for number in range(len(names)))


def holding(structure: Structure, outputs: Sequence[Any]) -> Any:
    """The structure with these outputs, by number.

    >>> holding(Container("list", (0, 1), (Output(0), Fixed(None))), ["the first"])
    ['the first', None]
    """
    if isinstance(structure, Output):
        return outputs[structure.number]
    if isinstance(structure, Fixed):
        return structure.value
    return structure.holding([holding(item, outputs) for item in structure.items])


def outputs_of(structure: Structure, value: Any) -> list[Any]:
    """The outputs in a value of this structure, by number.

    Raises:
        ValueError: it has another structure.

    >>> outputs_of(Container("dict", ("a", "b"), (Output(1), Output(0))), {"a": "x", "b": "y"})
    ['y', 'x']
    """
    found: dict[int, Any] = {}

    def visit(structure: Structure, value: Any) -> None:
        if isinstance(structure, Output):
            found.setdefault(structure.number, value)
        elif isinstance(structure, Container):
            for item, own in zip(structure.items, structure.items_of(value), strict=True):
                visit(item, own)

    visit(structure, value)
    return [found[number] for number in range(len(found))]


@dataclass(frozen=True)
class Returned:
    """What a forward returns, and which of it neurons compute.

    Attributes:
        structure: where each output stands in it.
        read_out: by number, whether neurons compute it; else the inputs, parameters and buffers alone decide it.
    """

    structure: Structure
    read_out: tuple[bool, ...]

    @property
    def is_single(self) -> bool:
        """Whether it is one output and nothing else."""
        return isinstance(self.structure, Output)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the outputs are called, by number."""
        return names_of(self.structure)

    @cached_property
    def readouts(self) -> tuple[str, ...]:
        """What those are called that neurons compute."""
        return tuple(name for name, is_read_out in zip(self.names, self.read_out, strict=True) if is_read_out)

    def readouts_in(self, value: Any) -> dict[str, Any]:
        """By name, those outputs in a value of this structure that neurons compute.

        Raises:
            ValueError: it has another structure.
        """
        found = dict(zip(self.names, outputs_of(self.structure, value), strict=True))
        return {name: found[name] for name in self.readouts}

    def holding_readouts(self, values: Mapping[str, Any]) -> Any:
        """The structure with these values, by the names of the readouts; None in the place of other outputs."""
        return holding(self.structure, [values.get(name) for name in self.names])


def described(structure: Structure) -> str:
    """In words.

    >>> described(Container("dict", ("boxes", "classes"), (Output(0), Output(1))))
    "a dict of 'boxes', 'classes'"
    """
    if not isinstance(structure, Container):
        return "one tensor" if isinstance(structure, Output) else repr(structure.value)
    if structure.kind in ("tuple", "list"):
        return f"a {structure.kind} of {len(structure.keys)}"
    keys = ", ".join(map(repr, structure.keys)) or "nothing"
    kind = structure.name or structure.kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} of {keys}"


def to_json(structure: Structure) -> Any:
    """A structure as JSON.

    >>> to_json(Container("tuple", (0, 1), (Output(0), Fixed(2))))
    {'tuple': [{'output': 0}, {'fixed': 2}]}
    """
    if isinstance(structure, Output):
        return {"output": structure.number}
    if isinstance(structure, Fixed):
        value = structure.value
        odd = isinstance(value, float) and not math.isfinite(value)
        return {"fixed": {"float": str(value)} if odd else value}
    items = [to_json(item) for item in structure.items]
    if structure.kind in ("tuple", "list"):
        return {structure.kind: items}
    named = {"name": structure.name} if structure.name else {}
    return {structure.kind: {**named, "keys": list(structure.keys), "items": items}}


def from_json(value: Any) -> Structure:
    """The structure that `to_json` wrote.

    Raises:
        ValueError: it wrote no such thing.

    >>> from_json({"dict": {"keys": ["a"], "items": [{"output": 0}]}})
    Container(kind='dict', keys=('a',), items=(Output(number=0),), name='')
    """
    if len(of(dict, value, "a structure")) != 1:
        raise ValueError(f"a structure has one kind; got {value!r:.80}")
    ((kind, content),) = value.items()
    if kind == "output":
        return Output(of(int, content, "the number of an output"))
    if kind == "fixed":
        return Fixed(_fixed(content))
    if kind not in KINDS:
        raise ValueError(f"there is no kind of container {kind!r:.80}; there are {', '.join(KINDS)}")
    if kind in ("tuple", "list"):
        items = tuple(map(from_json, of(list, content, f"a {kind}")))
        return Container(kind, tuple(range(len(items))), items)
    is_record = kind in ("named tuple", "dataclass")
    fields = record(content, ("name", "keys", "items") if is_record else ("keys", "items"), f"a {kind}")
    keys, items = of(list, fields["keys"], "keys"), tuple(map(from_json, of(list, fields["items"], "items")))
    name = of(str, fields["name"], "the name of a record") if is_record else ""
    for key in keys:
        of(str if is_record or not isinstance(key, int) else int, key, f"a key of a {kind}")
    if len(set(map(repr, keys))) < len(keys) or len(keys) != len(items):
        raise ValueError(f"a {kind} of the keys {keys!r:.200} and {len(items)} items")
    for word in (name, *keys) if is_record else ():
        if not word.isidentifier() or keyword.iskeyword(word) or word.startswith("__"):
            raise ValueError(f"nothing in a {kind} is called {word!r:.80}")
    container = Container(kind, tuple(keys), items, name)
    if is_record:
        _ = container.record
    return container


def _fixed(content: Any) -> bool | int | float | str | None:
    if isinstance(content, dict):
        text = of(str, record(content, ("float",), "a fixed value")["float"], "a number")
        if text not in ("inf", "-inf", "nan"):
            raise ValueError(f"no number is called {text!r:.80}")
        return float(text)
    if content is None or isinstance(content, (bool, int, float, str)):
        return content
    raise ValueError(f"a fixed value is None, a number or a string; got {content!r:.80}")
