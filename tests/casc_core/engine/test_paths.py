"""Which way the currents of common architectures take: all that comes from spikes is summed where it spikes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED
from torch import nn

import casc_core
from casc_core.engine.products import input_product

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def block(inputs, outputs, kernel=3, **options):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Network(nn.Module):
    """A stem, what a subclass does behind it, and a head."""

    width = 8

    def __init__(self):
        super().__init__()
        self.stem, self.parts, self.head = block(3, 8), self.made(), nn.Linear(self.width, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Dense(Network):
    """Two dense layers, a transition and one more (Huang et al. 2017)."""

    width = 13

    def made(self):
        def layer(inputs, outputs, kernel):
            padding = kernel // 2
            return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, padding=padding))

        return nn.ModuleList([layer(8, 4, 3), layer(12, 4, 3), layer(16, 9, 1), layer(9, 4, 3)])

    def body(self, x):
        one, two, transition, last = self.parts
        for each in (one, two):
            x = torch.cat([x, each(x)], 1)
        x = F.avg_pool2d(transition(x), 2)
        return F.relu(torch.cat([x, last(x)], 1))


class Fire(Network):
    """Convolutions that are joined before the activation."""

    width = 12

    def made(self):
        return nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 3, padding=1)])

    def body(self, x):
        return F.relu(torch.cat([each(x) for each in self.parts], 1))


class Skip(Network):
    """A U-Net's way down and up again (Ronneberger et al. 2015)."""

    def made(self):
        return nn.ModuleList([block(8, 12), nn.ConvTranspose2d(12, 8, 2, 2), block(16, 8)])

    def body(self, x):
        down, up, last = self.parts
        return last(torch.cat([x, up(down(F.max_pool2d(x, 2)))], 1))


class Shuffle(Network):
    """Half of the channels go by, and all are shuffled (Ma et al. 2018)."""

    def made(self):
        return nn.ModuleList([block(4, 4), block(8, 8, 1)])

    def body(self, x):
        half, last = self.parts
        first, second = x.chunk(2, 1)
        x = torch.cat([first, half(second)], 1)
        samples, channels, height, width = x.shape
        x = x.view(samples, 2, channels // 2, height, width).transpose(1, 2).reshape(samples, channels, height, width)
        return last(x)


class Pyramid(Network):
    """What is coarse is enlarged and added to what is fine (Lin et al. 2017)."""

    def made(self):
        return nn.ModuleList([block(8, 12, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(12, 8, 1), block(8, 8)])

    def body(self, x):
        down, fine, coarse, last = self.parts
        return last(fine(x) + F.interpolate(coarse(down(x)), scale_factor=2))


class Squeeze(Network):
    """A gate for each channel of a residual branch (Hu et al. 2018)."""

    def made(self):
        return nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1)])

    def body(self, x):
        less, more, last = self.parts
        gate = torch.sigmoid(more(F.relu(less(F.adaptive_avg_pool2d(x, 1)))))
        return F.relu(last(x * gate) + x)


class Pixels(Network):
    """Channels become places (Shi et al. 2016)."""

    width = 4

    def made(self):
        return nn.ModuleList([nn.Conv2d(8, 16, 3, padding=1)])

    def body(self, x):
        return F.relu(F.pixel_shuffle(self.parts[0](x), 2))


class Mixed(Network):
    """A depthwise convolution beside its own input, normalised behind the activation (Trockman, Kolter 2022)."""

    def made(self):
        depthwise = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.ReLU(), nn.BatchNorm2d(8))
        return nn.ModuleList([depthwise, block(8, 8, 1)])

    def body(self, x):
        return self.parts[1](x + self.parts[0](x))


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("network", [Dense, Fire, Skip, Shuffle, Pyramid, Squeeze, Pixels, Mixed])
def test_no_dense_sum_over_patches_is_taken(network, numerics, monkeypatch):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model(x)
    calibrated = casc_core.calibrate(model.eval(), [x], q=4, steps=()).model
    snn = casc_core.convert(calibrated, numerics=numerics)
    expected = snn.reference(x)
    monkeypatch.setattr(input_product, "convolve", lambda *_: pytest.fail("a dense sum, patch by patch"))
    assert torch.equal(snn(x), expected)


def test_a_perceptron_whose_features_have_thresholds_of_their_own_takes_the_kernels(monkeypatch):
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model, x = nn.Sequential(*layers, nn.Linear(32, 4)).eval(), torch.rand(16, 32)
    snn = casc_core.convert(casc_core.calibrate(model, [x], q=4, per_channel=True).model)
    expected, fired = snn.reference(x), casc_core.engine.ops.population.Fire._fired
    late = []
    monkeypatch.setattr(
        casc_core.engine.ops.population.Fire, "_fired", lambda self, *rest: (late.append(self), fired(self, *rest))[1]
    )
    assert torch.equal(snn(x), expected)
    assert not late
