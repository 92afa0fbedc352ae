"""Every public name of `torch.nn` and `torch.nn.functional`: it converts, or is refused with what to do instead."""

from __future__ import annotations

import sys

import pytest
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core.conversion.functional_activations import ACTIVATION_CALLS
from casc_core.conversion.rules import RULES, UNPREPARED
from casc_seq.adapter import RULES as SEQUENCES

TABLE = RULES.merged(SEQUENCES)
PREPARING = sys.modules[casc_core.prepare.__module__]
NO_OPERATIONS = {
    nn.Container, nn.DataParallel, nn.Module, nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList,
    nn.Sequential,
}  # fmt: skip
"""What holds modules or parameters, and computes nothing."""
NO_FUNCTIONS = {
    "assert_int_or_pair", "boolean_dispatch", "handle_torch_function", "has_torch_function", "has_torch_function_unary",
    "has_torch_function_variadic",
}  # fmt: skip
"""What stands in `torch.nn.functional` for its own use."""
REMEDIES = ("use", "write", "replace", "return", "take", "put", "call", "remove", "enlarge", "draw", "train")

MODULES = sorted(
    {kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Module)} - NO_OPERATIONS,
    key=lambda kind: kind.__name__,
)
FUNCTIONS = sorted(
    name
    for name, function in vars(F).items()
    if callable(function) and not isinstance(function, type) and not name.startswith("_") and name not in NO_FUNCTIONS
    if getattr(function, "__module__", "") != "typing"
)


def says_what_to_do(why: str) -> bool:
    return any(f"{remedy} " in why for remedy in REMEDIES)


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_a_module_converts_or_is_refused_with_a_remedy(kind):
    known = next((each for each in kind.__mro__ if each in TABLE.modules or each in TABLE.refused), None)
    assert known is not None, f"{kind.__name__}: neither a rule nor a refusal"
    if known in TABLE.refused:
        prepared = known in PREPARING.ACTIVATIONS or known in (nn.RNN, nn.GRU, nn.LSTM)
        assert (TABLE.refused[known] == UNPREPARED) == prepared
        assert says_what_to_do(TABLE.refused[known]), TABLE.refused[known]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_converts_or_is_refused_with_a_remedy(name):
    function = getattr(F, name)
    if function in TABLE.functions or function in ACTIVATION_CALLS:
        return
    assert function in TABLE.refused, f"{name}: neither a rule nor a refusal"
    assert says_what_to_do(TABLE.refused[function]), TABLE.refused[function]


class Called(nn.Module):
    """Something in the middle of a network."""

    def __init__(self, call):
        super().__init__()
        self.first, self.act, self.last, self.call = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), call

    def forward(self, x):
        return self.last(self.act(self.call(self.first(x))))


CALLS = {
    "softshrink": (F.softshrink, "write it as relu(x - lambd)"),
    "hardshrink": (lambda x: x.hardshrink(), "write it as relu(x - lambd)"),
    "topk": (lambda x: x.topk(4).values, "in the middle of a network take a maximum"),
    "sort": (lambda x: x.sort().values, "in the middle of a network take a maximum"),
    "median": (lambda x: x.median(1, keepdim=True).values * x, "take a maximum, or a mean"),
    "cumsum": (lambda x: x.cumsum(1), "multiply by a matrix of ones below the diagonal"),
    "sqrt": (lambda x: x.sqrt(), "put an activation that is"),
    "floor": (lambda x: x.floor(), "casc_core.CQReLU"),
    "comparison": (lambda x: x * (x > 0.5), "write a gate as a * torch.sigmoid(b)"),
    "sign": (lambda x: x.sign(), "write a gate as a * torch.sigmoid(b)"),
    "cosine": (lambda x: F.cosine_similarity(x, x).unsqueeze(1) * x, "compare the converted network's outputs"),
    "norm": (lambda x: x * x.norm(dim=1, keepdim=True), "use BatchNorm"),
    "log": (lambda x: x.log(), "return the logits"),
    "loss": (lambda x: x * F.mse_loss(x, x), "return the logits"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_the_middle_is_refused_with_its_line(name):
    call, remedy = CALLS[name]
    with pytest.raises(casc_core.ConversionError) as error:
        casc_core.prepare(Called(call), q=4)
    assert remedy in str(error.value)
    assert "test_every_name.py:" in str(error.value)


def test_of_the_inputs_alone_it_may_be_computed_beforehand():
    class Floored(Called):
        def forward(self, x):
            return super().forward(x.exp())

    with pytest.raises(casc_core.ConversionError, match=r"exp\(\) .*: of the inputs alone .* or give it as an input"):
        casc_core.prepare(Floored(nn.Identity()), q=4)


def test_thresholds_of_a_recurrent_layer_are_not_trained():
    with pytest.raises(casc_core.ConfigError, match=r"'0': RNN has no threshold that can be trained; leave .*CQReLU"):
        casc_core.prepare(nn.Sequential(nn.RNN(3, 4)), adapter="rnn", q=4, trainable_threshold=True)
