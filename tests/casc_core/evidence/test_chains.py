"""Maps in a row, with no neurons between them: as trained, the spiking network is the network that was converted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_oracle import at_each_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from user_cnns import settled

import casc_core
from casc_core import CIF, CQReLU, SpikingModel, WakeSleep

CHANNELS = 6
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Layers by name, and a forward that calls them."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def spiking(inputs: int = CHANNELS, **options: Any) -> nn.Sequential:
    return nn.Sequential(conv(inputs, **options), nn.BatchNorm2d(CHANNELS), nn.ReLU())


def classified(*layers: nn.Module) -> nn.Sequential:
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 4)
    return nn.Sequential(spiking(3), *layers, nn.ReLU(), *end)


def depthwise() -> list[nn.Module]:
    return [conv(groups=CHANNELS), conv(size=1)]


def pyramid() -> Net:
    def call(self: Any, x: Tensor) -> Tensor:
        fine = self.c3(x)
        coarse = self.c4(fine)
        top = self.l4(coarse)
        merged = self.l3(fine) + F.interpolate(top, scale_factor=2)
        heads = [self.head(F.relu(self.tower(output(each)))) for output, each in ((self.o3, merged), (self.o4, top))]
        return torch.cat([head.flatten(2).mean(2) for head in heads], 1)

    layers = {"c3": spiking(3), "c4": spiking(stride=2), "l3": conv(size=1), "l4": conv(size=1)}
    return Net(call, **layers, o3=conv(), o4=conv(), tower=conv(), head=conv(outputs=2))


def unet(activation: nn.Module) -> Net:
    def call(self: Any, x: Tensor) -> Tensor:
        fine = self.down(x)
        joined = torch.cat([fine, self.up(self.bottom(fine))], 1)
        return self.out(self.second(self.act(self.first(joined))))

    up = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, stride=2)
    layers = {"down": spiking(3), "bottom": spiking(stride=2), "up": up, "first": conv(2 * CHANNELS)}
    return Net(call, **layers, act=activation, second=conv(), out=conv(outputs=2, size=1))


def squeezed() -> Net:
    """Currents averaged, squeezed, and multiplied with the gate that comes of them."""

    def call(self: Any, x: Tensor) -> Tensor:
        x = self.begin(x)
        y = self.body(x)
        gate = torch.sigmoid(self.expand(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.end(F.relu(self.behind(y * gate) + x).mean((2, 3)))

    layers = {"begin": spiking(3), "body": conv(), "squeeze": conv(size=1), "expand": conv(size=1), "behind": conv()}
    return Net(call, **layers, end=nn.Linear(CHANNELS, 4))


def weighed() -> Net:
    """A factor for each channel between two convolutions, and averages of a sum of unlike scales before a linear map."""

    def call(self: Any, x: Tensor) -> Tensor:
        x = self.begin(x)
        y = self.act(self.second(self.first(x) * self.factor))
        return self.out(self.inner(F.avg_pool2d(x + y, 2).flatten(1)))

    def trained() -> CQReLU:
        return CQReLU(8, 0.3 + torch.rand(CHANNELS))

    net = Net(call, begin=nn.Sequential(conv(3), trained()), first=conv(), second=conv(), act=trained())
    net.factor = nn.Parameter(torch.rand(CHANNELS, 1, 1) + 0.5)
    net.inner, net.out = nn.Sequential(nn.Linear(16 * CHANNELS, 5), CQReLU(8, 0.3 + torch.rand(5))), nn.Linear(5, 3)
    return net


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "two": lambda: classified(conv(), conv()),
    "three": lambda: classified(conv(), conv(dilation=2), conv()),
    "four": lambda: classified(conv(), conv(groups=2), conv(stride=2), conv()),
    "separable": lambda: classified(*depthwise(), *depthwise()),
    "maximum between": lambda: classified(conv(), nn.MaxPool2d(2), conv(), nn.AvgPool2d(3, 1, 1), conv()),
    "three dimensions": lambda: Net(
        lambda self, x: self.out(F.relu(self.b(self.a(F.relu(self.first(x))[:, :, None]))).mean((2, 3, 4))),
        first=conv(3), a=nn.Conv3d(CHANNELS, 4, (1, 3, 3)), b=nn.Conv3d(4, 4, (1, 3, 3)), out=nn.Linear(4, 3),
    ),
    "pyramid": pyramid,
    "U-Net, leaky": lambda: unet(nn.LeakyReLU(0.1)),
    "U-Net, sigmoid": lambda: unet(nn.Sigmoid()),
    "squeezed": squeezed,
    "weighed": weighed,
    "a readout behind maps": lambda: nn.Sequential(spiking(3), conv(), conv(), conv(outputs=2)),
    "a linear readout": lambda: nn.Sequential(spiking(3), conv(), conv(), nn.Flatten(), nn.Linear(64 * CHANNELS, 3)),
}  # fmt: skip


class Tagger(nn.Module):
    """Convolutions along the text, one behind another, in front of a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        maps = [nn.Conv1d(5, 5, 3, padding=1) for _ in range(3)]
        self.convs = nn.Sequential(nn.Conv1d(4, 5, 3, padding=1), nn.ReLU(), *maps)
        self.gru, self.out = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.convs(x).transpose(1, 2))[0].mean(1))


