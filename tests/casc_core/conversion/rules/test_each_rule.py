"""Each rule through a model that uses it: exact in spikes, and the same answer as the model's own forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from forwards import FORWARDS, ROWS
from torch import nn
from user_models import LENGTHS, TOKENS, user_model

import casc_core


def close_to_ann(ann, snn, inputs, tolerance=1e-5):
    with torch.no_grad():
        expected = ann(*inputs)
    torch.testing.assert_close(snn.reference(*inputs), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FORWARDS)
def test_rule_is_exact_and_is_the_models_own_answer(name):
    forward, inputs, sizes = FORWARDS[name]
    # Powers of two: the ANN's own float32 sums are then free of rounding too, so that the two can be compared closely.
    q = (2, 4, 8)[list(FORWARDS).index(name) % 3]
    ann = casc_core.prepare(user_model(forward, **sizes), adapter="rnn", q=q).eval()
    snn = casc_core.convert(ann, adapter="rnn")
    report = casc_core.verify(snn, *inputs)
    assert report.exact, str(report)
    assert report.ann_predictions_moved == 0
    # A third is not on any such grid, so there a neuron on an edge may fall to another level.
    close_to_ann(ann, snn, inputs, tolerance=0.5 if "third" in name else 1e-5)
    assert report.silent_at.shape == (7,)
    assert int((report.silent_at > 0).sum()) >= 3
    whole = snn.simulate(*inputs)
    snn.memory_limit = 1  # sample by sample, for each forward is proven to keep them apart
    apart = snn.simulate(*inputs)
    assert torch.equal(apart.logits, whole.logits)
    assert torch.equal(apart.silent_at, whole.silent_at)


def test_one_output_predicts_by_its_sign():
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t).mean(1)).squeeze(-1), classes=1), q=4)
    report = casc_core.verify(casc_core.convert(ann.eval()), TOKENS)
    assert report.exact
    assert report.ann_predictions_moved == 0


def random_weights(forward, seed, **sizes):
    model = user_model(forward, **sizes)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.8)
    return model


def scaled_by_a_third(self, tokens):
    o = self.states(tokens)
    return self.fc(o[:, 0]) * (1 / 3) + self.fc(o[:, 1])


def scaled_by_large_integers(self, tokens, lengths):
    o = self.states(tokens)
    return self.fc(o[:, 0] * 1.0) * (lengths[:, None] * 1000003) + self.fc(o[:, 1])


def divided_by_three(self, tokens):
    return self.fc(self.states(tokens).sum(1) / 3)


def half_added_to_a_linear_map(self, tokens):
    o = self.states(tokens)
    return self.fc(self.h(o) + 0.5 * self.h2(o)).sum(1)


def mean_of_five_and_a_linear_map(self, tokens):
    o = self.states(tokens[:, :5])
    return self.fc(o).mean(1) + self.fc(o[:, 1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "forward",
    [scaled_by_a_third, scaled_by_large_integers, divided_by_three, half_added_to_a_linear_map,
     mean_of_five_and_a_linear_map],
    ids=lambda forward: forward.__name__,
)  # fmt: skip
def test_products_with_factors_do_not_round(forward, seed):
    """A train that just fits float32 must not be multiplied in float32."""
    inputs = (TOKENS, LENGTHS) if "lengths" in forward.__code__.co_varnames else (TOKENS,)
    ann = casc_core.prepare(random_weights(forward, seed), q=16).eval()
    snn = casc_core.convert(ann, numerics="exact")
    report = casc_core.verify(snn, *inputs)
    assert report.exact, str(report)
    torch.testing.assert_close(snn.reference(*inputs), ann(*inputs).detach(), rtol=2e-3, atol=2e-3)


def test_optional_argument_is_lowered_for_each_way_to_call():
    ann = casc_core.prepare(user_model(FORWARDS["optional_len"][0]), q=4).eval()
    snn = casc_core.convert(ann)
    for inputs, named in (
        ((TOKENS,), {}),
        ((TOKENS, LENGTHS), {}),
        ((TOKENS,), {"lengths": LENGTHS}),
        ((), {"t": TOKENS}),
    ):
        if "t" in named:
            named = {next(iter(snn.settings.arguments)): TOKENS}
        assert casc_core.verify(snn, *inputs, **named).exact
        torch.testing.assert_close(snn(*inputs, **named), ann(*inputs, **named).detach(), rtol=1e-5, atol=1e-5)
    assert not torch.equal(snn(TOKENS), snn(TOKENS, LENGTHS))


def test_dropout_called_as_a_function_follows_train_and_eval_after_preparing():
    def forward(self, tokens):
        return self.fc(F.dropout(F.relu(self.h(self.states(tokens)[:, -1])), 0.5, self.training))

    ann = casc_core.prepare(user_model(forward).train(), q=4)
    torch.manual_seed(0)
    assert not torch.equal(ann(TOKENS), ann(TOKENS))
    ann.eval()
    assert torch.equal(ann(TOKENS), ann(TOKENS))


def test_one_activation_module_used_twice_is_two_populations():
    snn = casc_core.convert(casc_core.prepare(user_model(FORWARDS["relu_twice"][0]), q=2))
    assert snn.layers == ("rnn", "act", "act#2")


def test_a_plain_sequential_model():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    ann = casc_core.prepare(model, adapter="rnn", q=4).eval()
    assert casc_core.verify(casc_core.convert(ann, adapter="rnn"), ROWS).exact
