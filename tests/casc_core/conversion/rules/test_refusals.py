"""What cannot be exact is refused: where it stands, what it is, and what to do instead."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from user_models import LENGTHS, TOKENS, user_model

import casc_core
from casc_core import ConfigError, ConversionError, InputError


def converted(model, q=2, **options):
    return casc_core.convert(casc_core.prepare(model, adapter="rnn", q=q).eval(), adapter="rnn", **options)


def softmax_at_the_end(self, tokens):
    return torch.softmax(self.fc(self.states(tokens)[:, -1]), dim=-1)


def log_softmax_at_the_end(self, tokens):
    return F.log_softmax(self.fc(self.states(tokens)[:, -1]), dim=-1)


def branch_on_values(self, tokens):
    if tokens.sum() > 0:
        return self.fc(self.states(tokens)[:, -1])
    return self.fc(self.states(tokens)[:, 0])


def length_by_len(self, tokens):
    return self.fc(self.states(tokens).sum(1) / len(tokens))


def loop_over_length(self, tokens):
    o = self.states(tokens)
    return self.fc(sum(o[:, i] for i in range(tokens.shape[1])))


def variable_arguments(self, *args):
    return self.fc(self.states(args[0])[:, -1])


def output_of_inputs_alone(self, tokens):
    return tokens.sum(1)


def packed_by_name(self, tokens, lengths):
    packed = pack_padded_sequence(self.emb(tokens), lengths, batch_first=True, enforce_sorted=False)
    output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
    return self.fc(output.sum(1))


def packed_by_module(self, tokens, lengths):
    packed = nn.utils.rnn.pack_padded_sequence(self.emb(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
    return self.fc(self.rnn(packed)[1][-1])


def scaled_by_infinity(self, tokens):
    return self.fc(self.states(tokens)[:, 0] * float("inf"))


def random_start(self, tokens):
    return self.fc(self.rnn(self.emb(tokens), torch.randn(1, tokens.size(0), 5))[0][:, -1])


def argmax_of_maximum(self, tokens):
    values, indices = self.states(tokens).max(1)
    return self.fc(values + indices)


def clamped(self, tokens):
    return self.fc(self.h(self.states(tokens)[:, 0]).clamp(min=-1))


def filled_above(self, tokens):
    return self.fc(self.states(tokens).masked_fill((tokens == 0).unsqueeze(-1), float("inf")).sum(1))


def masked_in_place(self, tokens):
    o = self.states(tokens)
    o.masked_fill_((tokens == 0).unsqueeze(-1), 0.0)
    return self.fc(o.sum(1))


def view_changed_in_place(self, tokens):
    o = self.states(tokens)
    first = o[:, 0]
    first += self.offset
    return self.fc(o.sum(1))


def alias_changed_in_place(self, tokens):
    h = self.h(self.states(tokens)[:, 0])
    scaled = h
    scaled *= 0.5
    return self.fc(h + scaled)


def relu_in_place_as_a_statement(self, tokens):
    h = self.h(self.states(tokens)[:, 0])
    F.relu_(h)
    return self.fc(h)


REFUSED = {
    softmax_at_the_end: ("softmax()", "return the logits"),
    log_softmax_at_the_end: ("log_softmax()", "return the logits"),
    branch_on_values: ("control flow", "use masks in place of `if`"),
    length_by_len: ("'len'", "x.shape[0] in place of len(x)"),
    loop_over_length: ("cannot be interpreted as an integer", "loops over a tensor's values"),
    variable_arguments: ("*args", "name its arguments"),
    output_of_inputs_alone: ("a function of its inputs alone", "must return what the network computes"),
    packed_by_name: ("pack_padded_sequence()", "lengths=..."),
    packed_by_module: ("pack_padded_sequence()", "lengths=..."),
    scaled_by_infinity: ("mul()", "the constant inf; only finite numbers"),
    random_start: ("randn()", "use torch.zeros"),
    argmax_of_maximum: ("add()", "use the values alone"),
    clamped: ("clamp()", "it clips to [-1, -]"),
    filled_above: ("masked_fill()", "it fills with inf; fill with a number"),
    masked_in_place: ("in place", "write x = x * 2"),
    view_changed_in_place: ("in place", "write x = x * 2"),
    alias_changed_in_place: ("in place", "write x = x * 2"),
    relu_in_place_as_a_statement: ("in place", "write x = x * 2"),
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_operation_is_refused_with_its_line_and_a_remedy(forward):
    with pytest.raises(ConversionError) as error:
        converted(user_model(forward))
    message = str(error.value)
    what, remedy = REFUSED[forward]
    assert what in message
    assert remedy in message
    if forward not in (variable_arguments, output_of_inputs_alone):
        assert re.search(r"test_refusals\.py:\d+: \w", message), message


MODULES = {
    "GRUCell": (nn.GRUCell(4, 5), "nn.GRU or nn.LSTM over the whole sequence"),
    "MultiheadAttention": (nn.MultiheadAttention(4, 1), "write attention with a ReLU in its place"),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 1, 8), "write attention with a ReLU in its place"),
    "LayerNorm": (nn.LayerNorm(4), "remove it, or use BatchNorm"),
    "RNNCell": (nn.RNNCell(4, 5), "use nn.RNN"),
    "GELU": (nn.GELU(), "replace it by nn.ReLU"),
    "Mish": (nn.Mish(), "replace it by nn.ReLU"),
    "Softmax": (nn.Softmax(-1), "return the logits"),
}


class Wrapper(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.encoder = nn.ModuleDict({"part": part})
        self.rnn, self.fc = nn.RNN(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.rnn(self.encoder["part"](x))[0][:, -1])


@pytest.mark.parametrize("kind", MODULES)
def test_module_is_refused_by_its_path(kind):
    part, remedy = MODULES[kind]
    for call in (casc_core.prepare, casc_core.convert):
        with pytest.raises(ConversionError) as error:
            call(Wrapper(part), adapter="rnn", q=2)
        assert f"'encoder.part': {kind} cannot be converted exactly" in str(error.value)
        assert remedy in str(error.value)


def test_a_module_without_a_rule_is_refused_by_its_path_and_line():
    with pytest.raises(
        ConversionError, match=r"'encoder\.part': Unknown .*no rule is known.*(\n.*)*test_refusals\.py:\d+"
    ):
        converted(TwoInputs())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        # As one that torch itself brings, it is not traced through.
        unknown = type("Unknown", (nn.Module,), {"__module__": "torch.nn.unknown", "forward": lambda self, x, y: x * y})
        self.encoder = nn.ModuleDict({"part": unknown()})
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(x)
        return self.encoder["part"](x, x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["rnn.weight_hh_l0", "emb.weight", "fc.bias", "offset"])
def test_weights_that_are_not_finite(name, bad):
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t).mean(1) + self.offset)), q=2)
    dict([*ann.named_parameters(), *ann.named_buffers()])[name].data.view(-1)[1] = bad
    with pytest.raises(ConversionError, match=f"{re.escape(name)} holds {bad}: weights must be finite"):
        casc_core.convert(ann)


@pytest.mark.parametrize("q", [0, -3, 1.5, "2", None])
def test_bad_q(q):
    with pytest.raises(ConfigError, match="q, the number of levels, must be an integer of at least 1"):
        casc_core.prepare(nn.Sequential(nn.ReLU()), adapter="rnn", q=q)


def test_no_activation_to_convert():
    linear = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(ConversionError, match="no activation to convert"):
        casc_core.prepare(linear, adapter="rnn", q=2)
    with pytest.raises(ConversionError, match="no activation to convert"):
        casc_core.convert(linear, adapter="rnn", q=2)


def test_an_activation_that_is_never_called():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.fc = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x)

    with pytest.raises(ConversionError, match="nothing that could spike"):
        converted(Unused())


def test_max_norm_is_refused():
    model = user_model(lambda self, t: self.fc(self.states(t).mean(1)))
    model.emb.max_norm = 1.0
    with pytest.raises(ConversionError, match=r"module 'emb': Embedding .*set max_norm=None"):
        converted(model)


def test_mixed_q_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), casc_core.CQReLU(2), nn.Linear(4, 4), casc_core.CQReLU(4))
    with pytest.raises(ConversionError, match=r"same number of levels q.*'1': 2, '3': 4"):
        casc_core.convert(model, adapter="rnn")


@pytest.fixture(scope="module")
def network():
    def forward(self, tokens, lengths):
        mask = (torch.arange(tokens.shape[1])[None, :] < lengths[:, None]).unsqueeze(-1)
        return self.fc((self.states(tokens) * mask).sum(1) / lengths.unsqueeze(1))

    return converted(user_model(forward))


@pytest.mark.parametrize("call", ["__call__", "reference", "simulate"])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((TOKENS.clamp(max=5) + 6, LENGTHS), r"emb.*token id 11 is out of range; the table has rows 0\.\.10"),
        ((TOKENS - 1, LENGTHS), r"emb.*token id -1 is out of range"),
        ((TOKENS.float(), LENGTHS), "token ids must be integers; got torch.float32"),
        ((TOKENS > 0, LENGTHS), "token ids must be integers; got torch.bool"),
        ((TOKENS[:0], LENGTHS[:0]), "the batch is empty"),
        ((TOKENS[:, :0], LENGTHS), "the batch is empty"),
        ((TOKENS, LENGTHS * 0), "divided by 0; lengths must be at least 1"),
        ((TOKENS,), r"takes \(tokens, lengths\); got \(tokens\)"),
        ((TOKENS, LENGTHS, TOKENS), "takes tokens, lengths; got 3 inputs"),
        ((), r"takes \(tokens, lengths\); got no input"),
    ],
    ids=[
        "too large",
        "negative",
        "float",
        "bool",
        "empty batch",
        "no tokens",
        "zero length",
        "missing",
        "too many",
        "none",
    ],
)
def test_bad_inputs(network, call, inputs, message):
    with pytest.raises(InputError, match=message):
        getattr(network, call)(*inputs)


def test_unknown_input_names(network):
    with pytest.raises(InputError, match=r"unexpected or repeated input 'tokenz'; the network takes tokens, lengths"):
        network(TOKENS, LENGTHS, tokenz=TOKENS)
    with pytest.raises(InputError, match="repeated input 'tokens'"):
        network(TOKENS, LENGTHS, tokens=TOKENS)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "4"])
def test_bad_numbers_of_steps(network, steps):
    with pytest.raises(ConfigError, match="T, the number of time steps, must be an integer of at least 1") as error:
        network.simulate(TOKENS, LENGTHS, T=steps)
    assert repr(steps) in str(error.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(float("nan"), "must be finite"), (float("inf"), "must be finite"), (2048.0, "below 1024 in magnitude")],
)
def test_real_valued_inputs_must_be_finite_and_small(bad, message):
    snn = converted(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), numerics="exact")
    x = torch.zeros(2, 4)
    x[1, 2] = bad
    with pytest.raises(InputError, match=message):
        snn(x)


def test_types_stay_types_while_tracing():
    def forward(self, tokens):
        assert not isinstance(tokens, PackedSequence)
        return self.fc(self.states(tokens)[:, -1])

    assert casc_core.verify(converted(user_model(forward)), TOKENS).exact


def test_a_single_number_for_the_batch():
    snn = converted(user_model(lambda self, t: self.fc(self.states(t)).max()))
    with pytest.raises(InputError, match="one row for each sample"):
        snn(TOKENS)
