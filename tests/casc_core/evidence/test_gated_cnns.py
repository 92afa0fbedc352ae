"""Squeeze-and-excitation, MobileNetV3 and gated convolutions are exact, and equal to the prepared network in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gated_cnns import GatedConvolution, mobilenet_v3, se_resnet
from torch import nn
from user_cnns import IMAGES, check, converted, settled

import casc_core
from casc_core import AsTrained, ConfigError, Continuous, Exact, WakeSleep

NETWORKS = {
    "SE-ResNet, sigmoid": partial(se_resnet, nn.Sigmoid),
    "SE-ResNet, hardsigmoid": partial(se_resnet, nn.Hardsigmoid),
    "MobileNetV3 of torchvision": partial(mobilenet_v3, False),
    "MobileNetV3 of timm": partial(mobilenet_v3, True),
    "gated convolution": lambda: settled(GatedConvolution()),
}
LARGER = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("q", [3, 8])
@pytest.mark.parametrize("numerics", [AsTrained(), Exact()])
@pytest.mark.parametrize("network", NETWORKS)
def test_they_are_exact(network, numerics, q):
    snn = converted(NETWORKS[network](), q, numerics=numerics)
    report = casc_core.verify(snn, LARGER)
    assert report.exact, str(report)
    assert report.lowering.exact
    assert report.lowering.not_compared == ()
    assert report.lowering.ties == 0
    assert int(report.silent_at.max()) > q


@pytest.mark.parametrize("network", NETWORKS)
def test_they_are_what_was_trained(network):
    check(NETWORKS[network](), LARGER, q=4)


@pytest.mark.parametrize("network", ["SE-ResNet, hardsigmoid", "gated convolution"])
def test_engines_and_other_neurons(network, tmp_path):
    snn = converted(NETWORKS[network](), 4)
    expected = snn(IMAGES)
    with casc_core.engine.kernels.using(None):
        assert torch.equal(snn(IMAGES), expected)
        assert torch.equal(snn.reference(IMAGES), expected)
    snn.save(tmp_path / "saved")
    loaded = casc_core.load(tmp_path / "saved")
    assert torch.equal(loaded(IMAGES), expected)
    assert casc_core.verify(snn.under(schedule=WakeSleep(2, 2, 2)), IMAGES).exact
    assert not torch.equal(snn.under(casc_core.IF()).simulate(IMAGES, T=9).logits[-1], expected)


@pytest.mark.parametrize(
    "options", [{"neuron": casc_core.SNM()}, {"schedule": Continuous()}, {"schedule": WakeSleep(2, 2)}], ids=str
)
@pytest.mark.filterwarnings("ignore:.*computes with 2 levels")
def test_what_counts_other_levels_is_refused(options):
    snn = converted(se_resnet(nn.Sigmoid), 4)
    with pytest.raises(
        ConfigError, match=r"'3\.se\.scale_activation'.* is for the q=4 levels .*WakeSleep\(\) of as many"
    ):
        snn.under(**options)
    assert issubclass(ConfigError, casc_core.CascError)


def test_graded_events_are_counted():
    snn = converted(nn.Sequential(nn.Linear(4, 6), nn.Hardswish(), nn.Linear(6, 3)), 4)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    simulation = snn.simulate(x)
    counts = {name: spikes.positive + spikes.negative for name, spikes in simulation.spikes.items()}
    arriving = sum(float(count.sum()) for count in counts.values())
    # Each spike meets the total of the other population; each event goes through a synapse to each of three outputs.
    biases = 5 * 3 * 4
    events = float(simulation.readout_multiplications.sum()) - arriving - biases
    assert 0 < events <= 3 * arriving
    assert events % 3 == 0
    assert float(simulation.readout_operations.sum()) == 0
    assert simulation.readout_ann_multiplications == 5 * (6 + 18)


def test_the_analysis_of_signed_counts():
    snn = converted(settled(GatedConvolution()), 4)
    analysis = casc_core.analyse(snn, [IMAGES])
    assert analysis.exact
    layer = analysis.layers["tanh"]
    assert float(layer.negative.sum()) > 0
    assert float(layer.relative_error[-1]) == 0
    assert float(layer.relative_error.max()) <= 2
