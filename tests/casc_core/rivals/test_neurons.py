"""Rival neurons: tables worked by hand from the published equations, on every array library; every engine the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CIF, IF, SNM, SRP, Burst, Continuous, CQReLU, WakeSleep
from casc_core.engine.kernels import all_instructions, using
from casc_core.neuron import Neuron
from casc_seq import RNN

# currents, caps, threshold, spikes, potential at the end
TABLES = {
    # 1.5 | 0.5 - 1.25 = -0.75: not below -1 | -1.75: taken back
    "SNM waits for a whole threshold": (SNM(), [1.5, -1.25, -1.0], [1, 2, 3], 1.0, [1, 0, -1], -0.75),
    "SNM takes back at the negative threshold": (SNM(), [1.0, -1.0], [1, 2], 1.0, [1, -1], 0.0),
    "SNM has nothing to take back": (SNM(), [-2.0, 0.5], [1, 2], 1.0, [0, 0], -1.5),
    "SNM with a threshold of two": (SNM(), [3.0, -2.5, -0.5], [1, 2, 3], 2.0, [1, 0, -1], 0.0),
    # min(floor(3.5), 2) = 2 | floor(1.5) = 1 | floor(0.75) = 0
    "burst": (Burst(gamma=2), [3.5, 0.0, 0.25], [1, 2, 3], 1.0, [2, 1, 0], 0.75),
    "burst of five": (Burst(), [7.25, 0.0], [1, 2], 1.0, [5, 2], 0.25),
    "burst never takes back": (Burst(), [2.0, -3.0], [1, 2], 1.0, [2, 0], -3.0),
    "burst with a threshold": (Burst(gamma=3), [1.75, 0.0], [1, 2], 0.5, [3, 0], 0.25),
    "clipped burst": (Burst(gamma=3, clipped=True), [3.5, 0.0, 0.0], [1, 2, 3], 1.0, [1, 1, 1], 0.5),
    "clipped burst catches up": (Burst(gamma=3, clipped=True), [0.5, 0.0, 2.75], [1, 2, 3], 1.0, [0, 0, 3], 0.25),
    # 0.5 + 0.75 = 1.25 | 0.25 + 0.75 = 1.0 | 0.75
    "OPI starts half way": (IF(initial_potential=0.5), [0.75, 0.75, 0.75], [1, 2, 3], 1.0, [1, 1, 0], 0.75),
    # 1.5: spike, 0.5 - 1 = -0.5 < 0: silenced, whatever comes
    "SRP silences": (SRP(tau=2), [1.0, -1.0, 5.0, 5.0], [1, 2, 3, 4], 1.0, [1, 0, 0, 0], 10.5),
    # 1.0: spike, 0.5: begins anew from 0.5; 1.25: spike | 1.0: spike
    "SRP begins anew": (SRP(tau=2), [0.5, 0.5, 0.75, 0.75], [1, 2, 3, 4], 1.0, [1, 0, 1, 1], 0.0),
}
LIBRARIES = {
    "numpy": np.asarray,
    "torch float32": lambda x: torch.tensor(x, dtype=torch.float32),
    "torch float64": lambda x: torch.tensor(x, dtype=torch.float64),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_worked_by_hand(name, library):
    neuron, currents, caps, threshold, spikes, potential = TABLES[name]
    train, state = neuron.run(LIBRARIES[library]([[current] for current in currents]), caps, threshold)
    assert [float(train[t, 0]) for t in range(len(currents))] == spikes
    assert float(state.v[0]) == potential


def test_initial_potential_is_in_thresholds():
    train, _ = IF(initial_potential=0.5).run(np.asarray([[0.5, 1.0]]), [1], np.asarray([1.0, 4.0]))
    assert train.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Burst(gamma=0), "gamma must be an integer from 1 to 127; got 0"),
        (lambda: Burst(gamma=2.5), "gamma must be an integer from 1 to 127; got 2.5"),
        (lambda: SRP(tau=0), "tau must be an integer of at least 1; got 0"),
        (lambda: IF(initial_potential=float("nan")), "must be a finite number; got nan"),
        (lambda: CIF(initial_potential="half"), "must be a finite number; got 'half'"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(casc_core.ConfigError, match=message):
        make()


def test_a_neuron_shows_what_is_not_usual():
    assert [repr(neuron) for neuron in (IF(), Burst(), Burst(gamma=2), SRP(tau=8))] == [
        "IF()", "Burst()", "Burst(gamma=2)", "SRP(tau=8)",
    ]  # fmt: skip


class Text(nn.Module):
    def __init__(self, q, half=False):
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.rnn = RNN(5, 9, 2, batch_first=True, bidirectional=True, q=q, half_step=half)
        self.fc1, self.act, self.fc2 = nn.Linear(18, 7), CQReLU(q, half_step=half), nn.Linear(7, 3)

    def forward(self, tokens, lengths):
        states, _ = self.rnn(self.embedding(tokens), lengths=lengths)
        return self.fc2(self.act(self.fc1(states.sum(1) / lengths.unsqueeze(1))))


def image_network(q, half):
    return nn.Sequential(
        nn.Conv2d(2, 34, 3, padding=1), CQReLU(q, half_step=half), nn.MaxPool2d(2), nn.Conv2d(34, 5, 3, groups=1),
        CQReLU(q, half_step=half), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5, 8), CQReLU(q, half_step=half),
        nn.Linear(8, 3),
    )  # fmt: skip


def networks(seed, q, half):
    torch.manual_seed(seed)
    texts, images = Text(q, half), image_network(q, half)
    for parameter in (*texts.parameters(), *images.parameters()):
        parameter.data *= 1.5
    tokens, lengths = torch.randint(1, 20, (4, 5)), torch.randint(1, 6, (4,))
    return (casc_core.convert(texts), (tokens, lengths)), (casc_core.convert(images), (torch.rand(3, 2, 8, 8),))


NEURONS_TRIED = (
    SNM(), Burst(), Burst(gamma=2), Burst(gamma=3, clipped=True), SRP(), SRP(tau=1), IF(initial_potential=0.5),
    CIF(initial_potential=0.25), SNM(initial_potential=-0.5),
)  # fmt: skip


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    neuron=st.sampled_from(NEURONS_TRIED),
    half=st.booleans(),
    q=st.sampled_from((1, 2, 4)),
    T=st.integers(1, 9),
)
def test_every_engine_gives_the_same_bits(seed, neuron, half, q, T):
    for snn, inputs in networks(seed, q, half):
        network = snn.under(neuron, Continuous())
        found = []
        for choice in all_instructions():
            with using(choice):
                found.append(network.simulate(*inputs, T=T))
        for other in found[1:]:
            assert torch.equal(other.logits, found[0].logits)
            for name, spikes in found[0].spikes.items():
                assert torch.equal(other.spikes[name].positive, spikes.positive)
                assert torch.equal(other.spikes[name].negative, spikes.negative)
                assert torch.equal(other.spikes[name].operations, spikes.operations)


@pytest.mark.parametrize("neuron", NEURONS_TRIED)
def test_a_population_follows_the_neurons_own_run(neuron):
    """One layer on real-valued input: what `Neuron.run` says of its currents, and its readout after each step."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 40), CQReLU(4), nn.Linear(40, 3))
    snn, x, T = casc_core.convert(model), torch.randn(5, 6), 10
    sim = snn.under(neuron, Continuous()).simulate(x, T=T)
    with torch.no_grad():
        current = model[0](x).double()
    train, _ = neuron.run(current.expand(T, 5, 40), range(1, T + 1))
    counted = train.clone()
    since = torch.arange(1, T + 1)
    counted[: neuron.warm_up] = 0
    since = torch.where(since > neuron.warm_up, since - neuron.warm_up, since)
    totals = counted.cumsum(0)
    totals[: neuron.warm_up] = train[: neuron.warm_up].cumsum(0)
    with torch.no_grad():
        logits = (totals / since.reshape(-1, 1, 1)) @ model[2].weight.T.double() + model[2].bias.double()
    torch.testing.assert_close(sim.logits.double(), logits, atol=2e-3, rtol=2e-3)
    assert torch.equal(sim.spikes["1"].positive, train.clamp(min=0).sum((1, 2)))
    assert torch.equal(sim.spikes["1"].negative, (-train).clamp(min=0).sum((1, 2)))


