"""Shapes of graphs met in published image classifiers, in small models of our own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, Head, asserted_sizes, check, cnn, conv, converted

import casc_core
from casc_core import ConversionError, CQReLU, InputError


def test_every_layer_reads_all_before_it():
    depth, growth = 24, 2

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1))

    def layer(channels):
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, growth, bias=False))

    layers = nn.ModuleList(layer(4 + growth * index) for index in range(depth))
    snn = check(cnn(forward, stem=conv(outputs=4), layers=layers, head=Head(4 + growth * depth)), IMAGES)
    assert len(snn.layers) == depth


def test_branches_are_joined_and_summed_with_no_neuron_between():
    depth = 20

    def forward(self, x):
        fixed, growing = x, x
        for layer in self.layers:
            update = layer(self.relu(torch.cat([fixed, growing], 1)))
            fixed, growing = fixed + update[:, :3], torch.cat([growing, update[:, 3:]], 1)
        return self.head(self.relu(torch.cat([fixed, growing], 1)))

    layers = nn.ModuleList(conv(6 + 2 * index, 5) for index in range(depth))
    snn = check(cnn(forward, layers=layers, relu=nn.ReLU(), head=Head(6 + 2 * depth)), IMAGES)
    assert len(snn.layers) == depth + 1


# Conditions on sizes.


def small_images_are_stretched(self, x):
    x = self.relu(self.a(x))
    if x.shape[-2] < self.least or x.shape[-1] < self.least:
        x = F.adaptive_avg_pool2d(x, (max(self.least, x.shape[-2]), max(self.least, x.shape[-1])))
    return self.head(x)


def odd_sizes_are_padded(self, x):
    x = F.relu(self.a(x))
    height, width = x.size()[-2:]
    if height % 2 == 1 or width % 2 == 1:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return self.head(x)


def refused_by_the_forward_itself(self, x):
    if x.shape[1] != 3 or x.size(2) < 6:
        raise ValueError(f"unexpected input {x.shape}")
    return self.head(self.relu(self.a(x)))


def by_its_parameters(self, x):
    x = self.relu(self.a(x) if self.a.weight.shape[1] == 3 else self.missing(x))
    return self.head(x if self.a.bias.numel() < 6 else x * 2)


def large_images_are_pooled(self, x):
    x = self.relu(self.a(x))
    return self.head(F.max_pool2d(x, 2) if x.shape[-1] > 9 else x)


CONDITIONS = [
    small_images_are_stretched,
    large_images_are_pooled,
    asserted_sizes,
    refused_by_the_forward_itself,
    by_its_parameters,
]


def with_condition(forward):
    return cnn(forward, a=conv(), relu=nn.ReLU(), least=6, head=Head())


@pytest.mark.parametrize("forward", CONDITIONS, ids=lambda forward: forward.__name__)
def test_a_condition_on_sizes(forward):
    check(with_condition(forward), IMAGES)


@pytest.mark.parametrize(
    ("forward", "images"),
    [
        (small_images_are_stretched, IMAGES[..., :5]),
        (odd_sizes_are_padded, IMAGES[:, :, :7, :]),
        (large_images_are_pooled, IMAGES.repeat(1, 1, 2, 2)),
        (asserted_sizes, IMAGES[..., :5]),
        (refused_by_the_forward_itself, IMAGES[:, :, :5]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_sizes_than_the_trace_took_are_refused(forward, images, tmp_path):
    snn = converted(with_condition(forward))
    snn.save(tmp_path / "snn")
    for network in (snn, casc_core.load(tmp_path / "snn")):
        for call in (network, network.reference, network.simulate):
            with pytest.raises(InputError, match=r"a condition on sizes that it took to be (.*\n)+  at .*\.py:\d+: \w"):
                call(images)


def test_a_prepared_graph_checks_its_conditions_too():
    ann = casc_core.prepare(with_condition(odd_sizes_are_padded), adapter="cnn", q=4)
    assert isinstance(ann, torch.fx.GraphModule)
    with pytest.raises(InputError, match="a condition on sizes"):
        ann(IMAGES[:, :, :7, :])


def test_a_condition_on_values_is_refused():
    def forward(self, x):
        x = self.relu(self.a(x))
        return self.head(x if x.sum() > x.shape[0] else 2 * x)

    with pytest.raises(ConversionError, match="its control flow depends on the values"):
        converted(with_condition(forward))


# Padding found from the size of the image.


def same_padding(size, kernel, stride):
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


def padded(x, kernel, stride, value=0.0):
    across, down = (same_padding(x.shape[dim], kernel, stride) for dim in (-1, -2))
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), value=value)


class SameConv(nn.Conv2d):
    def forward(self, x):
        x = padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SameMaxPool(nn.MaxPool2d):
    def forward(self, x):
        return F.max_pool2d(padded(x, self.kernel_size, self.stride, -math.inf), self.kernel_size, self.stride)


class SameAveragePool(nn.AvgPool2d):
    def forward(self, x):
        return F.avg_pool2d(padded(x, self.kernel_size, self.stride), self.kernel_size, self.stride)


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., :7]], ids=["even", "odd"])
@pytest.mark.parametrize("pool", [SameMaxPool, SameAveragePool])
def test_layers_that_pad_by_the_size_of_the_image(pool, images):
    def forward(self, x):
        return self.head(self.relu(self.b(self.pool(self.relu(self.a(x))))))

    check(
        cnn(forward, a=SameConv(3, 6, 3, 2), b=SameConv(6, 6, 3), relu=nn.ReLU(), pool=pool(3, 2), head=Head()), images
    )


@pytest.mark.parametrize("shift", [-1.0, 0.0], ids=["negative", "mixed"])
def test_minus_infinity_pads_a_maximum_of_currents(shift):
    def forward(self, x):
        return self.head(self.relu(F.max_pool2d(F.pad(self.a(x), (1, 1, 1, 1), value=float("-inf")), 3, 2) + self.b(x)))

    model = cnn(forward, a=conv(), b=conv(stride=2), relu=nn.ReLU(), head=Head())
    model.a.bias.data += shift
    model.b.bias.data += 0.5
    check(model, IMAGES)


def test_other_values_pad_too():
    def forward(self, x):
        return self.head(F.pad(self.relu(self.a(x)), (1, 1, 1, 1), value=0.5))

    check(with_condition(forward), IMAGES)


# Weights found from parameters alone.


class Standardised(nn.Conv2d):
    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.bias * 0.0 + 1.5).view(-1)
        weight = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight / weight[0].numel() ** 0.5, self.bias, self.stride, self.padding)


class Masked(nn.Conv2d):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("mask", (torch.arange(self.weight.numel()) % 3 > 0).view_as(self.weight))

    def forward(self, x):
        return F.conv2d(x, self.weight.masked_fill(~self.mask, 0.0), self.bias, self.stride, self.padding)


class Normed(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.softmax(self.weight, dim=1) * self.bias[0].item(), torch.sigmoid(self.bias))


def test_weights_computed_from_parameters_alone():
    def forward(self, x):
        return self.fc(self.relu(self.b(self.relu(self.a(x)))).mean((2, 3)))

    layers = {"a": Standardised(3, 6, 3, padding=1), "b": Masked(6, 6, 3, padding=1), "fc": Normed(6, 5)}
    check(cnn(forward, relu=nn.ReLU(), **layers), IMAGES)


def test_standardised_by_hand_and_tied_by_transposition():
    def forward(self, x):
        w = self.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        x = self.relu(F.conv2d(x, w / 4, self.a.bias, padding=1)).mean((2, 3))
        return F.linear(self.relu(self.fc(x)), self.fc.weight.t())

    check(cnn(forward, a=conv(), relu=nn.ReLU(), fc=nn.Linear(6, 7)), IMAGES)


def test_random_weights_are_refused():
    def forward(self, x):
        return self.head(self.relu(F.conv2d(x, self.a.weight * torch.rand_like(self.a.weight))))

    with pytest.raises(ConversionError, match=r"rand_like\(\) cannot be converted exactly: it is random"):
        converted(with_condition(forward))


def test_a_learned_number_scales_a_branch():
    def forward(self, x):
        x = self.relu(self.a(x))
        return self.head(self.relu(self.b(x).mul_(self.gain) * 1.5 + x / self.width))

    gain, width = nn.Parameter(torch.tensor(-0.7)), nn.Parameter(torch.tensor(3.0))
    check(cnn(forward, a=conv(), b=conv(6), relu=nn.ReLU(), gain=gain, width=width, head=Head()), IMAGES)


# What a forward leaves behind.


def test_a_forward_may_keep_what_it_computes():
    def forward(self, x):
        self.kept["first"] = self.features = self.relu(self.a(x))
        self.history.append(self.features)
        return self.head(self.features)

    model = cnn(forward, a=conv(), relu=nn.ReLU(), kept={}, history=[], head=Head())
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    snn = casc_core.convert(ann, adapter="cnn")
    for module in (model, ann, snn.ann):
        assert not module.kept
        assert not module.history
        assert not hasattr(module, "features")
        copy.deepcopy(module)
    with torch.no_grad():
        assert snn.ann(IMAGES).shape == (6, 5)
    assert casc_core.verify(snn, IMAGES).exact


# Refusals say where in the model, and what to do.


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze = conv(6)

    def forward(self, x):
        return x * torch.softmax(self.squeeze(x.mean((2, 3), keepdim=True)), 1)


def test_an_operation_is_refused_by_the_module_around_it():
    stage = nn.Sequential(conv(6), nn.ReLU(), Gate())
    with pytest.raises(ConversionError) as error:
        converted(cnn(lambda self, x: self.head(self.stage(self.a(x))), a=conv(), stage=stage, head=Head()))
    message = str(error.value)
    assert message.startswith("forward of module 'stage.2': softmax() cannot be converted exactly")
    assert "exponentials do not travel as spikes" in message
    assert "return x * torch.softmax" in message


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.GELU(), "smooth activation"),
        (nn.Softplus(), "smooth activation"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_activation_is_refused_for_what_it_does(module, why):
    with pytest.raises(ConversionError, match=rf"module '1\.1': .*{why}.*replace it by nn\.ReLU"):
        converted(nn.Sequential(conv(), nn.Sequential(conv(6), module), nn.ReLU(), Head()))


def test_auxiliary_classifiers_of_training():
    def forward(self, x):
        x = F.relu(self.a(x))
        return (self.head(x), self.other(x)) if self.training else self.head(x)

    with pytest.raises(ConversionError, match=r"branches on self\.training .*aux_logits=False"):
        converted(cnn(forward, a=conv(), head=Head(), other=Head()).train())


# Accuracy.


def test_counts_of_the_first_layer_hardly_move():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ann = casc_core.prepare(
        cnn(lambda self, x: self.head(F.relu(self.a(x))), a=conv(outputs=64, kernel=7, padding=3), head=Head(64)),
        adapter="cnn",
        q=4,
    ).eval()
    snn = casc_core.convert(ann, adapter="cnn")
    (counts,) = snn.reference_counts((images,), {})[1].values()
    trained: list[torch.Tensor] = []
    (activation,) = [module for module in ann.modules() if isinstance(module, CQReLU)]
    activation.register_forward_hook(lambda module, args, output: trained.append(output * module.q))
    with torch.no_grad():
        ann.double()(images.double())
    moved = (trained[0].round() != counts).float().mean()
    assert float(moved) < 1e-4
