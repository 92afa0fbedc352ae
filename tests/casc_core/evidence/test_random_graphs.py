"""Random forwards of every operation and spelling, held against the user's own network in float64: nothing differs."""

from __future__ import annotations

import itertools
import operator
import re
import sys
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_grammar import ROWS, singles, written
from graph_oracle import FaultError, Graph, Input, RefusedError, arguments, built, check, settle
from random_graphs import shrunk, spelled, try_out
from torch import nn

import casc_core
import casc_core.conversion.prepare
from casc_core.conversion.functional_activations import ACTIVATION_CALLS
from casc_core.conversion.rules import RULES
from casc_core.conversion.tracing.randomness import DROPOUTS
from casc_core.engine.functions import REARRANGING, name_of
from casc_seq.adapter import RULES as SEQUENCES
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM

_IN_PLACE = "torch.fx records x += y as x + y"
NEVER_SPELLED: dict[Any, str] = {
    operator.iadd: _IN_PLACE,
    operator.isub: _IN_PLACE,
    operator.imul: _IN_PLACE,
    operator.itruediv: _IN_PLACE,
    operator.imatmul: _IN_PLACE,
    "rsub": "no tensor has such a method",
    "layout": "it is the row of all rearrangements",
    F.tanh: "it calls the method, and that is what torch.fx records",
    F.sigmoid: "it calls the method, and that is what torch.fx records",
    F.upsample: "it calls F.interpolate",
    F.upsample_nearest: "it calls F.interpolate",
    F.upsample_bilinear: "it calls F.interpolate",
    nn.EmbeddingBag: "it is an embedding and a sum: tests/casc_seq/spiking/test_bags.py",
    **dict.fromkeys(
        ("expand_as", "view_as", "reshape_as", "repeat_interleave", torch.repeat_interleave),
        "they take a shape from a signal: tests/casc_core/conversion/rules/test_shapes_of_others.py",
    ),
    GRU: "the oracle here knows no gates: tests/casc_seq/spiking/test_gated_exactness.py has one",
    LSTM: "the oracle here knows no gates: tests/casc_seq/spiking/test_gated_exactness.py has one",
}
"""Rows of the tables that no forward can be written for, and why."""


@pytest.mark.parametrize("first", range(0, 60, 12))
def test_nothing_differs(first: int) -> None:
    equal = 0
    for seed in range(first, first + 12):
        script = written(seed)
        found = try_out(script)
        assert not isinstance(found, FaultError), f"{found}\n{script.graph()}"
        equal += not isinstance(found, Exception)
    assert equal >= 2


_CLIPPED = re.compile(
    r"CQReLU|Rounded|RNN|[tT]anh|[sS]igmoid|[sS]oftsign|[sS]wish|[sS]i[lL][uU]|"
    r"PReLU|[lL]eaky|[rR]e[lL][uU]6|clamp|clip|[tT]hreshold|[dD]ropout"
)


def test_with_many_levels_a_prepared_network_is_the_network_as_it_was() -> None:
    """Whatever is no activation stays as it is, however it is spelled."""
    compared = 0
    for seed in itertools.count():
        graph = written(seed).graph()
        if _CLIPPED.search(graph.source):
            continue
        model, inputs = settle(built(graph.source), graph.seed), arguments(graph)
        try:
            expected = model(*(each.clone() for each in inputs)).detach()
            fine = casc_core.prepare(model, q=2**17, threshold=1024.0).eval()
        except (RuntimeError, IndexError, casc_core.CascError):
            continue
        reach = 0.3 + 0.01 * float(expected.abs().max())
        torch.testing.assert_close(fine(*inputs).detach(), expected, atol=reach, rtol=0.01, msg=graph.source)
        compared += 1
        if compared == 12:
            return


@pytest.fixture(scope="module")
def drawn() -> Counter[Any]:
    """How often what is called by the rows of the grammar and by some forwards."""
    calls: Counter[Any] = Counter()
    for row in ROWS:
        for script in itertools.islice(singles(row), row.faces):
            calls += spelled(script.graph())
    for seed in range(60):
        calls += spelled(written(seed).graph())
    return calls


def test_every_row_of_the_grammar_can_be_written() -> None:
    assert [index for index, row in enumerate(ROWS) if next(singles(row), None) is None] == []


def test_every_rule_is_drawn(drawn: Counter[Any]) -> None:
    table, preparing = RULES.merged(SEQUENCES), sys.modules[casc_core.prepare.__module__]
    known = {
        *table.functions,
        *table.modules,
        *preparing.ACTIVATIONS,
        *ACTIVATION_CALLS,
        *DROPOUTS,
    }
    # What stands in the library itself is written by its tracer.
    missing = {
        t for t in known if not drawn[t] and not getattr(t, "__module__", "").startswith("casc_core.engine.conditions")
    }
    assert missing == known & set(NEVER_SPELLED), "spell it in graph_grammar.py, or say here why nobody can"


def test_every_rearrangement_is_drawn(drawn: Counter[Any]) -> None:
    names = {name_of(target, isinstance(target, str)) for target in drawn}
    assert {name for name in REARRANGING if not name.startswith("F.")} <= names


SMALL = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))
"""
GRAPH = Graph(SMALL, (Input("x", "real", (3, 5)),), 4, 1)


def test_a_graph_that_is_right_passes() -> None:
    assert check(GRAPH).neurons == 12


@pytest.mark.parametrize("weight", ["fc1.weight", "fc1.bias", "fc2.bias"])
def test_a_weight_that_is_changed_is_found(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    convert = casc_core.convert

    def wrong(ann: torch.nn.Module) -> casc_core.SpikingModel:
        with torch.no_grad():
            ann.get_parameter(weight).mul_(1.5)
            result = convert(ann)
            ann.get_parameter(weight).div_(1.5)
        return result

    monkeypatch.setattr(casc_core, "convert", wrong)
    with pytest.raises(FaultError, match=r"levels differ|logits differ"):
        check(GRAPH)


def test_neurons_that_cannot_take_a_spike_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = casc_core.convert
    monkeypatch.setattr(casc_core, "convert", lambda ann: convert(ann, neuron=casc_core.IF()))
    source = (
        SMALL.replace("self.fc2(", "self.fc3(F.relu(self.fc2(")
        .replace("fc1(x)))", "fc1(x)))))")
        .replace("(4, 2)", "(4, 4)")
    )
    source = source.replace("super().__init__()", "super().__init__()\n        self.fc3 = nn.Linear(4, 2)")
    with pytest.raises(FaultError, match="spike counts are not the levels"):
        check(Graph(source, GRAPH.inputs, 8, 2))


def test_what_is_random_must_be_refused() -> None:
    source = SMALL.replace("self.fc1(x)", "F.dropout(self.fc1(x), 0.5)")
    with pytest.raises((RefusedError, FaultError)) as found:
        check(Graph(source, GRAPH.inputs, 4, 1, random=True))
    assert found.type is RefusedError


def test_a_fault_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(s for s in (written(seed) for seed in range(1000)) if "casc_core.CQReLU" in s.graph().source)

    def broken(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
        if any(isinstance(module, casc_core.CQReLU) for module in model.modules()):
            raise RuntimeError("broken")
        raise casc_core.ConversionError("refused")

    monkeypatch.setattr(casc_core, "prepare", broken)
    small = shrunk(script, "RuntimeError in prepare")
    assert isinstance(try_out(small), FaultError)
    assert len(small.statements) == 1
    assert "CQReLU" in small.graph().source