@given(seed=st.integers(0, 2**31), q=st.sampled_from((1, 2, 3, 8)))
@settings(max_examples=20)
def test_a_half_step_is_exact_with_cif_and_wake_sleep(seed, q):
    for snn, inputs in networks(seed, q, half=True):
        report = casc_core.verify(snn, *inputs)
        assert report.exact
        # Levels of the ANN as trained: all but those that snapping moved.
        assert report.ann_max_logit_difference < 1.0
        with torch.no_grad():
            away = (snn.reference(*inputs) - snn.ann(*inputs)).abs()
        assert float(away.median()) < 1e-2


def test_prepare_can_round():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.rnn, self.fc = nn.Embedding(9, 4), nn.RNN(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, tokens):
            return self.fc(torch.relu(self.rnn(self.embedding(tokens))[0]).sum(1))

    torch.manual_seed(0)
    ann, plain = (casc_core.prepare(Words(), q=3, half_step=half) for half in (True, False))
    assert [module.half_step for module in ann.modules() if isinstance(module, (CQReLU, RNN))] == [True, True]
    assert not any(module.half_step for module in plain.modules() if isinstance(module, (CQReLU, RNN)))
    snn, tokens = casc_core.convert(ann), torch.randint(9, (8, 5))
    assert casc_core.verify(snn, tokens).exact
    x = torch.tensor([[[0.4]]])
    rnn = RNN(1, 1, bias=False, q=2, half_step=True)
    for parameter in rnn.parameters():
        parameter.data.fill_(1.0)
    assert rnn(x)[0].item() == 0.5  # 0.8 levels: to the nearest, 1


