"""Batch normalisation in convolutional networks, by graph edge: wherever it stands, however it is written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, SERIES, Head, check, cnn, conv, settled

import casc_core
from casc_core import ConversionError, CQReLU


class ByHand(nn.BatchNorm2d):
    """With an activation of its own, as some libraries write it."""

    def __init__(self, channels, activation):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), activation

    def forward(self, x):
        statistics = not self.training or self.track_running_stats
        x = F.batch_norm(
            x, self.running_mean if statistics else None, self.running_var if statistics else None, self.weight, self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        return self.act(self.drop(x))


class Padded(nn.Conv2d):
    """Pads by itself, from the size of its input."""

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width - height + 2, 1, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def norm_before_the_first_convolution(self, x):
    return self.head(self.relu(self.a(self.n(x))))


def registered_in_another_order(self, x):
    return self.head(self.relu(self.n(self.b(self.relu(self.m(self.a(x)))))))


def convolution_read_twice(self, x):
    x = self.a(x)
    return self.head(self.relu(self.n(x)) + self.relu(x))


def convolution_with_two_normalisations(self, x):
    x = self.a(x)
    return self.head(self.relu(self.b(self.relu(self.n(x)))) + self.relu(self.m(x)))


def two_in_a_row(self, x):
    return self.head(self.relu(self.b(self.m(self.n(self.relu(self.m(self.n(self.a(x)))))))))


def dropout_and_identity_between(self, x):
    x = F.dropout2d(self.identity(self.drop(self.a(x))), 0.2, self.training)
    return self.head(self.relu(self.drop(self.n(x))))


def behind_a_pool_of_currents(self, x):
    return self.head(self.relu(self.n(F.avg_pool2d(self.a(x), 3, 2)) + self.m(F.max_pool2d(self.a(x), 3, 2))))


def on_scaled_and_negated_currents(self, x):
    return self.head(self.relu(self.n(self.a(x) * -0.5)))


def on_shuffled_channels(self, x):
    return self.head(self.relu(self.n(F.channel_shuffle(self.a(x), 2))))


def of_spikes_before_a_reflecting_convolution(self, x):
    return self.head(self.relu(self.reflecting(self.n(self.relu(self.a(x))))))


def of_spikes_before_a_grouped_convolution(self, x):
    return self.head(self.relu(self.grouped(self.n(self.relu(self.a(x))))))


def of_a_residual_of_spikes(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.b(self.n(x + self.relu(self.b(x))))))


def of_spikes_before_pooling_and_a_readout(self, x):
    return self.head(F.max_pool2d(self.n(self.relu(self.a(x))), 2))


def functional(self, x):
    n = self.n
    return self.head(self.relu(F.batch_norm(self.a(x), n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)))


def without_factors(self, x):
    return self.head(self.relu(self.plain(self.a(x))))


def at_the_very_end(self, x):
    return self.n(self.b(self.relu(self.a(x)))).mean((2, 3))


FORWARDS = (
    norm_before_the_first_convolution, registered_in_another_order, convolution_read_twice,
    convolution_with_two_normalisations, two_in_a_row, dropout_and_identity_between, behind_a_pool_of_currents,
    on_scaled_and_negated_currents, on_shuffled_channels, of_spikes_before_a_reflecting_convolution,
    of_spikes_before_a_grouped_convolution, of_a_residual_of_spikes, of_spikes_before_pooling_and_a_readout, functional,
    without_factors, at_the_very_end,
)  # fmt: skip


def network(forward, **more):
    layers = {
        "m": nn.BatchNorm2d(6), "n": nn.BatchNorm2d(3 if "first" in forward.__name__ else 6), "b": conv(6),
        "a": conv(bias="dropout" in forward.__name__), "relu": nn.ReLU(), "drop": nn.Dropout2d(0.3),
        "identity": nn.Identity(), "plain": nn.BatchNorm2d(6, affine=False), "head": Head(),
        "reflecting": conv(6, padding_mode="reflect"), "grouped": conv(6, 8, groups=2, bias=False) if "grouped" in
        forward.__name__ else nn.Identity(),
    }  # fmt: skip
    if "grouped" in forward.__name__:
        layers["head"] = Head(8)
    return cnn(forward, **(layers | more))


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_it_is_exact_and_the_same_function(forward):
    check(network(forward), IMAGES)


def test_a_channel_that_never_varied_in_training():
    model = network(registered_in_another_order)
    with torch.no_grad():
        model.a.weight[2] *= 1e-3
        model.m.running_mean[2] = model.m.running_var[2] = 0.0
    check(model, IMAGES)


def test_channels_that_a_factor_turns_off_or_around():
    model = network(of_spikes_before_a_grouped_convolution)
    with torch.no_grad():
        model.n.weight[1], model.n.weight[4] = 0.0, -1.3
    check(model, IMAGES)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()], ids=str)
def test_layers_with_a_forward_of_their_own(activation):
    def forward(self, x):
        return self.head(self.m(self.b(self.n(self.a(x)))))

    model = cnn(
        forward, a=Padded(3, 6, 3), n=ByHand(6, activation), b=conv(6), m=ByHand(6, nn.ReLU(inplace=True)), head=Head()
    )
    snn = check(model, IMAGES)
    assert snn.layers == ("n.act", "m.act")


def test_one_dimension():
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.BatchNorm1d(6),
        nn.Conv1d(6, 4, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    check(settled(model), SERIES)


def test_norms_that_were_trained_on_several_devices():
    model = nn.Sequential(conv(), nn.SyncBatchNorm(6), nn.ReLU(), conv(6), nn.SyncBatchNorm(6), nn.ReLU(), Head())
    check(settled(model), IMAGES)


def test_training_continues_after_preparing():
    """Preparing leaves the statistics as they are, and they still follow the data afterwards."""
    model = network(registered_in_another_order).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    assert {name: value.tolist() for name, value in ann.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert isinstance(ann.relu, CQReLU)
    ann(IMAGES)
    assert not torch.equal(ann.n.running_mean, before["n.running_mean"])


def test_functional_statistics_follow_train_and_eval_after_preparing_or_are_refused():
    """A graph holds one of the two; a copy of the model that normalises by the wrong statistics must not come out."""

    def forward(self, x):
        n = self.n
        x = F.batch_norm(self.a(x), n.running_mean, n.running_var, n.weight, n.bias, training=self.training)
        return self.head(F.relu(x))

    for training in (True, False):
        with pytest.raises(ConversionError, match=r"branches on self\.training"):
            casc_core.prepare(
                cnn(forward, a=conv(), n=nn.BatchNorm2d(6), head=Head()).train(training), adapter="cnn", q=4
            )
