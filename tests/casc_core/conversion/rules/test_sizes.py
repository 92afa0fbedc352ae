"""Sizes that the input decides, constants that are added, and what is said before any training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, Head, check, cnn, conv

import casc_core
from casc_core import ConfigError, ConversionError, InputError


def average_over_all_by_size(self, x):
    x = self.relu(self.a(x))
    return self.fc(F.avg_pool2d(x, x.size()[2:]).flatten(1))


def average_over_all_by_one_side(self, x):
    x = self.relu(self.b(self.relu(self.a(x))))
    return self.fc(F.avg_pool2d(x, x.size(-1)).view(x.size(0), -1))


def average_by_shape_before_the_activation(self, x):
    x = self.relu(self.b(self.relu(self.a(x))))
    return self.fc(self.relu(F.avg_pool2d(self.b(x), kernel_size=x.shape[2:])).flatten(1))


def maximum_over_all_by_size(self, x):
    x = self.relu(self.a(x))
    return self.fc(F.max_pool2d(x, x.size()[2:]).flatten(1))


def half_of_each_side(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.b(F.max_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2)))))


def constant_added_and_taken_away(self, x):
    x = self.relu(self.a(x) + 0.25)
    return self.head(self.relu(1 - self.b(x)) - 0.125)


def constant_times_alpha(self, x):
    return self.head(self.relu(torch.sub(self.relu(self.a(x)).add(0.5, alpha=0.5), 0.25)))


FORWARDS = [
    average_over_all_by_size, average_over_all_by_one_side, average_by_shape_before_the_activation,
    maximum_over_all_by_size, half_of_each_side, constant_added_and_taken_away, constant_times_alpha,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_it_is_exact_and_the_same_function(forward):
    check(cnn(forward, a=conv(), b=conv(6), relu=nn.ReLU(), head=Head(), fc=nn.Linear(6, 5)), IMAGES)


@pytest.mark.parametrize("layer", [nn.LPPool2d(2, 2), nn.Upsample(scale_factor=1.5, mode="bilinear")])
def test_prepare_says_what_convert_would_refuse(layer):
    with pytest.raises(ConversionError, match=type(layer).__name__):
        casc_core.prepare(nn.Sequential(conv(), nn.ReLU(), layer, Head()), adapter="cnn", q=4)


def test_a_loader_with_labels_calibrates():
    model = nn.Sequential(conv(), nn.ReLU(), Head()).eval()
    batches = [[IMAGES[:3], torch.zeros(3)], [IMAGES[3:], torch.zeros(3)]]
    assert casc_core.calibrate(model, batches, q=16).samples == 6
    with pytest.raises(InputError, match="put it into a list"):
        casc_core.calibrate(model, IMAGES, q=16)
    with pytest.raises(ConfigError, match=r"got Calibration; take its \.model"):
        casc_core.convert(casc_core.calibrate(model, [IMAGES], q=16))


def test_mistakes_in_arguments():
    model = nn.Sequential(conv(), nn.ReLU(), Head()).eval()
    with pytest.raises(ConfigError, match=r"takes a torch\.nn\.Module; got str"):
        casc_core.prepare("resnet", q=4)
    with pytest.raises(ConfigError, match="threshold must be positive"):
        casc_core.prepare(model, q=4, threshold="1")
    snn = casc_core.convert(casc_core.prepare(model, q=4))
    with pytest.raises(ConfigError, match="an instance"):
        snn.under(casc_core.IF)
    assert snn.under(casc_core.IF()).settings.schedule == snn.settings.schedule
