"""Structures of outputs: taken apart, put together, named, saved."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casc_core.engine.structure import (
    Container,
    Fixed,
    Output,
    Record,
    Returned,
    described,
    from_json,
    holding,
    names_of,
    outputs_of,
    structure_of,
    to_json,
)

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Both:
    first: Any
    second: Any


@dataclass(frozen=True)
class Changed:
    """One that makes something else of its fields when it is made, and has one that it is not made with."""

    logits: Any
    doubled: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", [self.logits])


class Leaf:
    """What stands for a tensor."""


def nested(leaves):
    """Values of every kind of container, and of what is no tensor."""
    plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2) | st.just(float("inf"))
    keys = st.text("abc.", min_size=1, max_size=2) | st.integers(0, 3)
    return st.recursive(
        leaves | plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(keys, inner, max_size=3),
            st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
            st.tuples(inner, inner).map(lambda both: Pair(*both)),
            st.tuples(inner, inner).map(lambda both: Record(Both, {"first": both[0], "second": both[1]})),
        ),
        max_leaves=8,
    )


def read(value):
    """The structure of a value, and its outputs by number."""
    outputs: dict[Leaf, int] = {}
    return structure_of(value, lambda leaf: outputs.setdefault(leaf, len(outputs))), list(outputs)


def alike(value, made) -> bool:
    """Whether `made` is `value`, types and all, with dataclasses in the place of records."""
    if isinstance(value, Record):
        return type(made) is value.kind and all(alike(each, getattr(made, name)) for name, each in value.fields.items())
    if isinstance(value, dict):
        same = type(made) is type(value) and list(made) == list(value)
        return same and all(alike(value[key], made[key]) for key in value)
    if isinstance(value, (tuple, list)):
        return type(made) is type(value) and len(made) == len(value) and all(map(alike, value, made))
    return made is value if isinstance(value, Leaf) else type(made) is type(value) and made == value


SOME = [Leaf() for _ in range(4)]


@given(nested(st.sampled_from(SOME)))
def test_whatever_is_taken_apart_is_put_together_again(value):
    structure, outputs = read(value)
    made = holding(structure, outputs)
    assert alike(value, made)
    assert outputs_of(structure, made) == outputs
    assert len(set(names_of(structure))) == len(outputs)


@given(nested(st.sampled_from(SOME)))
def test_a_structure_is_saved_without_its_classes(value):
    structure, outputs = read(value)
    loaded = from_json(json.loads(json.dumps(to_json(structure), allow_nan=False)))
    assert loaded == structure
    assert names_of(loaded) == names_of(structure)
    made = holding(loaded, outputs)
    assert outputs_of(structure, made) == outputs  # records of the same names and fields
    assert described(loaded) == described(structure)


def test_names_are_where_outputs_stand():
    a, b, c = SOME[:3]
    structure, _ = read({"maps": [a, (b, a)], "a.b": c})
    assert names_of(structure) == ("maps.0", "maps.1.0", "a.b")
    assert names_of(read(a)[0]) == ("logits",)
    assert names_of(read({"a": {"b": a}, "a.b": b})[0]) == ("a.b", "a.b#2")


def test_a_record_keeps_the_fields_that_it_was_given():
    leaf, other = SOME[:2]
    structure, outputs = read(Record(Changed, {"logits": leaf, "doubled": other}))
    made = holding(structure, outputs)
    assert type(made) is Changed
    assert made.logits is leaf
    assert made.doubled is other


def test_a_record_that_cannot_be_made_is_refused():
    class Strict(namedtuple("Strict", ["a"])):
        def __new__(cls, a):
            raise TypeError("not like this")

    with pytest.raises(ValueError, match="a Strict cannot be made of its fields, a: TypeError: not like this"):
        read(tuple.__new__(Strict, (SOME[0],)))
    with pytest.raises(ValueError, match="keys of a dict of outputs are strings or integers"):
        read({(1, 2): SOME[0]})


@pytest.mark.parametrize(
    ("structure", "value"),
    [
        (Container("tuple", (0, 1), (Output(0), Output(1))), (1,)),
        (Container("list", (0,), (Output(0),)), 5),
        (Container("dict", ("a",), (Output(0),)), {"b": 1}),
        (Container("dict", ("a",), (Output(0),)), [1]),
        (Container("named tuple", ("a",), (Output(0),), "Named"), (1,)),
    ],
)
def test_another_structure_is_refused(structure, value):
    with pytest.raises(ValueError, match=r"where there is an? "):
        outputs_of(structure, value)


def test_of_several_outputs_those_that_neurons_compute():
    structure, _ = read({"a": SOME[0], "b": (SOME[1], None), "c": SOME[2]})
    returned = Returned(structure, (True, False, True))
    assert returned.names == ("a", "b.0", "c")
    assert returned.readouts == ("a", "c")
    assert returned.readouts_in({"a": 1, "b": (2, None), "c": 3}) == {"a": 1, "c": 3}
    assert returned.holding_readouts({"a": 1, "c": 3}) == {"a": 1, "b": (None, None), "c": 3}
    assert not returned.is_single


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"output": True},
        {"output": "0"},
        {"output": 0, "fixed": 1},
        {"fixed": [1]},
        {"fixed": {"float": "1.0"}},
        {"set": [{"output": 0}]},
        {"tuple": {"output": 0}},
        {"dict": {"keys": ["a"], "items": []}},
        {"dict": {"keys": ["a", "a"], "items": [{"output": 0}, {"output": 1}]}},
        {"dict": {"keys": [True], "items": [{"output": 0}]}},
        {"dict": {"keys": [["a"]], "items": [{"output": 0}]}},
        {"dataclass": {"keys": ["a"], "items": [{"output": 0}]}},
        {"dataclass": {"name": "A b", "keys": ["a"], "items": [{"output": 0}]}},
        {"dataclass": {"name": "A", "keys": ["__class__"], "items": [{"output": 0}]}},
        {"dataclass": {"name": "A", "keys": ["import"], "items": [{"output": 0}]}},
        {"named tuple": {"name": "A", "keys": ["a = print()"], "items": [{"output": 0}]}},
        {"named tuple": {"name": "A", "keys": ["_a"], "items": [{"output": 0}]}},
        {"named tuple": {"name": "A", "keys": [0], "items": [{"output": 0}]}},
    ],
)
def test_what_was_never_written_is_refused(value):
    with pytest.raises(ValueError, match=r"must be|kind|key|one kind|called|number|value|identifier|[Ff]ield"):
        from_json(value)


def test_what_is_no_tensor_is_kept():
    assert holding(from_json({"list": [{"fixed": None}, {"fixed": "x"}, {"fixed": {"float": "-inf"}}]}), []) == [
        None,
        "x",
        float("-inf"),
    ]
    assert Fixed(True) != Fixed(0)
