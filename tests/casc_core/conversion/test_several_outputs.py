"""Networks whose forward returns several outputs: converted, run, saved, in the structure that they return."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import casc_core
from casc_core import IF, Continuous, ConversionError, CQReLU, Exact, StorageError
from casc_core.storage.checksum import BLANK, with_checksum

Pair = namedtuple("Pair", ["first", "second"])
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LEAVES = ("shallow", "deep", "features", "sum", "input", "doubled", "constant", "size", "none", "word")
READ_OUT = ("shallow", "deep", "features", "sum")


@dataclass
class Both:
    first: Any
    second: Any


class Heads(nn.Module):
    """Outputs at several depths, and what neurons do not compute; `form` says which of them it returns, and how."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 10)
        self.act1, self.act2 = CQReLU(3), CQReLU(3)
        self.shallow, self.deep = nn.Linear(12, 3), nn.Linear(10, 5)
        self.register_buffer("anchors", torch.tensor([[1.0, 2.0]]))

    def forward(self, x: Tensor) -> Any:
        early = self.act1(self.a(x))
        late = self.act2(self.b(early))
        there = {
            "shallow": self.shallow(early), "deep": self.deep(late), "features": late, "sum": late + early[:, :10],
            "input": x, "doubled": x * 2, "constant": self.anchors, "size": x.shape[0], "none": None, "word": "a word",
        }  # fmt: skip
        return built(self.form, there)


def built(form: Any, there: dict[str, Any]) -> Any:
    """The structure `form` with what is there in the place of names."""
    if isinstance(form, str):
        return there[form]
    if isinstance(form, Both):
        return Both(built(form.first, there), built(form.second, there))
    if isinstance(form, dict):
        return type(form)((key, built(each, there)) for key, each in form.items())
    items = [built(each, there) for each in form]
    return type(form)(*items) if hasattr(form, "_fields") else type(form)(items)


def flat(value: Any) -> list[Any]:
    """What stands in a structure, in order."""
    if isinstance(value, Both):
        return flat([value.first, value.second])
    if isinstance(value, dict):
        return flat(list(value.values()))
    return [leaf for each in value for leaf in flat(each)] if isinstance(value, (tuple, list)) else [value]


