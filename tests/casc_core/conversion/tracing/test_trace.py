"""Tracing remembers the user's lines, and finds the ways to call a model."""

from __future__ import annotations

import pytest
from torch import nn
from user_models import user_model

from casc_core import ConversionError
from casc_core.conversion.tracing.trace import arguments_of, call_variants, trace


def test_each_operation_knows_the_users_line():
    def forward(self, tokens):
        states = self.states(tokens)
        return self.fc(states.mean(1))

    graph = trace(user_model(forward), lambda module: isinstance(module, nn.RNN))
    lines = {node.name: node.meta.get("line", "") for node in graph.nodes}
    assert lines["mean"].endswith("return self.fc(states.mean(1))")
    assert "test_trace.py:" in lines["mean"]
    assert "user_models.py:" in lines["rnn"]


def test_what_is_checked_for_an_operation_knows_its_line():
    def forward(self, x):
        if x.shape[0] < 2:
            return x
        a, b = x.chunk(2)
        return a - b

    nodes = trace(user_model(forward), lambda module: False).nodes
    checks = {node.name: node for node in nodes if node.name.startswith("expect")}
    assert list(checks) == ["expect", "expect_parts"]
    for node, code in zip(checks.values(), ("if x.shape[0] < 2:", "a, b = x.chunk(2)"), strict=True):
        for line in (node.args[-1], node.meta["line"]):
            assert "test_trace.py:" in line
            assert line.endswith(code)


@pytest.mark.parametrize(
    ("forward", "variants"),
    [
        (lambda self, a, b: a, [{}]),
        (lambda self, a, b=None: a, [{"b": None}, {}]),
        (lambda self, a, b=3: a, [{"b": 3}]),
        (lambda self, a, b=None, c=None: a, [{"b": None, "c": None}, {"c": None}, {"b": None}, {}]),
    ],
)
def test_ways_to_call(forward, variants):
    assert call_variants(user_model(forward)) == variants


def test_arguments_in_order():
    assert arguments_of(user_model(lambda self, x, lengths=None: x)) == ("x", "lengths")


def test_a_forward_that_fails_names_its_own_line():
    def forward(self, tokens):
        return self.fc(self.nothing(tokens))

    with pytest.raises(
        ConversionError, match=r"UserModel cannot be traced: .*nothing(.*\n)*.*test_trace\.py:\d+: return"
    ):
        trace(user_model(forward), lambda module: isinstance(module, nn.RNN))
