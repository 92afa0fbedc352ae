"""`simulate(record=...)`: the spikes are those of every other way, and the potentials follow from them."""

from __future__ import annotations

import pytest
import torch
from exported import converted, perceptron
from torch import nn

import casc_core
from casc_core import CIF, SNM, AsTrained, ConfigError, Continuous, Exact
from casc_core.engine import kernels
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.spike_counts import LayerTrain
from casc_core.engine.spiking_run import SpikingRun

BOTH = ("spikes", "potentials")


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(8)], ids=str)
@pytest.mark.parametrize(
    "name", ["residual", "thresholds_per_channel", "bidirectional_rnn", "gru", "lstm", "two_outputs"]
)
def test_the_same_spikes_on_every_path(name: str, numerics: AsTrained | Exact) -> None:
    snn, made = converted(name, numerics)
    plain, spikes = snn.simulate(*made.inputs), snn.simulate(*made.inputs, record=("spikes",))
    both = snn.simulate(*made.inputs, record=BOTH)
    with kernels.using(None):
        stepwise = snn.simulate(*made.inputs, record=BOTH)
    for layer, found in both.spikes.items():
        assert found.train is not None
        assert found.potentials is not None
        assert found.train.dtype == torch.int8
        assert found.train.shape == found.potentials.shape
        assert len(found.train) == both.T == plain.T
        for other in (spikes.spikes[layer], stepwise.spikes[layer]):
            assert torch.equal(found.train, other.train)
        assert torch.equal(found.potentials, stepwise.spikes[layer].potentials)
        assert torch.equal((found.train > 0).flatten(1).sum(1), plain.spikes[layer].positive.long())
        assert plain.spikes[layer].train is plain.spikes[layer].potentials is spikes.spikes[layer].potentials is None
    if name != "two_outputs":
        assert torch.equal(both.logits, plain.logits)


@pytest.mark.parametrize("neuron", [CIF(), CIF(initial_potential=0.5), SNM()], ids=repr)
def test_potentials_are_those_of_the_neuron_itself(neuron: casc_core.Neuron) -> None:
    model, x = perceptron(), torch.randn(3, 6)
    schedule = Continuous() if neuron.warm_up else casc_core.WakeSleep()
    snn = casc_core.convert(model, numerics=Exact(), neuron=neuron, schedule=schedule)
    simulation = snn.simulate(x, T=12, record=BOTH)
    first, second = simulation.spikes.values()
    assert first.train is not None
    assert second.potentials is not None
    assert second.train is not None
    weight, bias = (getattr(snn.operations()[3], name).double() for name in ("weight", "bias"))
    awake = torch.tensor(snn.settings.schedule.resolved(4).awake(12), dtype=torch.float64)
    currents = first.train.double() @ weight.T + awake[:, None, None] * bias
    state = neuron.initial(torch.zeros(3, 7, dtype=torch.float64))
    for step, cap in enumerate(awake.cumsum(0).int().tolist()):
        spikes, state = neuron.step(state, currents[step], cap)
        assert torch.equal(spikes, second.train[step].double())
        assert (
            state.v - second.potentials[step]
        ).abs().max() < 2.0**-12  # biases are rounded to the grid of the potential


def test_a_run_longer_than_a_layer_is_active() -> None:
    snn, made = converted("mlp", Exact(8))
    layer = snn.simulate(*made.inputs, T=20, record=BOTH).spikes["3"]
    assert layer.train is not None
    assert layer.potentials is not None
    last = int(layer.silent_at.max())
    assert not layer.train[last:].any()
    assert len(layer.potentials) == 20
    assert torch.equal(layer.potentials[-1], layer.potentials[max(last, 4)])


def test_a_silent_population_has_potentials() -> None:
    model = nn.Sequential(nn.Linear(2, 2), casc_core.CQReLU(2), nn.MaxPool1d(2), casc_core.CQReLU(2), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    layers = casc_core.convert(model).simulate(torch.randn(1, 2), record=BOTH).spikes
    assert [layer.potentials.tolist() for layer in layers.values() if layer.potentials is not None] == [
        [[[-1.0, -1.0]], [[-2.0, -2.0]]], [[[0.0]], [[0.0]]],
    ]  # fmt: skip


@pytest.mark.parametrize("record", ["spikes", ("spikes", "currents"), ["potential"], (1,)])
def test_what_cannot_be_recorded_is_refused(record: object) -> None:
    snn, made = converted("mlp", Exact(8))
    with pytest.raises(ConfigError, match='record names "spikes", "potentials" or both'):
        snn.simulate(*made.inputs, record=record)  # type: ignore[arg-type]


def test_kernels_run_where_no_potentials_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, made = converted("mlp", Exact(8))
    compiled: list[bool] = []
    begin = snn._spiking_run

    def noted(steps: int | None, recorder: Recorder | None, only_final: bool = False) -> SpikingRun:
        run = begin(steps, recorder, only_final)
        if recorder is not None:
            compiled.append(run.kernel_neuron is not None)
        return run

    monkeypatch.setattr(snn, "_spiking_run", noted)
    for record in ((), ("spikes",), BOTH):
        snn.simulate(*made.inputs, record=record)
    assert compiled == [True, True, False]


def test_an_operation_that_keeps_its_potentials_to_itself_is_named() -> None:
    with pytest.raises(ConfigError, match="'own' does not give its membrane potentials"):
        Recorder(keep_potentials=True).layer(LayerTrain("own", torch.zeros(1, 2, dtype=torch.int8)), "%0", 1)