def test_qcfs_is_an_initial_potential_of_half_a_threshold():
    """Published: IF neurons with v_0 = theta / 2. A half step trained into the activation becomes that."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 30), CQReLU(4), nn.Linear(30, 3))
    shifted = nn.Sequential(plain[0], CQReLU(4, half_step=True), plain[2])
    x = torch.randn(8, 6)
    opi = casc_core.convert(plain).under(IF(initial_potential=0.5), Continuous()).simulate(x, T=12)
    qcfs = casc_core.convert(shifted).under(IF(), Continuous()).simulate(x, T=12)
    assert torch.equal(opi.logits, qcfs.logits)


@pytest.mark.parametrize("neuron", [SNM(), Burst(gamma=3, clipped=True), SRP(tau=2), CIF(initial_potential=0.25)])
def test_a_network_of_rivals_is_saved_and_loaded(neuron, tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 9), CQReLU(2, half_step=True), nn.Linear(9, 2)), torch.randn(5, 4)
    snn = casc_core.convert(model, neuron=neuron, schedule=Continuous())
    snn.save(tmp_path / "network")
    loaded = casc_core.load(tmp_path / "network", model=model)
    assert loaded.settings.neuron == neuron
    assert torch.equal(loaded.simulate(x, T=6).logits, snn.simulate(x, T=6).logits)


def test_beginning_anew_needs_continuous_input():
    snn = casc_core.convert(nn.Sequential(nn.Linear(4, 9), CQReLU(2), nn.Linear(9, 2)))
    with pytest.raises(casc_core.ConfigError, match=r"SRP\(\) begins anew after 4 steps, which needs Continuous"):
        snn.under(SRP(), WakeSleep()).simulate(torch.randn(2, 4))


def test_all_neurons_can_be_found_by_name():
    assert {name: Neuron.kinds[name] for name in ("IF", "CIF", "SNM", "Burst", "SRP")} == {
        "IF": IF, "CIF": CIF, "SNM": SNM, "Burst": Burst, "SRP": SRP,
    }  # fmt: skip
