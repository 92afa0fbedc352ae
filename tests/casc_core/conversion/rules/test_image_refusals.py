"""What cannot be exact in a convolutional network is refused: where it stands, what it is, and what to do instead."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import Head, cnn, conv, converted

import casc_core
from casc_core import ConversionError

MODULES = {
    nn.GELU(): "replace it by nn.ReLU, or by nn.SiLU or nn.Hardswish",
    nn.Mish(): "replace it by nn.ReLU, or by nn.SiLU or nn.Hardswish",
    nn.CELU(): "replace it by nn.ReLU, or by nn.LeakyReLU",
    nn.LogSigmoid(): "replace it by nn.ReLU",
    nn.Softshrink(): "write it as relu(x - lambd) - relu(-x - lambd)",
    nn.Tanhshrink(): "write it as x - torch.tanh(x)",
    nn.RReLU(): "use an nn.LeakyReLU() or nn.PReLU() module",
    nn.GroupNorm(2, 6): "use BatchNorm",
    nn.LayerNorm([6, 8, 8]): "use BatchNorm",
    nn.InstanceNorm2d(6): "use BatchNorm",
    nn.LocalResponseNorm(2): "use BatchNorm",
    nn.Softmax2d(): "return the logits",
    nn.BatchNorm2d(6, track_running_stats=False): "use track_running_stats=True",
    nn.Upsample(scale_factor=2, mode="bicubic"): "use mode='nearest' or 'bilinear'",
    nn.UpsamplingBilinear2d(scale_factor=1.5): "scale_factor=1.5 is no whole number",
    nn.ConvTranspose3d(6, 6, 2): "use nn.Upsample(scale_factor=2) and nn.Conv3d",
    nn.ConstantPad2d(1, float("inf")): "it fills with inf",
    nn.LPPool2d(2, 2): "use an average pool or a maximum pool",
    nn.FractionalMaxPool2d(2, output_size=3): "it is random",
    nn.MaxUnpool2d(2): "enlarge by nn.Upsample or nn.ConvTranspose2d",
    nn.Fold((8, 8), 1): "use nn.ConvTranspose2d",
    nn.MSELoss(): "return the logits",
}


@pytest.mark.parametrize("part", MODULES, ids=lambda part: type(part).__name__)
def test_module_is_refused_by_its_path(part):
    model = nn.Sequential(nn.Sequential(conv(), part, nn.ReLU()), Head())
    with pytest.raises(ConversionError) as error:
        converted(model)
    message = str(error.value)
    assert re.search(rf"module '0\.1': {type(part).__name__} cannot be converted exactly: ", message), message
    assert MODULES[part] in message, message


def gelu(self, x):
    return self.head(self.relu(self.b(F.gelu(self.a(x)))))


def smoothed(self, x):
    return self.head(F.interpolate(self.relu(self.a(x)), scale_factor=2, mode="bilinear", antialias=True))


def bicubic_to_a_size(self, x):
    x = self.relu(self.a(x))
    return self.head(self.b(F.interpolate(F.max_pool2d(x, 2), x.shape[-2:], mode="bicubic")))


def indices(self, x):
    x, where = F.max_pool2d(self.relu(self.a(x)), 2, return_indices=True)
    return self.head(x + where)


def indices_of_a_module(self, x):
    return self.head(self.with_indices(self.relu(self.a(x)))[1].float())


def transposed_to_a_size(self, x):
    return self.head(self.transposed(self.relu(self.a(x)), output_size=[16, 16]))


def transposed_by_computed_weights(self, x):
    return self.head(F.conv_transpose2d(self.relu(self.a(x)), x.mean() * self.b.weight))


def batch_statistics(self, x):
    return self.head(self.relu(F.batch_norm(self.a(x), None, None, training=True)))


def batch_statistics_always(self, x):
    n = self.n
    return self.head(self.relu(F.batch_norm(self.a(x), n.running_mean, n.running_var, n.weight, n.bias, True)))


def statistics_by_hand(self, x):
    x = self.a(x)
    return self.head(self.relu(x - x.mean((2, 3), keepdim=True)) / x.std())


def functional_layer_norm(self, x):
    return self.head(self.relu(F.layer_norm(self.a(x), [6, 8, 8])))


def functional_group_norm(self, x):
    return self.head(self.relu(F.group_norm(self.a(x), 2)))


def functional_instance_norm(self, x):
    return self.head(self.relu(F.instance_norm(self.a(x))))


def clamped(self, x):
    return self.head(self.b(self.a(x).clamp(max=0.5)))


def absolute(self, x):
    return self.head(self.b(self.relu(self.a(x))).abs())


def to_a_power(self, x):
    return self.head(self.relu(self.a(x) ** 1.5))


def slopes_as_an_argument(self, x):
    return self.head(F.prelu(self.a(x), self.slope))


def softmax_over_positions(self, x):
    return self.fc(torch.softmax(self.relu(self.a(x)).flatten(2), -1).mean(-1))


def in_place_relu_read_before_and_after(self, x):
    x = self.a(x)
    y = self.in_place(x)
    return self.head(self.b(y) + x)


def functional_in_place_relu_read_again(self, x):
    x = self.a(x)
    y = self.b(F.relu(x, inplace=True))
    return self.head(self.relu(y + x))


def clipped_in_place_by_position_read_again(self, x):
    x = self.a(x)
    y = self.b(F.relu6(x, True))
    return self.head(self.relu(y + x))


def hardtanh_in_place_by_position_read_again(self, x):
    x = self.a(x)
    y = self.b(F.hardtanh(x, 0.0, 1.0, True))
    return self.head(self.relu(y + x))


def in_place_relu_of_a_dropout_in_evaluation(self, x):
    """In evaluation a dropout returns its input itself."""
    x = self.a(x)
    y = self.in_place(F.dropout(x, 0.5, self.training))
    return self.head(self.b(y) + x)


def in_place_relu_of_a_slice(self, x):
    x = self.a(x)
    self.in_place(x[:, :3])
    return self.head(self.relu(x))


REFUSED = {
    gelu: ("gelu()", "replace it by nn.ReLU"),
    smoothed: ("interpolate()", "leave antialias out"),
    bicubic_to_a_size: ("interpolate()", "use mode='nearest' or 'bilinear'"),
    indices: ("add()", "use the values alone"),
    indices_of_a_module: ("float()", "use the values alone"),
    transposed_to_a_size: ("ConvTranspose2d", "give the module an output_padding"),
    transposed_by_computed_weights: ("conv_transpose2d()", "hold the result as a parameter"),
    batch_statistics: ("batch_norm()", "running statistics"),
    batch_statistics_always: ("batch_norm()", "running statistics"),
    statistics_by_hand: ("std()", "statistic of the spikes"),
    functional_layer_norm: ("layer_norm()", "use BatchNorm"),
    functional_group_norm: ("group_norm()", "use BatchNorm"),
    functional_instance_norm: ("instance_norm()", "use BatchNorm"),
    clamped: ("clamp()", "Clip around 0"),
    absolute: ("abs()", "relu(x) + relu(-x)"),
    to_a_power: ("pow()", "quantise before, by nn.ReLU"),
    slopes_as_an_argument: ("prelu()", "use an nn.LeakyReLU() or nn.PReLU() module"),
    softmax_over_positions: ("softmax()", "return the logits"),
    in_place_relu_read_before_and_after: ("in place", "write x = "),
    functional_in_place_relu_read_again: ("in place", "write x = "),
    clipped_in_place_by_position_read_again: ("in place", "write x = "),
    hardtanh_in_place_by_position_read_again: ("in place", "write x = "),
    in_place_relu_of_a_dropout_in_evaluation: ("in place", "write x = "),
    in_place_relu_of_a_slice: ("in place", "write x = "),
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_operation_is_refused_with_its_line_and_a_remedy(forward):
    model = cnn(
        forward, a=conv(), b=conv(6), point=conv(6, 6, 1, 0), n=nn.BatchNorm2d(6), relu=nn.ReLU(), head=Head(),
        in_place=nn.ReLU(inplace=True), fc=nn.Linear(6, 6), with_indices=nn.MaxPool2d(2, return_indices=True),
        transposed=nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1), slope=nn.Parameter(torch.ones(6)),
    )  # fmt: skip
    with pytest.raises(ConversionError) as error:
        converted(model)
    message, (what, remedy) = str(error.value), REFUSED[forward]
    assert what in message, message
    assert remedy in message, message
    assert re.search(r"test_image_refusals\.py:\d+: \w", message), message


def test_a_hook_is_refused():
    model = nn.Sequential(conv(), nn.ReLU(), Head())
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ConversionError, match=r"module '0' has a forward hook.*remove it"):
        casc_core.prepare(model, adapter="cnn", q=4)