def converted(model: nn.Module, q: int = 8, **options: Any) -> SpikingModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return casc_core.convert(casc_core.prepare(model.eval(), q=q).eval(), **options)


def check(snn: SpikingModel, inputs: Tensor) -> None:
    """Exact, the same in any batch, and what a simulation ends with."""
    report = casc_core.verify(snn, inputs)
    assert report.exact, str(report)
    assert all(layer.wrong == 0 for layer in report.lowering.layers.values())
    whole = snn(inputs)
    assert torch.equal(whole, snn.reference(inputs))
    assert torch.equal(whole, torch.cat([snn(each[None]) for each in inputs]))
    simulation = snn.simulate(inputs)
    for sample, step in enumerate(simulation.silent_at.tolist()):
        assert torch.equal(simulation.logits[max(step, 1) - 1, sample], whole[sample])
    assert any(layer.positive.any() for layer in simulation.spikes.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_network_as_trained(shape):
    torch.manual_seed(0)
    check(converted(settled(SHAPES[shape]())), IMAGES)


def test_a_map_that_neurons_read_and_the_network_returns_is_not_clamped():
    """Sums far beyond the thresholds are all the same to the neurons, and not to whoever reads the output."""

    def call(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.behind(F.max_pool1d(self.wide(F.relu(self.begin(x))), 2))
        return self.out(torch.sigmoid(y)), y

    torch.manual_seed(0)
    layers = {"begin": nn.Linear(4, 6), "wide": nn.Linear(6, 6), "behind": nn.Linear(3, 6), "out": nn.Linear(6, 2)}
    model = Net(call, **layers)
    with torch.no_grad():
        model.wide.weight.mul_(50)
        model.behind.weight.mul_(50)
    inputs = torch.randn(5, 4)
    assert model(inputs)[1].abs().max() > 100
    report = casc_core.verify(converted(model, 4), inputs)
    assert report.exact, str(report)


def test_a_recurrence_behind_maps_in_a_row():
    torch.manual_seed(0)
    check(converted(Tagger()), torch.randn(2, 4, 7))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(list(SHAPES)),
    st.sampled_from([1, 2, 5, 16]),
    st.sampled_from([WakeSleep(), WakeSleep(cycles=2), WakeSleep(wake=3, sleep=1, cycles=2)]),
)
def test_levels_are_the_references_under_any_schedule(seed, shape, q, schedule):
    torch.manual_seed(seed)
    try:
        snn = converted(settled(SHAPES[shape]()), q, schedule=schedule)
    except casc_core.ConfigError:  # thresholds by level, and products, are for q levels
        assert schedule != WakeSleep()
        return
    images = torch.randn(2, 3, 8, 8)
    report = casc_core.verify(snn, images)
    assert report.exact, str(report)
    assert torch.equal(snn(images), snn.reference(images))


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 11])
def test_a_run_cut_short_is_the_beginning_of_a_longer_one(steps):
    torch.manual_seed(0)
    snn = converted(settled(SHAPES["pyramid"]()))
    whole, short = snn.simulate(IMAGES, T=20), snn.simulate(IMAGES, T=steps)
    assert torch.equal(short.logits, whole.logits[:steps])
    for name, layer in short.spikes.items():
        assert torch.equal(layer.positive, whole.spikes[name].positive[:steps])
        assert torch.equal(layer.operations, whole.spikes[name].operations[:steps])


