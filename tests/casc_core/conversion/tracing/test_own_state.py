"""Forwards that change their own model, run under a block, or ask what a trace would answer otherwise."""

from __future__ import annotations

import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core import ConversionError

IMAGES = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and things to change; the forward is given."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d, self.relu, self.drop = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Dropout(0.5)
        self.inner, self.k, self.cache, self.called, self.shapes = forward, 1.0, None, [], []
        self.register_buffer("n", torch.ones(1))

    def forward(self, x):
        return self.inner(self, x)


def clamps_weights(self, x):
    self.c.weight.data.clamp_(-0.25, 0.25)
    return self.d(self.relu(self.c(x)))


def sets_weights(self, x):
    self.c.weight.data = self.c.weight.data / 2
    return self.d(self.relu(self.c(x)))


def replaces_a_buffer(self, x):
    self.n = self.n * 2
    return self.d(self.relu(self.c(x))) * self.n


def writes_to_a_buffer(self, x):
    self.n.mul_(2)
    return self.d(self.relu(self.c(x))) * self.n


def writes_past_versions(self, x):
    self.n.data[0] = 3.0
    return self.d(self.relu(self.c(x))) * self.n


def keeps_a_state(self, x):
    self.n = self.relu(self.c(x)).mean() + self.n
    return self.d(self.relu(self.c(x)))


def counts_from_nothing(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    return self.d(self.relu(self.c(x))) * self.calls


def counts_in_a_list(self, x):
    self.called.append(1)
    return self.d(self.relu(self.c(x))) * len(self.called)


def reads_what_it_has_left(self, x):
    self.before, x = x, x + getattr(self, "before", 0)
    return self.d(self.relu(self.c(x)))


def leaves_what_it_does_not_read(self, x):
    self.features = self.relu(self.c(x))
    self.shapes.append(x.shape)
    return self.d(self.features)


def counts(self, x):
    self.k = self.k * 2
    return self.d(self.relu(self.c(x))) * self.k


def drops_in_evaluation(self, x):
    self.drop.train()
    return self.d(self.drop(self.relu(self.c(x))))


@pytest.mark.parametrize(
    "forward",
    [
        clamps_weights, sets_weights, replaces_a_buffer, writes_to_a_buffer, writes_past_versions, keeps_a_state, counts,
        counts_from_nothing, counts_in_a_list, reads_what_it_has_left, drops_in_evaluation,
    ],
)  # fmt: skip
def test_a_forward_that_changes_its_model_is_refused_and_undone(forward):
    model = Net(forward)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConversionError, match=r"changes its own|writes to its own|sets \.data"):
        casc_core.prepare(model, q=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.k == 1.0
    assert not model.called
    assert model.drop.training


def test_a_cache_and_what_only_training_changes_are_no_change():
    def caches(self, x):
        self.cache = x
        return self.d(self.relu(self.c(x)))

    def averages(self, x):
        if self.training:
            self.n.mul_(0.9)
        return self.d(self.relu(self.c(x))) * self.n

    for forward in (caches, averages, leaves_what_it_does_not_read):
        ann = casc_core.prepare(Net(forward), q=4).eval()
        assert ann.n == 1
        assert casc_core.verify(casc_core.convert(ann), IMAGES).exact


def test_a_trace_answers_as_the_network_does():
    def asks(self, x):
        y = self.d(self.relu(self.c(x * 2 if torch.is_tensor(x) else x)))
        return y if torch.is_grad_enabled() else 2 * y

    ann = casc_core.prepare(Net(asks), q=4).eval()
    snn = casc_core.convert(ann)
    assert casc_core.verify(snn, IMAGES).exact
    with torch.no_grad():
        torch.testing.assert_close(snn(IMAGES), ann(IMAGES), atol=1e-3, rtol=1e-3)
    assert not torch.is_tensor(0)


@pytest.mark.parametrize("block", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_a_block_that_a_copy_would_leave_out(block):
    def called(self, x):
        with block():
            h = F.relu(self.c(x))
        return self.d(h)

    def held(self, x):
        with block():
            h = self.relu(self.c(x))
        return self.d(h.float())

    with pytest.raises(
        ConversionError, match=r"under torch\.no_grad\(\), under torch\.autocast\(\)(.*\n)*  at .*test_own_state\.py"
    ):
        casc_core.prepare(Net(called), q=4)
    casc_core.prepare(Net(held), q=4)


def test_a_traced_copy_keeps_modes_keys_and_names():
    class Frozen(Net):
        def __init__(self):
            super().__init__(None)
            self.b, self.unused, self.gain = nn.BatchNorm2d(4), nn.Linear(2, 2), nn.Parameter(torch.ones(2))

        def forward(self, x, flag=True):
            return self.d(F.relu(self.b(self.c(x)))) if flag else x

    model = Frozen().train()
    model.b.eval()
    ann = casc_core.prepare(model, q=4)
    assert (ann.training, ann.b.training, ann.c.training) == (True, False, True)
    assert ann.state_dict().keys() == model.state_dict().keys()
    ann.load_state_dict(model.state_dict())
    assert torch.equal(ann(IMAGES, flag=True), ann(IMAGES))
    snn = casc_core.convert(ann.eval())
    assert torch.equal(snn(IMAGES, flag=True), snn(IMAGES))
    with pytest.raises(casc_core.InputError, match="'flag' was held at its default"):
        snn(IMAGES, flag=False)


def test_a_dictionary_of_inputs_is_refused_before_the_training():
    with pytest.raises(ConversionError, match=r"takes 'x' out of an input(.|\n)*class Wrapped"):
        casc_core.prepare(Net(lambda self, batch: self.d(self.relu(self.c(batch["x"])))), q=4)


def test_the_wrapper_for_dictionaries_is_one_that_works():
    class Two(Net):
        def __init__(self):
            super().__init__(None)

        def forward(self, scale, batch):
            return self.d(F.relu(self.c(batch["left"])) * scale + self.relu(self.c(batch["right one"])))

    with pytest.raises(ConversionError) as error:
        casc_core.prepare(Two(), q=4)
    lines = str(error.value).partition("as by\n")[2].splitlines()
    assert lines[3].strip() == "and hand over Wrapped(model), model being your Two"
    space = {"torch": torch}
    exec(textwrap.dedent("\n".join(lines[:3])), space)
    snn = casc_core.convert(casc_core.prepare(space["Wrapped"](Two()), q=4).eval())
    assert casc_core.verify(snn, torch.full((2, 1, 1, 1), 2.0), IMAGES, -IMAGES).exact


def test_a_forward_that_asks_for_the_type_of_an_activation_is_refused():
    class Taps(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.fc = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 2)

        def forward(self, x):
            for module in self.features:
                x = module(x)
                if isinstance(module, nn.ReLU):
                    x = x + 1
            return self.fc(x)

    with pytest.raises(ConversionError, match="asks for the type of an activation"):
        casc_core.prepare(Taps(), q=4)


class Doubled(nn.Conv2d):
    """Weights standardised, masked or doubled are often written so."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


class Wider(nn.ConvTranspose2d):
    def _output_padding(self, *args, **kwargs):
        return [1, 1]


@pytest.mark.parametrize("layer", [Doubled(3, 4, 3, padding=1), Wider(3, 4, 3, stride=2)])
def test_a_layer_with_a_part_of_its_own_is_looked_into_or_refused(layer):
    model = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    try:
        ann = casc_core.prepare(model, q=4).eval()
    except ConversionError:
        return
    assert casc_core.verify(casc_core.convert(ann), IMAGES).exact
