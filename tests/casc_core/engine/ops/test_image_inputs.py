"""Inputs that do not fit a convolutional network: named by module, shape and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from user_cnns import IMAGES, SERIES, Head, conv, converted, settled

import casc_core
from casc_core import InputError

IN_TWO = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), conv(6, 6, 3, 0), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))
NORMED = nn.Sequential(nn.BatchNorm2d(3), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))
POOLED = nn.Sequential(nn.AvgPool2d(3), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))
ADAPTED = nn.Sequential(nn.AdaptiveMaxPool2d(4), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
LINE = nn.Sequential(nn.Conv1d(3, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (IN_TWO, IMAGES[0], r"0: expected an input \[batch, 3, height, width\]; got \[3, 8, 8\]"),
        (IN_TWO, IMAGES[:, :2], r"0: expected an input \[batch, 3, height, width\]; got \[6, 2, 8, 8\]"),
        (IN_TWO, IMAGES[:, 0], r"0: expected an input \[batch, 3, height, width\]; got \[6, 8, 8\]"),
        (IN_TWO, IMAGES[:, :, :1], "2: a size of 1 is too small for a window of 2"),
        (IN_TWO, IMAGES[:, :, :4, :4], "3: a padded size of 2 is too small for a kernel that spans 3"),
        (IN_TWO, torch.cat([IMAGES, IMAGES], 3), r"6: expected an input whose last dimension is 24; got \[6, 72\]"),
        (IN_TWO, IMAGES[:0], "the batch is empty"),
        (IN_TWO, IMAGES * float("nan"), "must be finite, and one is nan"),
        (NORMED, IMAGES[:, :2], r"3 channels.*got.* \[6, 2, 8, 8\]"),
        (NORMED, IMAGES[0, 0], r"3 channels.*got.* \[8, 8\]"),
        (POOLED, IMAGES[0], r"1: expected an input \[batch, 3, height, width\]; got \[3, 2, 2\]"),
        (POOLED, IMAGES[:, :, :2], "0: a size of 2 is too small for a window of 3"),
        (ADAPTED, IMAGES[0, 0], r"0: expected an input \[batch, \(channels,\) height, width\]; got \[8, 8\]"),
        (LINE, IMAGES, r"0: expected an input \[batch, 3, length\]; got \[6, 3, 8, 8\]"),
        (LINE, SERIES[:, :, :4], "0: a padded size of 4 is too small for a kernel that spans 5"),
        (LINE, SERIES[:, :, :5], "2: a size of 1 is too small for a window of 2"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(model, inputs, message):
    snn = converted(settled(model))
    for call in (snn, snn.reference, snn.simulate):
        with pytest.raises(InputError, match=message):
            call(inputs)


def test_inputs_are_small_where_they_are_rounded():
    snn = casc_core.convert(casc_core.prepare(IN_TWO, q=4).eval(), numerics=casc_core.Exact())
    with pytest.raises(InputError, match="below 1024 in magnitude"):
        snn(IMAGES * 1e4)


def test_a_window_in_the_padding_alone():
    """`nn.MaxPool2d` takes no such padding, but a dilated window can fall there."""
    model = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2, 1, padding=1, dilation=9), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(InputError, match="2: a window of its maximum lies in the padding alone"):
        converted(model)(IMAGES)


def test_convolutions_whose_channels_do_not_follow():
    model = nn.Sequential(conv(3, 6), nn.ReLU(), conv(5, 4), nn.ReLU(), Head(4))
    with pytest.raises(InputError, match=r"2: expected an input \[batch, 5, height, width\]; got \[6, 6, 8, 8\]"):
        converted(model)(IMAGES)
