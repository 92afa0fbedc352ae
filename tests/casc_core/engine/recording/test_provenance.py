"""Whatever lies between two layers, each spike counts for every synapse that it reaches: by the derivative of what does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core import CIF, Burst, Continuous, CQReLU, WakeSleep
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.recording.recorder import Recorder

MASK = torch.arange(6)[:, None].remainder(3) > 0
FACTORS = torch.tensor([0.5, 0.0, 2.0, 1.0]).reshape(1, 4, 1, 1)
# What happens to `[B, 4, 6, 6]` spikes on their way to the next layer, as a function of floating-point numbers.
WAYS = {
    "nothing": lambda x: x,
    "flattened": lambda x: x.flatten(1),
    "permuted": lambda x: x.permute(0, 2, 3, 1).flip(1),
    "padded": lambda x: F.pad(x, (1, 0, 2, 1)),
    "sliced": lambda x: x[:, 1:, ::2, :3],
    "repeated": lambda x: x.repeat(1, 1, 2, 1),
    "enlarged": lambda x: F.interpolate(x, scale_factor=2.0),
    "interpolated": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "resized": lambda x: F.interpolate(x, size=(4, 9), mode="bilinear", align_corners=True),
    "summed": lambda x: x.sum((2, 3)),
    "averaged": lambda x: x.mean(1),
    "averaged, summed": lambda x: x.mean(2).sum(1),
    "pooled": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "pooled twice": lambda x: F.avg_pool2d(F.avg_pool2d(x, 2), 3, 2, 1),
    "pooled into parts": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "pooled, joined": lambda x: torch.cat([F.avg_pool2d(x, 2).flatten(1), x[:, 1].flatten(1)], 1),
    "joined": lambda x: torch.cat([x, x.flip(1)], 1),
    "stacked": lambda x: torch.stack([x[:, :2], x[:, 2:]], 1).flatten(1),
    "split, added": lambda x: sum(part * 1 for part in x.chunk(2, 1)),
    "masked": lambda x: x * (MASK * 1.0),
    "masked, summed": lambda x: (x.mean(1) * (MASK * 1.0)).sum(2),
    "filled": lambda x: x.masked_fill(MASK, 0.0),
    "pooled, filled": lambda x: F.avg_pool2d(x, 3, 1, 1).masked_fill(MASK, 0.0),
    "scaled": lambda x: x * FACTORS,
    "scaled, summed": lambda x: (x * FACTORS).sum((1, 2)),
    "divided": lambda x: x.sum(1) / 3,
    "shifted": lambda x: x + 0.5,
}
MAPS = {
    "linear": lambda shape: nn.Linear(shape[-1], 3),
    "convolution": lambda shape: nn.Conv2d(shape[1], 4, 3, 2, 1, groups=2),
    "transposed": lambda shape: nn.ConvTranspose2d(shape[1], 3, 3, 2, 1, 1),
    "one dimension": lambda shape: nn.Conv1d(shape[1], 3, 2, dilation=2, padding=1),
    "three dimensions": lambda shape: nn.Conv3d(shape[1], 3, (2, 3, 1), padding=(1, 0, 0), stride=(1, 2, 1)),
}


class Network(nn.Module):
    def __init__(self, way, layer):
        super().__init__()
        self.way, self.first, self.act1 = way, nn.Conv2d(2, 4, 3, padding=1), CQReLU(2)
        self.map = MAPS[layer](way(torch.zeros(1, 4, 6, 6)).shape)
        self.act2 = CQReLU(2)

    def forward(self, x):
        return self.act2(self.map(self.way(self.act1(self.first(x))))).flatten(1)


def synapses(way, layer):
    """`[4, 6, 6]`: how many synapses of the map a spike of each neuron reaches."""
    spikes = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    arrives = torch.autograd.functional.jacobian(way, spikes)
    shape = arrives.shape[:-4]
    arrives = (arrives != 0).double().reshape(-1, 4 * 6 * 6)
    reaches = torch.autograd.functional.jacobian(layer.double(), torch.zeros(shape, dtype=torch.float64))
    fan_out = (reaches != 0).double().reshape(-1, arrives.shape[0]).sum(0)
    return (fan_out @ arrives).reshape(4, 6, 6)


def check(way, layer, neuron, schedule):
    torch.manual_seed(0)
    model, images = Network(way, layer), torch.randn(2, 2, 6, 6) * 2
    with torch.no_grad():
        for parameter in model.map.parameters():  # so that none is rounded to zero
            parameter.copy_(parameter.sign() * parameter.abs().clamp(min=0.1))
    snn = casc_core.convert(model, neuron=neuron, schedule=schedule)
    expected = synapses(way, model.map)
    for choice in all_instructions():
        recorder = Recorder(keep_trains=True)
        with using(choice):
            simulation = snn.simulate_recorded((images,), {}, 5, recorder)
        train = recorder.trains["act1"].abs().double()
        found = simulation.spikes["act2"].operations[: len(train)]
        np.testing.assert_array_equal(found, (train * expected).sum((1, 2, 3, 4)), err_msg=choice)
        assert float(found.sum()) > 0


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_a_linear_map(way):
    check(WAYS[way], "linear", CIF(), WakeSleep())


@pytest.mark.parametrize("way", ["nothing", "pooled, joined", "interpolated", "masked, summed", "scaled"])
def test_bursts(way):
    check(WAYS[way], "linear", Burst(gamma=3), Continuous())


@pytest.mark.parametrize("way", ["nothing", "padded", "enlarged", "interpolated", "pooled", "masked"])
@pytest.mark.parametrize("layer", ["convolution", "transposed"])
def test_ways_to_a_convolution(way, layer):
    check(WAYS[way], layer, CIF(), WakeSleep())


@pytest.mark.parametrize(
    ("way", "layer"),
    [
        (lambda x: x.flatten(2), "one dimension"),
        (lambda x: F.avg_pool2d(x, 2).flatten(2), "one dimension"),
        (lambda x: x.unflatten(3, (3, 2)), "three dimensions"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1).unflatten(3, (3, 2)), "three dimensions"),
    ],
)
def test_other_convolutions(way, layer):
    check(way, layer, CIF(), WakeSleep())


@pytest.mark.parametrize("window", [2, 12])
def test_a_running_maximum_of_sums_moves_by_as_many_spikes_as_it_says(window):
    """Sums of 4 neurons fit a byte, those of 144 do not; either counts in full."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), CQReLU(4), nn.AvgPool2d(window), nn.MaxPool2d(24 // window, 1), nn.Flatten(),
        nn.Linear(4, 3), CQReLU(4), nn.Linear(3, 2),
    )  # fmt: skip
    images, recorder = torch.randn(2, 2, 24, 24) * 2, Recorder(keep_trains=True)
    simulation = casc_core.convert(model).simulate_recorded((images,), {}, 5, recorder)
    totals = recorder.trains["1"].double().cumsum(0).flatten(0, 1)
    summed = F.avg_pool2d(totals, window) * window**2
    largest = summed.amax((2, 3)).unflatten(0, (-1, 2))
    moved = largest.diff(dim=0, prepend=torch.zeros(1, 2, 4, dtype=torch.float64)).abs().sum((1, 2)).round()
    assert float(moved.max()) > 2 * 4 * 2  # more than one for each entry
    np.testing.assert_array_equal(simulation.spikes["6"].operations[: len(moved)], 3 * moved)