def test_bins_change_neither_counts_nor_logits_nor_how_many_spikes_reach_the_first_map():
    torch.manual_seed(0)
    snn = converted(settled(SHAPES["two"]()))
    binned = snn.simulate(IMAGES, T=16)
    with at_each_step():
        stepped = snn.simulate(IMAGES, T=16)
    assert torch.equal(binned.logits[-1], stepped.logits[-1])
    first, last = snn.layers
    assert torch.equal(binned.spikes[first].positive, stepped.spikes[first].positive)
    reached = binned.spikes[last].operations, stepped.spikes[last].operations
    assert float(reached[0].sum()) == float(reached[1].sum()) > 0
    # A map of currents multiplies fewer of them.
    assert 0 < float(binned.spikes[last].multiplications.sum()) < float(stepped.spikes[last].multiplications.sum())


@pytest.mark.parametrize("neuron", [CIF(), casc_core.IF()])
def test_input_that_never_ends_is_simulated_step_by_step(neuron):
    torch.manual_seed(0)
    snn = converted(settled(SHAPES["two"]()), neuron=neuron, schedule=casc_core.Continuous())
    assert snn.simulate(IMAGES, T=9).logits.shape == (9, 3, 4)


def test_a_saved_network_has_the_same_bits(tmp_path):
    torch.manual_seed(0)
    snn = converted(settled(SHAPES["pyramid"]()))
    snn.save(tmp_path / "net")
    assert torch.equal(casc_core.load(tmp_path / "net")(IMAGES), snn(IMAGES))


@pytest.mark.parametrize("keepdim", [False, True])
def test_means_of_unlike_scales_count_every_spike_once(keepdim):
    """Factors of channels, and their mean: currents of no map, whose spikes are counted at the map behind."""

    def call(self: Any, x: Tensor) -> Tensor:
        x = self.act(self.begin(x))
        return self.out(F.relu(self.inner((x * self.factor + x).mean((2, 3), keepdim=keepdim).flatten(1))))

    torch.manual_seed(0)
    layers = {"begin": conv(3), "act": CQReLU(8), "inner": nn.Linear(CHANNELS, 5), "out": nn.Linear(5, 2)}
    net = Net(call, **layers)
    net.factor = nn.Parameter(torch.rand(CHANNELS, 1, 1) + 0.5)
    snn = converted(net)
    check(snn, IMAGES)
    simulation = snn.simulate(IMAGES)
    spikes = simulation.spikes["act"]
    emitted = float((spikes.positive + spikes.negative).sum())
    behind = simulation.spikes[snn.layers[-1]]
    assert float((behind.operations + behind.multiplications).sum()) >= emitted


def test_one_channel_of_a_tiny_threshold_takes_no_bits_of_the_others():
    torch.manual_seed(0)
    thresholds = 0.3 + torch.rand(CHANNELS)
    thresholds[0] = 2.0**-20
    snn = converted(
        nn.Sequential(
            conv(3),
            CQReLU(8),
            conv(),
            CQReLU(8, thresholds),
            conv(),
            CQReLU(8),
            nn.Flatten(),
            nn.Linear(64 * CHANNELS, 2),
        )
    )
    check(snn, IMAGES)
    _, second, _ = (op for op in snn.operations() if op.kind == "Fire")
    assert second.settings["exponent"] < -30


def test_more_wake_steps_than_it_was_converted_for_are_as_exact():
    torch.manual_seed(0)
    snn = converted(settled(SHAPES["three"]()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        longer = snn.under(schedule=WakeSleep(wake=64))
    assert torch.equal(longer(IMAGES), longer.reference(IMAGES))


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2)], ids=str)
@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.2), (-1.0, 0.0), (0.7, -0.1)])
def test_batch_normalisation_behind_a_pooled_map(threshold, pool, weight, bias):
    """As between the blocks of a DenseNet; what is left of it once thresholds take its factors in may be signs alone."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(CHANNELS, eps=0.0)
    norm.weight.data[0] = weight
    norm.bias.data.fill_(bias)
    layers = conv(3), CQReLU(4, threshold), conv(size=1), pool, norm, CQReLU(4, 0.7), nn.Flatten(), nn.LazyLinear(2)
    model = nn.Sequential(*layers).eval()
    model(IMAGES)
    check(casc_core.convert(model), 2 * IMAGES)
