"""Transposed convolutions, three dimensions and linear upsampling: the network's own answer, and what it takes."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from dyadic import IMAGES, SERIES, agrees, dyadic, network
from hypothesis import given, settings
from hypothesis import strategies as st
from named_forwards import Forwards
from torch import nn

import casc_core
from casc_core import InputError
from casc_core.engine.ops.interpolation import line

VOLUMES = dyadic(2, 2, 4, 5, 5, parts=16, reach=40)
CASES = Forwards(IMAGES)
case = CASES.add


# Transposed convolutions.


@case(
    a=nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), n=nn.BatchNorm2d(4), act=nn.ReLU(),
    b=nn.ConvTranspose2d(4, 4, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1), groups=2, bias=False),
)  # fmt: skip
def transposed(self, x):
    x = self.act(self.n(self.a(x)))
    return self.act(self.b(self.n(x)) + 0.5).sum((2, 3))


@case(a=nn.Conv2d(3, 4, 3), b=nn.ConvTranspose2d(4, 4, 2, stride=3, padding=2), act=nn.ReLU(), w=dyadic(4, 3, 1, 2))
def transposed_with_gaps_and_cuts(self, x):
    x = self.act(self.a(x))
    y = self.act(self.b(x)[:, :, :7, :7] * 2 - self.b(self.act(self.b(x)))[:, :, :7, :7])
    return F.conv_transpose2d(y, self.w, self.w[0, :, 0, 0], stride=(3, 2), padding=0).sum((2, 3))


@case(
    SERIES, a=nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1), b=nn.ConvTranspose1d(4, 6, 3, dilation=2, groups=2),
    act=nn.ReLU(), n=nn.BatchNorm1d(6), w=dyadic(6, 1, 2),
)  # fmt: skip
def transposed_in_one_dimension(self, x):
    x = self.act(self.a(x))
    x = self.act(self.n(self.b(x)))
    return torch.conv_transpose1d(x, self.w, None, 3, 1, 2, groups=6).sum(2)


@case(
    down=nn.Conv2d(3, 4, 3, stride=2, padding=1), up=nn.ConvTranspose2d(4, 4, 2, stride=2), act=nn.ReLU(),
    side=nn.Conv2d(3, 4, 1), head=nn.Conv2d(8, 3, 1),
)  # fmt: skip
def u_net(self, x):
    y = self.act(self.up(self.act(self.down(x))))
    return self.head(torch.cat([y, self.act(self.side(x))], 1))


# Three dimensions.


@case(
    VOLUMES, a=nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 1)), n=nn.BatchNorm3d(4), act=nn.ReLU(),
    b=nn.Conv3d(4, 4, (2, 1, 2), dilation=(2, 1, 1), groups=2, bias=False), pool=nn.MaxPool3d((1, 3, 2), 1),
    g=dyadic(4, 1, 1, 1), drop=nn.Dropout3d(0.2), mean=nn.AvgPool3d((2, 1, 2)),
)  # fmt: skip
def volumes(self, x):
    x = self.act(self.n(self.a(x)) * self.g)
    x = self.act(self.b(self.n(self.pool(x))) + 0.25)
    return self.mean(self.drop(x)).sum((2, 3, 4))


@case(
    VOLUMES, a=nn.Conv3d(2, 4, 2, padding="same", padding_mode="replicate"), act=nn.ReLU(), w=dyadic(3, 4, 2, 1, 1),
    pool=nn.AdaptiveMaxPool3d((2, 1, 1)), mean=nn.AdaptiveAvgPool3d((4, 1, 5)), to=nn.AdaptiveAvgPool3d(1),
)  # fmt: skip
def volumes_by_functions(self, x):
    x = self.act(self.a(x))
    y = F.conv3d(x, self.w, self.w[:, 0, 0, 0, 0], stride=2) + F.max_pool3d(x, 1, 2)[:, :3, :1]
    z = F.avg_pool3d(self.act(y), (1, 1, 1)) + torch.max_pool3d(y, 1)
    return z.sum((2, 3, 4)) + (self.pool(x) + F.adaptive_max_pool3d(x, 1)).sum((1, 2, 3, 4)).unsqueeze(1)


# Linear upsampling.


@case(
    a=nn.Conv2d(3, 4, 3, stride=2), b=nn.Conv2d(4, 4, 2), up=nn.Upsample(scale_factor=2, mode="bilinear"), act=nn.ReLU()
)
def upsampled_by_two(self, x):
    x = self.act(self.b(self.up(self.act(self.a(x)))))
    return F.interpolate(x, scale_factor=(4, 1), mode="bilinear", align_corners=False).sum((2, 3))


@case(
    a=nn.Conv2d(3, 4, 3, stride=2), act=nn.ReLU(), up=nn.UpsamplingBilinear2d(scale_factor=1), last=nn.Upsample((3, 2))
)
def upsampled_to_sizes(self, x):
    y = self.act(self.a(x))  # 2 by 2
    z = F.interpolate(y, size=(3, 3), mode="bilinear", align_corners=True)  # halves
    w = F.interpolate(y, x.shape[-2:][0] + 2, mode="bilinear")  # eighths
    return self.act(z - 0.5).sum((2, 3)) + self.up(w).sum((2, 3)) + self.last(y).sum((2, 3))


@case(SERIES, a=nn.Conv1d(3, 4, 5), act=nn.ReLU())
def upsampled_in_one_dimension(self, x):
    x = self.act(F.interpolate(self.act(self.a(x)), scale_factor=2, mode="linear"))
    return F.interpolate(x.unsqueeze(3).unsqueeze(4), scale_factor=2, mode="trilinear").sum((2, 3, 4))


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_networks_own_answer(name, tmp_path):
    forward, inputs, held = CASES[name]
    agrees(network(forward, **held), *inputs, folder=tmp_path)


@pytest.mark.parametrize("factor", [3, 5])
@pytest.mark.parametrize("align_corners", [False, True])
def test_interpolation_by_thirds_meets_thresholds_as_fractions_do(factor, align_corners):
    """Sums of thirds that make a whole reach a threshold; float64 itself may miss it by its last bit."""

    def forward(self, x):
        up = F.interpolate(self.act(x), scale_factor=factor, mode="bilinear", align_corners=align_corners)
        return self.other(up)

    acts = {"act": casc_core.CQReLU(3, 3.0), "other": casc_core.CQReLU(3, 3.0)}
    snn = casc_core.convert(network(forward, **acts), adapter="cnn")
    x = (IMAGES[:, :, :3, :3] * 2).round()
    found = snn.reference(x)
    levels = torch.clamp(torch.floor(x), 0, 3).long()
    lines = line(3, 3 * factor, align_corners)
    for sample, channel, row, column in itertools.product(range(3), range(3), range(3 * factor), range(3 * factor)):
        whole = 0
        for y, by_y in ((lines.low[row], lines.below[row]), (lines.high[row], lines.above[row])):
            for z, by_z in ((lines.low[column], lines.below[column]), (lines.high[column], lines.above[column])):
                whole += int(by_y) * int(by_z) * int(levels[sample, channel, y, z])
        assert float(found[sample, channel, row, column]) == whole // lines.parts**2
    assert casc_core.verify(snn, x).exact


@given(size=st.integers(1, 7), outputs=st.integers(1, 12), align_corners=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_line_is_what_torch_interpolates_by(size, outputs, align_corners):
    x = torch.eye(size, dtype=torch.float64).unsqueeze(0)
    expected = F.interpolate(x, outputs, mode="linear", align_corners=align_corners)
    found = line(size, outputs, align_corners)
    torch.testing.assert_close(found.apply(x, -1) / found.parts, expected, rtol=0, atol=1e-14)
    assert bool((found.below + found.above == found.parts).all())


def fan_outs(layer, shape):
    """How many outputs each input entry of one sample reaches, by a loop over entries."""
    ones = copy.deepcopy(layer).double()
    with torch.no_grad():
        ones.weight.fill_(1.0)
        if ones.bias is not None:
            ones.bias.zero_()
        return torch.stack([ones(one[None]).sum() for one in _one_at_a_time(shape)]).reshape(shape)


def _one_at_a_time(shape):
    return torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)


LAYERS = {
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=2, output_padding=1), IMAGES),
    "transposed with gaps": (nn.ConvTranspose2d(3, 3, (1, 2), stride=3, padding=(1, 2), groups=3), IMAGES),
    "transposed in one dimension": (nn.ConvTranspose1d(3, 2, 4, stride=2, padding=1, dilation=2), SERIES),
    "in three dimensions": (nn.Conv3d(2, 4, (2, 3, 2), stride=(1, 2, 2), padding=1, groups=2), VOLUMES),
}


@pytest.mark.parametrize("name", LAYERS)
def test_operations_are_one_for_each_spike_and_synapse(name):
    layer, inputs = LAYERS[name]
    model = network(lambda self, x: self.last(self.layer(self.act(x))), layer=layer, act=nn.ReLU(), last=nn.ReLU())
    snn = casc_core.convert(casc_core.prepare(model, adapter="cnn", q=4), adapter="cnn")
    reached = fan_outs(layer, inputs.shape[1:])
    simulation = snn.simulate(inputs)
    counts = torch.floor(inputs.clamp(0, 1).double() * 4)
    # Their inputs do not change while they are awake, so each neuron's spikes are as many as its count.
    assert float(simulation.spikes["last"].operations.sum()) == float((counts * reached).sum())
    assert simulation.spikes["last"].ann_multiplications == float(reached.sum()) * len(inputs)


def test_inputs_of_other_shapes_are_told():
    for layer, inputs in LAYERS.values():
        snn = casc_core.convert(
            casc_core.prepare(network(lambda self, x: self.act(self.layer(x)), layer=layer, act=nn.ReLU()), q=4)
        )
        with pytest.raises(InputError, match=r"layer: expected an input \[batch, \d, .*\]; got"):
            snn(inputs.flatten(1))
    small = nn.Sequential(nn.Conv3d(2, 3, 3), casc_core.CQReLU(4))
    with pytest.raises(InputError, match="0: a padded size of 2 is too small for a kernel that spans 3"):
        casc_core.convert(small, adapter="cnn")(VOLUMES[..., :2])
    up = nn.Upsample(size=(4, 0), mode="bilinear")
    snn = casc_core.convert(nn.Sequential(casc_core.CQReLU(4), up), adapter="cnn")
    with pytest.raises(InputError, match=r"1: 2 sizes of at least 1 are needed; got \(4, 0\)"):
        snn(IMAGES)
    with pytest.raises(InputError, match=r"1: expected an input \[batch, channels, height, width\]"):
        snn(SERIES)