def same(a: Any, b: Any) -> bool:
    """Whether two structures are equal, types of containers and bits of tensors."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Both):
        return same(a.first, b.first) and same(a.second, b.second)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def alone(name: str, numerics: Any = "as trained") -> Tensor:
    """The output of this name of the network that returns nothing else."""
    return casc_core.convert(Heads(name), numerics=numerics)(X)


FORMS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", 0]), inner, min_size=1, max_size=3),
        st.tuples(inner, inner).map(lambda both: OrderedDict(zip("xy", both, strict=True))),
        st.tuples(inner, inner).map(lambda both: Pair(*both)),
        st.tuples(inner, inner).map(lambda both: Both(*both)),
    ),
    max_leaves=5,
).filter(lambda form: any(name in READ_OUT for name in flat(form)))


@settings(max_examples=15)
@given(FORMS)
def test_a_network_of_any_structure_is_exact_and_keeps_it(tmp_path_factory, form):
    model = Heads(form)
    snn = casc_core.convert(model)
    found = snn(X)
    with torch.no_grad():
        expected = model(X)
    for own, name, other in zip(flat(found), flat(form), flat(expected), strict=True):
        if name in READ_OUT:
            assert torch.equal(own, alone(name))
            torch.testing.assert_close(own, other)
        else:
            assert same(own, other)
    assert same(found, snn.reference(X))
    shape = built(form, dict.fromkeys(LEAVES, 0))
    assert same(built(form, dict(zip(flat(form), flat(found), strict=False))), found)
    assert type(shape) is type(found) or isinstance(form, str)
    # Over time; and in parts, as a small memory limit makes them.
    simulation = snn.simulate(X)
    assert same([_last(each) for each in flat(simulation.outputs)], flat(found))
    assert all(len(each) == simulation.T for each in flat(simulation.outputs) if isinstance(each, Tensor))
    snn.memory_limit = 3_000
    if "size" not in flat(form):
        assert same(snn(X), found)
        assert same(snn.simulate(X).outputs, simulation.outputs)
    # Saved, and loaded with and without the model.
    folder = tmp_path_factory.mktemp("saved") / "network"
    snn.save(folder)
    assert same(flat_of_loaded(casc_core.load(folder)(X), form), flat(found))
    assert same(casc_core.load(folder, model=model)(X), found)
    assert casc_core.verify(casc_core.load(folder, model=model), X).exact


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, Tensor) else value


def flat_of_loaded(value: Any, form: Any) -> list[Any]:
    """What stands in a structure whose named tuples and dataclasses have been made anew."""
    if isinstance(form, str):
        return [value]
    if isinstance(form, (Pair, Both)):
        assert type(value).__name__ == type(form).__name__
        both = [(getattr(value, name), getattr(form, name)) for name in ("first", "second")]
    elif isinstance(form, dict):
        both = [(value[key], each) for key, each in form.items()]
    else:
        both = list(zip(value, form, strict=True))
    return [leaf for own, each in both for leaf in flat_of_loaded(own, each)]


@pytest.mark.parametrize("numerics", [Exact(), Exact(8)])
def test_each_output_has_the_bits_that_it_has_alone(numerics):
    form = {name: name for name in READ_OUT}
    outputs = casc_core.convert(Heads(form), numerics=numerics)(X)
    for name in READ_OUT:
        assert torch.equal(outputs[name], alone(name, numerics))


def test_the_same_tensor_twice_is_one_output():
    snn = casc_core.convert(Heads(["deep", {"again": "deep"}]))
    first, second = snn(X)
    assert first is second["again"]
    assert len(snn.programs[frozenset(["x"])].outputs) == 1


def test_a_sample_is_silent_when_all_of_the_network_is():
    both = casc_core.convert(Heads(("shallow", "deep"))).simulate(X)
    early = casc_core.convert(Heads("shallow")).simulate(X)
    late = casc_core.convert(Heads("deep")).simulate(X)
    assert torch.equal(both.silent_at, late.silent_at)
    assert torch.equal(both.outputs[0][: early.T], early.logits[: both.T])
    assert list(early.spikes) == ["act1"]  # what no output reads is not run
    assert torch.equal(
        both.readout_operations[: early.T], early.readout_operations + late.readout_operations[: early.T]
    )


def test_energy_counts_what_reaches_every_readout():
    both = casc_core.analyse(casc_core.convert(Heads(("shallow", "deep"))), [X])
    late = casc_core.analyse(casc_core.convert(Heads("deep")), [X])
    assert both.ann_multiply_accumulates == late.ann_multiply_accumulates + 12 * 3
    assert float(both.energy()[-1]) > float(late.energy()[-1])


def test_another_neuron_and_schedule_keep_the_structure():
    other = casc_core.convert(Heads({"a": "shallow", "b": "deep"})).under(IF(), Continuous())
    outputs = other.simulate(X, T=5).outputs
    assert {name: list(each.shape) for name, each in outputs.items()} == {"a": [5, 6, 3], "b": [5, 6, 5]}
    for method in casc_core.methods.methods_for(other, 5).values():
        assert list(method.network(casc_core.convert(Heads({"a": "deep"})), [X]).simulate(X, T=5).outputs) == ["a"]


def test_an_output_without_neurons_is_the_map_of_the_input():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.a, self.act, self.b, self.skip = nn.Linear(4, 8), CQReLU(2), nn.Linear(8, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.act(self.a(x))), self.skip(x)

    for numerics in ("as trained", "exact"):
        snn = casc_core.convert(Skip(), numerics=numerics)
        assert casc_core.verify(snn, X).exact
        with torch.no_grad():
            torch.testing.assert_close(snn(X)[1], snn.ann(X)[1], atol=1e-3, rtol=0)


def test_an_output_that_goes_on_is_read_out_where_it_stands():
    class Refined(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.a, self.act1, self.b = nn.Linear(4, 8), CQReLU(2), nn.Linear(8, 6)
            self.act2, self.c = CQReLU(2), nn.Linear(6, 3)

        def forward(self, x):
            coarse = self.b(self.act1(self.a(x)))
            return {"coarse": coarse, "fine": self.c(self.act2(coarse))}

    for numerics in ("as trained", "exact"):
        snn = casc_core.convert(Refined(), numerics=numerics)
        assert casc_core.verify(snn, X).exact
        simulation = snn.simulate(X)
        assert torch.equal(simulation.outputs["coarse"][-1], snn.reference(X)["coarse"])


def test_ways_of_calling_may_return_other_structures():
    class Optional(Heads):
        def forward(self, x, more=None):
            early = self.act1(self.a(x))
            if more is None:
                return self.shallow(early)
            return self.shallow(early), self.deep(self.act2(self.b(early + more.sum())))

    snn = casc_core.convert(Optional(""))
    assert isinstance(snn(X), Tensor)
    assert len(snn(X, torch.ones(1))) == 2
    assert casc_core.verify(snn, X).exact


def test_functional_activations_keep_the_structure():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return Both(self.b(h), OrderedDict(c=Pair(self.c(h), None)))

    ann = casc_core.prepare(Functional(), q=3)
    snn = casc_core.convert(ann)
    assert same(snn(X), snn.reference(X))
    for found in (ann(X), snn(X)):
        assert isinstance(found, Both)
        assert isinstance(found.second, OrderedDict)
        assert isinstance(found.second["c"], Pair)
        assert found.second["c"].second is None


# What cannot be given back.


def refusal(form: Any) -> str:
    with pytest.raises(ConversionError) as caught:
        casc_core.convert(Heads(form))
    return str(caught.value)


def test_a_forward_that_returns_nothing_of_the_network_is_refused():
    for form, said in (
        ("input", "a function of its inputs alone"),
        (("input", "constant"), "a tuple of 2, functions of its inputs alone"),
        ({"a": "none"}, "a dict of 'a'"),
        ("none", "None"),
    ):
        text = refusal(form)
        assert "must return what the network computes" in text
        assert text.endswith(f"it returns {said}")


def test_what_is_neither_tensor_nor_plain_is_refused():
    class Odd(Heads):
        def forward(self, x):
            h = self.act1(self.a(x))
            return self.shallow(h), self.odd(h)

    def odd(function):
        model = Odd("")
        model.odd = function
        with pytest.raises(ConversionError) as caught:
            casc_core.convert(model)
        return str(caught.value)

    class Box:
        def __init__(self, x):
            self.x = x

    assert "an object that is neither a tensor nor a plain value" in odd(Box)
    assert "neither a tensor nor a number, a string or None" in odd(lambda h: torch.float32)
    assert "a tuple of as many parts as its input's size makes" in odd(lambda h: h.split(2, 1))
    assert "keys of a dict of outputs are strings or integers; one is (1, 2)" in odd(lambda h: {(1, 2): h})


@pytest.mark.parametrize(
    ("tail", "named"),
    [
        (lambda y: {"boxes": y[:, :2], "scores": torch.sigmoid(y[:, 2:])}, "apply Sigmoid to"),
        (lambda y: (y[:, :2].sigmoid() * 2 - 0.5, y[:, 2:]), "what follows from it: mul"),
        (lambda y: (y[:, :2].sigmoid() * y[:, 2:].sigmoid(), y), "apply Sigmoid to"),
        (lambda y: (y, y.softmax(1).argmax(1)), "apply softmax(), argmax() to"),
        (lambda y: torch.cat([y[:, :2].exp() * 8, y[:, 2:]], 1), "apply exp() to"),
        (lambda y: (y.exp(), y.log_softmax(1), y.topk(2, 1)), "apply exp(), log_softmax(), topk() to"),
    ],
)
def test_what_stands_behind_the_last_layer_is_named(tail, named):
    class Decoding(Heads):
        def forward(self, x):
            return tail(self.shallow(self.act1(self.a(x))))

    for verb in (casc_core.convert, lambda model: casc_core.prepare(model, q=2)):
        with pytest.raises(ConversionError) as caught:
            verb(Decoding(""))
        text = str(caught.value)
        assert "It stands behind the last layer: return what it reads" in text or "Sigmoid" not in named
        assert "test_several_outputs.py" in text
    if "Sigmoid" not in named and "follows" not in named:
        assert named in text


def test_a_sigmoid_with_a_layer_behind_it_is_an_activation():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.act, self.gate, self.b = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.act(self.a(x))
            gated = h * torch.sigmoid(self.gate(h))
            return self.b(gated), gated

    snn = casc_core.convert(casc_core.prepare(Gated(), q=3))
    assert casc_core.verify(snn, X).exact


# Saved networks.


def saved(tmp_path, form):
    casc_core.convert(Heads(form)).save(tmp_path / "network")
    return json.loads((tmp_path / "network" / "network.json").read_text())


def test_a_single_output_is_saved_as_it_was(tmp_path):
    description = saved(tmp_path, "deep")
    assert description["version"] == 3
    assert set(description["programs"][0]) == {"inputs", "steps", "output", "scale", "exponent"}


def test_several_outputs_are_another_format(tmp_path):
    description = saved(tmp_path, Both("deep", ["input", "shallow"]))
    assert description["version"] == 4
    (program,) = description["programs"]
    assert program["structure"] == {
        "dataclass": {
            "name": "Both",
            "keys": ["first", "second"],
            "items": [{"output": 0}, {"list": [{"output": 1}, {"output": 2}]}],
        }
    }
    assert [set(each) for each in program["outputs"]] == [
        {"output", "scale", "exponent"},
        {"output"},
        {"output", "scale", "exponent"},
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda program: program.update(structure={"tuple": [{"output": 0}]}),
        lambda program: program.update(structure={"tuple": [{"output": 0}, {"output": 5}]}),
        lambda program: program.update(structure={"set": []}),
        lambda program: program["outputs"].pop(),
        lambda program: program["outputs"][0].update(output="%99"),
        lambda program: program["outputs"][0].update(scale="1"),
        lambda program: program["outputs"][0].update(scale=float(10**30) * 1e300),
        lambda program: program["outputs"][0].pop("scale"),
        lambda program: program["outputs"][0].update(exponent=10_000),
        lambda program: program.pop("structure"),
        lambda program: program.update(outputs=[{"output": "x"}], structure={"tuple": [{"output": 0}]}),
    ],
)
def test_a_damaged_structure_is_refused(tmp_path, damage):
    description = saved(tmp_path, ("deep", "shallow"))
    damage(description["programs"][0])
    description["sha256"] = BLANK
    folder = tmp_path / "network"
    text = json.dumps(description).encode()
    tensors = (folder / "network.safetensors").read_bytes()
    (folder / "network.json").write_bytes(with_checksum(text, tensors))
    with pytest.raises(StorageError):
        casc_core.load(folder)
