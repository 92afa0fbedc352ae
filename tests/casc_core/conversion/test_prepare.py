"""`prepare`: a trainable copy whose activations have levels; the model is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from user_models import TOKENS, Body, user_model

import casc_core
from casc_core import CQReLU, Rounded
from casc_seq.layers.rnn import RNN


def test_the_model_is_left_alone_and_weights_carry_over():
    model = user_model(
        lambda self, t: self.fc(self.act(self.states(t).mean(1))), layers=2, bidirectional=True, width=10
    )
    before, text = copy.deepcopy(model.state_dict()), repr(model)
    ann = casc_core.prepare(model, adapter="rnn", q=4)
    with torch.no_grad():
        for parameter in ann.parameters():
            parameter.add_(1.0)
    assert repr(model) == text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(ann.state_dict()) == list(before)
    assert torch.equal(ann.fc.bias, before["fc.bias"] + 1.0)


def test_modules_are_replaced_wherever_they_stand():
    ann = casc_core.prepare(user_model(lambda self, t: self.head(self.states(t)[:, -1])), q=3, threshold=2.0)
    assert type(ann).__mro__[1] is Body
    assert isinstance(ann.rnn, RNN)
    for module in (ann.act, ann.head[1]):
        assert isinstance(module, CQReLU)
    assert {(m.q, m.threshold) for m in (ann.rnn, ann.act, ann.head[1])} == {(3, 2.0)}
    assert repr(ann.act2) == "Rounded(q=3, 'tanh')"


def test_a_model_that_is_an_activation():
    assert isinstance(casc_core.prepare(nn.ReLU(), adapter="rnn", q=2), CQReLU)
    assert isinstance(casc_core.prepare(nn.Tanh(), adapter="rnn", q=2), Rounded)


CALLS = {
    F.relu: nn.ReLU(), torch.relu: nn.ReLU(), torch.tanh: nn.Tanh(), F.tanh: nn.Tanh(), torch.sigmoid: nn.Sigmoid(),
    F.hardsigmoid: nn.Hardsigmoid(), F.hardtanh: nn.Hardtanh(), F.hardswish: nn.Hardswish(), F.silu: nn.SiLU(),
    F.softsign: nn.Softsign(), F.leaky_relu: nn.LeakyReLU(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("call", "module"),
    [
        *CALLS.items(), (lambda x: x.relu(), nn.ReLU()), (lambda x: x.tanh(), nn.Tanh()),
        (lambda x: x.sigmoid(), nn.Sigmoid()),
        (lambda x: x.clamp(-2, 2), nn.Hardtanh(-2, 2)), (lambda x: F.leaky_relu(x, negative_slope=0.5), nn.LeakyReLU(0.5)),
    ],
)  # fmt: skip
def test_activations_called_as_functions(call, module):
    ann = casc_core.prepare(
        user_model(lambda self, t: self.fc(call(self.h(self.states(t)[:, -1])))), adapter="rnn", q=4
    )
    assert isinstance(ann, fx.GraphModule)
    reference = user_model(lambda self, t: self.fc(self.act(self.h(self.states(t)[:, -1]))))
    reference.act = module
    expected = casc_core.prepare(reference, adapter="rnn", q=4)
    assert torch.equal(ann(TOKENS), expected(TOKENS))


def test_it_trains():
    torch.manual_seed(0)
    model = Body()
    type(model).forward = lambda self, t: self.fc(self.states(t).mean(1))
    try:
        ann = casc_core.prepare(model, adapter="rnn", q=4)
        labels = TOKENS[:, 0] % 3
        optimiser = torch.optim.Adam(ann.parameters(), 0.05)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = F.cross_entropy(ann(TOKENS), labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    finally:
        del Body.forward
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_kept(training):
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t)[:, -1])).train(training), q=2)
    assert all(module.training == training for module in ann.modules())


def test_preparing_twice_changes_nothing():
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t)[:, -1])), q=2)
    again = casc_core.prepare(ann, q=2)
    assert torch.equal(ann(TOKENS), again(TOKENS))


def test_optional_arguments_beside_functional_activations_are_refused_with_a_remedy():
    model = user_model(lambda self, t, lengths=None: self.fc(F.relu(self.states(t)[:, -1])))
    with pytest.raises(casc_core.ConversionError, match=r"use nn\.ReLU\(\) modules"):
        casc_core.prepare(model, q=2)


def test_a_forward_is_traced_as_it_is_and_as_it_is_prepared():
    times = []

    class Counted(nn.Sequential):
        def forward(self, x):
            times.append(self)
            return super().forward(x)

    casc_core.prepare(Counted(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), q=4)
    assert len(times) == 2


class Shifted(nn.ReLU):
    """An activation of the user's, by inheritance."""

    def forward(self, x):
        return 2 * super().forward(x + 0.5)


class Named(nn.Tanh):
    """Nothing but another name."""


def test_a_forward_of_its_own_is_looked_through():
    model = nn.Sequential(nn.Linear(4, 6), Shifted(), nn.Linear(6, 6), Named(), nn.Linear(6, 2))
    ann, x = casc_core.prepare(model, q=4).eval(), torch.randn(9, 4)
    assert sorted(type(each).__name__ for each in ann.modules() if isinstance(each, (CQReLU, Rounded))) == [
        "CQReLU",
        "Rounded",
    ]
    snn = casc_core.convert(ann)
    assert casc_core.verify(snn, x).exact
    hidden = 2 * CQReLU(4)(model[0](x).double() + 0.5)
    expected = model[4].double()(Rounded(4, "tanh")(model[2].double()(hidden)))
    torch.testing.assert_close(snn(x).double(), expected, rtol=0, atol=1e-6)


class CutUp(nn.Module):
    """Its layers are called in slices, and some are made while it runs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        h = self.layers[:2](x)
        h = nn.Sequential(*list(self.layers.children())[2:4])(h) + nn.ReLU6()(self.layers[2](h))
        return self.layers[-1](nn.Identity()(h))


def test_layers_that_a_forward_puts_together_are_looked_through():
    model, x = CutUp(), torch.randn(9, 4)
    ann = casc_core.prepare(model, q=4).eval()
    snn = casc_core.convert(ann)
    assert casc_core.verify(snn, x).exact
    assert len(snn.layers) == 3
    torch.testing.assert_close(snn(x), ann(x), rtol=0, atol=1e-5)


def test_a_layer_of_no_model_is_refused():
    class Makes(CutUp):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Linear(4, 4)]

        def forward(self, x):
            return super().forward(self.hidden[0](x))

    with pytest.raises(casc_core.ConversionError, match=r"does not hold as its own(.*\n)*.*nn\.ModuleList"):
        casc_core.prepare(Makes(), q=4)
