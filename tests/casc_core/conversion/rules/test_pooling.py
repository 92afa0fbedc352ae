"""Pooling in convolutional networks: maxima and averages, over windows and over parts. Exact, and the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, SERIES, Head, check, cnn, conv, settled

import casc_core


def two_maxima_in_a_row(self, x):
    return self.head(self.relu(self.b(self.max2(self.max3(self.relu(self.a(x)))))))


def spatial_pyramid(self, x):
    x = self.relu(self.a(x))
    x = torch.cat([x, *[F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]], 1)
    return self.head(self.relu(self.wide(x)))


def spatial_pyramid_in_a_chain(self, x):
    a = self.relu(self.a(x))
    b = self.five(a)
    c = self.five(b)
    return self.head(self.relu(self.wide(torch.cat((a, b, c, self.five(c)), 1))))


def maxima_with_padding_ceil_mode_and_dilation(self, x):
    x = self.relu(self.a(x))
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    x = F.max_pool2d(x, (2, 3), stride=1, padding=(1, 0), dilation=(2, 1))
    return self.head(self.relu(self.b(x)))


def maximum_by_keywords(self, x):
    return self.head(self.relu(self.b(F.max_pool2d(self.relu(self.a(x)), kernel_size=2, stride=None, ceil_mode=True))))


def maximum_before_the_activation(self, x):
    return self.head(self.relu(self.b(self.relu(self.max2(self.n(self.a(x)))))))


def maximum_of_the_image(self, x):
    return self.head(self.relu(self.a(self.max3(x))))


def maximum_of_a_residual(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.max3(self.b(x) + x) - x))


def maximum_of_an_average(self, x):
    return self.head(self.relu(self.b(self.max2(F.avg_pool2d(self.relu(self.a(x)), 3, 2, 1)))))


def maximum_after_negation(self, x):
    return self.head(self.relu(self.b(self.max2(-self.relu(self.a(x))))))


def maximum_of_normalised_spikes(self, x):
    return self.head(self.relu(self.b(self.max3(self.n(self.relu(self.a(x)))))))


def averages(self, x):
    return self.head(self.relu(self.b(self.mean2(self.relu(self.a(x))))))


def average_before_the_activation(self, x):
    return self.head(self.relu(self.mean3(self.b(self.relu(self.mean3(self.a(x)))))))


def averages_with_padding_counted_or_not(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.b(F.avg_pool2d(x, 3, 1, 1)) + F.avg_pool2d(x, 3, 1, 1, False, False)))


def averages_in_ceil_mode(self, x):
    x = F.avg_pool2d(self.relu(self.a(x)), 3, 2, ceil_mode=True)
    x = F.avg_pool2d(self.relu(self.b(x)), (3, 2), (2, 3), (1, 1), ceil_mode=True, count_include_pad=False)
    return self.head(self.relu(self.b(x)))


def averages_with_a_divisor_of_their_own(self, x):
    x = F.avg_pool2d(self.relu(self.a(x)), 2, divisor_override=3)
    return self.head(self.relu(self.b(F.avg_pool2d(x, 3, 2, 1, True, False, divisor_override=5))))


def average_in_two_sizes(self, x):
    x = self.relu(self.a(x))
    return self.flat(torch.cat([F.adaptive_avg_pool2d(x, (2, 3)).flatten(1), self.one(x).flatten(1)], 1))


def average_of_the_wrong_way_round(self, x):
    return self.head(self.relu(self.b(self.seven(self.mean2(self.relu(self.a(x)))))))


def average_that_leaves_a_dimension(self, x):
    return self.head(self.relu(self.b(F.adaptive_avg_pool2d(self.relu(self.a(x)), (None, 3)))))


def values_beside_indices(self, x):
    x, _ = F.max_pool2d(self.relu(self.a(x)), 2, return_indices=True)
    x, _unread = F.adaptive_max_pool2d(self.relu(self.b(x)), (3, 2), return_indices=True)
    return self.head(nn.MaxPool2d(2, return_indices=True)(self.relu(self.b(x)))[0])


def average_by_interpolation(self, x):
    x = F.interpolate(self.relu(self.a(x)), size=(5, 3), mode="area")
    return self.head(F.interpolate(self.relu(self.b(x)), 2, mode="area"))


def adaptive_maxima(self, x):
    x = F.adaptive_max_pool2d(self.relu(self.a(x)), (5, 3))
    return self.head(
        F.adaptive_max_pool2d(self.relu(self.b(x)), 1) + F.adaptive_max_pool2d(x, (None, 2)).amax((2, 3), True)
    )


def means_over_dimensions(self, x):
    x = self.relu(self.b(self.relu(self.a(x))))
    return self.fc(x.mean((2, 3)) + x.mean(-1).mean(-1) + torch.mean(x, dim=[2, 3]) + x.sum((-1, -2)) / 64)


FORWARDS = [
    two_maxima_in_a_row, spatial_pyramid, spatial_pyramid_in_a_chain, maxima_with_padding_ceil_mode_and_dilation,
    maximum_by_keywords, maximum_before_the_activation, maximum_of_the_image, maximum_of_a_residual,
    maximum_of_an_average, maximum_after_negation, maximum_of_normalised_spikes, averages, average_before_the_activation,
    averages_with_padding_counted_or_not, averages_in_ceil_mode, averages_with_a_divisor_of_their_own,
    average_in_two_sizes, average_of_the_wrong_way_round, average_that_leaves_a_dimension, adaptive_maxima,
    means_over_dimensions, values_beside_indices, average_by_interpolation,
]  # fmt: skip


def network(forward):
    return cnn(
        forward, a=conv(), b=conv(6), n=nn.BatchNorm2d(6), relu=nn.ReLU(), wide=conv(24), head=Head(),
        fc=nn.Linear(6, 4), flat=nn.Linear(42, 4), max2=nn.MaxPool2d(2), max3=nn.MaxPool2d(3, 1, 1),
        five=nn.MaxPool2d(5, stride=1, padding=2), mean2=nn.AvgPool2d(2), mean3=nn.AvgPool2d(3, 1),
        one=nn.AdaptiveAvgPool2d(1), seven=nn.AdaptiveAvgPool2d(7),
    )  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_it_is_exact_and_the_same_function(forward):
    check(network(forward), IMAGES)


def test_one_dimension():
    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.cat([F.max_pool1d(x, 3, 2, 1, ceil_mode=True), F.avg_pool1d(x, 3, 2, 1, True, False)], 1)
        return self.fc(torch.cat([self.some(x), self.most(x)], 2).flatten(1))

    model = cnn(
        forward, a=nn.Conv1d(3, 4, 2), some=nn.AdaptiveAvgPool1d(4), most=nn.AdaptiveMaxPool1d(3), fc=nn.Linear(56, 4)
    )
    check(model, SERIES)


def test_flatten_after_a_pool_and_hidden_layers():
    model = nn.Sequential(
        conv(), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2), nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(20, 4),
    )  # fmt: skip
    check(settled(model), IMAGES)


def averages_of_averages(self, x):
    x = self.relu(self.a(x))
    for _ in range(2):
        x = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    return self.fc(x.mean((2, 3)))


def maximum_of_averages_of_averages(self, x):
    x = self.relu(self.a(x))
    for _ in range(2):
        x = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    return self.fc(F.max_pool2d(x, 8).flatten(1))


def sum_of_averages_of_averages(self, x):
    x = self.relu(self.a(x))
    for _ in range(2):
        x = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    return self.fc((x + x + x + x).mean((2, 3)))


def average_over_windows_of_many_sizes(self, x):
    x = F.avg_pool2d(self.relu(self.a(F.interpolate(x, scale_factor=2))), 11, 1, 5, count_include_pad=False)
    return self.fc(x[:, :, 0, 0] + x[:, :, 5, 3])


@pytest.mark.parametrize("q", [16, 127, 128, 300])
@pytest.mark.parametrize(
    "forward",
    [
        averages_of_averages,
        maximum_of_averages_of_averages,
        sum_of_averages_of_averages,
        average_over_windows_of_many_sizes,
    ],
    ids=lambda forward: forward.__name__,
)
def test_sums_beyond_the_integers_of_few_bits(forward, q):
    model = network(forward)
    with torch.no_grad():
        model.a.bias += 9.0  # every neuron at its peak
        model.fc.weight.copy_((model.fc.weight * 8).round() / 8)  # a few bits hold them
    ann = casc_core.prepare(model, q=q, adapter="cnn")
    snn = casc_core.convert(ann, adapter="cnn", numerics=casc_core.Exact(weight_bits=6))
    report = casc_core.verify(snn, IMAGES[:2])
    assert report.exact, str(report)
    torch.testing.assert_close(snn.reference(IMAGES[:2]), ann(IMAGES[:2]).detach(), rtol=1e-3, atol=1e-3)
