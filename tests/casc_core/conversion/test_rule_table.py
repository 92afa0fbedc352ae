"""The table of rules: one for each thing in one table, and an adapter's over the core's."""

import pytest
import torch
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import RULES, linear_map


def rule(reader, *args):
    """A rule, of which only the name matters."""


def other(reader, *args):
    """Another one."""


def table():
    rules = RuleTable()
    rules.module(nn.Linear)(rule)
    rules.function(torch.add, "add")(rule)
    rules.refuse("say it otherwise", nn.GRU, "item")
    return rules


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda rules: rules.module(nn.Linear)(other), "Linear has a rule in this table already, rule"),
        (
            lambda rules: rules.module(nn.Conv2d, nn.GRU)(other),
            "GRU has a rule in this table already, say it otherwise",
        ),
        (lambda rules: rules.function("add")(other), "add has a rule in this table already, rule"),
        (lambda rules: rules.function("item")(other), "item has a rule in this table already, say it otherwise"),
        (lambda rules: rules.refuse("no", torch.add), "add has a rule in this table already, rule"),
        (lambda rules: rules.refuse("no", nn.GRU), "GRU has a rule in this table already, say it otherwise"),
    ],
)
def test_a_second_rule_under_a_taken_name_is_an_error(register, message):
    with pytest.raises(casc_core.ConfigError, match=f"{message}; merge another table"):
        register(table())


def test_the_same_rule_may_be_given_twice():
    rules = table()
    rules.function(torch.add)(rule)
    assert rules.functions[torch.add] is rule


def test_the_table_that_is_merged_wins_whatever_it_says():
    mine = RuleTable()
    mine.module(nn.GRU)(other)
    mine.refuse("not here", nn.Linear, torch.add)
    merged = table().merged(mine)
    assert merged.find_module(nn.GRU(2, 2)) is other
    assert merged.refusal(nn.GRU(2, 2)) is None
    assert merged.refusal(nn.Linear(2, 2)) == "not here"
    assert merged.refusal(torch.add) == "not here"
    assert torch.add not in merged.functions
    assert merged.functions["add"] is rule
    assert merged.refusal("item") == "say it otherwise"


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_a_forward_of_ones_own_is_traced_through_where_the_rule_says_so():
    assert RULES.is_leaf(nn.Linear(2, 2))
    assert not RULES.is_leaf(Doubled(2, 2))
    plain = RuleTable()
    plain.module(nn.Linear)(rule)
    assert plain.is_leaf(Doubled(2, 2))
    assert plain.refusal(Doubled(2, 2)) == "it overrides the forward of Linear; hold one instead of inheriting"
    assert RULES.merged(plain).is_leaf(Doubled(2, 2))


def test_an_adapter_overrides_a_rule_of_the_core():
    rules = RuleTable()

    @rules.module(nn.Linear)
    def negated(reader, module, x):
        return linear_map(reader, reader.signal(x), -module.weight, -module.bias, reader.name)

    model = nn.Sequential(nn.Linear(4, 8), CQReLU(4), nn.Linear(8, 2)).eval()
    x = torch.randn(5, 4)
    mine = casc_core.convert(model, Adapter("mine", lambda model: True, rules=rules))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            for parameter in layer.parameters():
                parameter.neg_()
    assert torch.equal(mine(x), casc_core.convert(model, adapter="cnn")(x))
