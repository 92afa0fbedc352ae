"""The public face, line by line: convert, simulate, verify."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from recorded import simulated
from torch import nn
from user_models import TOKENS, user_model

import casc_core
from casc_core import CIF, IF, AsTrained, ConfigError, Continuous, CQReLU, Exact, WakeSleep


def model(**sizes):
    return user_model(lambda self, tokens: self.fc(self.act(self.h(self.states(tokens).mean(1)))), **sizes)


@pytest.fixture(scope="module")
def ann():
    return casc_core.prepare(model(), adapter="rnn", q=4).eval()


@pytest.fixture(scope="module")
def snn(ann):
    return casc_core.convert(ann, adapter="rnn")


def test_a_call_equals_the_reference_and_the_last_readout(ann, snn):
    logits = snn(TOKENS)
    assert (logits.shape, logits.dtype) == ((7, 3), torch.float32)
    assert torch.equal(logits, snn.reference(TOKENS))
    assert torch.equal(logits, snn.simulate(TOKENS).logits[-1])
    torch.testing.assert_close(logits, ann(TOKENS).detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(snn(tokens=TOKENS), logits)


def test_simulation(snn):
    sim = snn.simulate(TOKENS)
    assert sim.T == sim.logits.shape[0] == max(4, int(sim.silent_at.max()))
    assert sim.logits.shape[1:] == (7, 3)
    assert list(sim.spikes) == ["rnn", "act"] == list(snn.layers)
    rnn, act = sim.spikes["rnn"], sim.spikes["act"]
    assert (rnn.neurons, act.neurons) == (7 * 6 * 5, 7 * 5)
    for layer in (rnn, act):
        assert layer.positive.shape == layer.negative.shape == layer.operations.shape == (sim.T,)
    assert torch.equal(torch.maximum(rnn.silent_at, act.silent_at), sim.silent_at)
    # A spike of any position but the last reaches the 5 neurons of the next.
    _, counts = simulated(snn, TOKENS, T=None)
    net = int((rnn.positive - rnn.negative).sum())
    assert net == int(counts["rnn"].sum())
    assert 0 < int(rnn.operations.sum()) < 5 * int((rnn.positive + rnn.negative).sum())
    assert int(rnn.operations.sum()) >= 5 * int(counts["rnn"][:, :-1].sum())
    assert "spikes in 2 layers" in repr(sim)


def test_more_steps_repeat_the_last_readout_and_fewer_are_its_beginning(snn):
    whole = snn.simulate(TOKENS)
    for steps in (1, 2, 3, 5, whole.T + 3):
        part = snn.simulate(TOKENS, T=steps)
        assert steps == part.T
        shared = min(steps, whole.T)
        assert torch.equal(part.logits[:shared], whole.logits[:shared])
        assert torch.equal(part.logits[shared:], whole.logits[-1:].expand(steps - shared, -1, -1))
        assert torch.equal(part.spikes["rnn"].positive[:shared], whole.spikes["rnn"].positive[:shared])


def test_shorter_than_the_wake_phase_divides_by_the_steps_so_far():
    net = nn.Sequential(casc_core.CQReLU(4), nn.Linear(1, 1))
    with torch.no_grad():
        net[1].weight.fill_(1.0)
        net[1].bias.fill_(0.5)
    sim = casc_core.convert(net, adapter="rnn").simulate(torch.tensor([[0.5], [1.0]]), T=3)
    # At half the threshold it spikes at steps 2 and 4; at the threshold at each.
    assert sim.logits[:, :, 0].tolist() == [[0.5, 1.5], [1.0, 1.5], [pytest.approx(1 / 3 + 0.5), 1.5]]


def test_silent_at_is_zero_where_nothing_ever_spiked():
    net = nn.Sequential(casc_core.CQReLU(2), nn.Linear(1, 1))
    snn = casc_core.convert(net, adapter="rnn")
    sim = snn.simulate(torch.tensor([[-1.0], [0.2], [1.0]]))
    assert sim.silent_at.tolist() == [0, 0, 2]
    quiet = snn.simulate(torch.tensor([[-1.0]]))
    assert quiet.silent_at.tolist() == [0]
    assert quiet.T == 2
    assert casc_core.verify(snn, torch.tensor([[-1.0]])).exact


def test_report(snn):
    report = casc_core.verify(snn, TOKENS)
    assert report.exact
    assert report.logits_equal
    assert report.promised
    assert list(report.layers) == ["rnn", "act"]
    assert report.layers["rnn"].neurons == 210
    assert report.first_divergence is None
    assert report.max_logit_difference == 0.0
    assert report.prediction_mismatches == report.ann_predictions_moved == 0
    text = str(report)
    assert "EXACT against the quantised ANN: 7 samples" in text
    assert "NOT" not in text
    assert text.splitlines()[0].split()[0] == "layer"


def test_baseline(ann):
    snn = casc_core.convert(ann, adapter="rnn", neuron=IF(), schedule=Continuous())
    assert snn.simulate(TOKENS, T=9).logits.shape == (9, 7, 3)
    for call in (snn, snn.simulate):
        with pytest.raises(
            ConfigError, match=r"Continuous\(\) the network never falls silent: use simulate\(\.\.\., T="
        ):
            call(TOKENS)
    report = casc_core.verify(snn, TOKENS)
    assert not report.promised
    assert not report.exact
    assert report.T == 16
    assert "exactness is not promised" in str(report)
    assert "NOT EXACT" in str(report)
    assert report.first_divergence.name in str(report)
    assert torch.equal(snn.reference(TOKENS), casc_core.convert(ann).reference(TOKENS))


def test_a_cut_simulation_says_that_it_is_cut(snn):
    report = casc_core.verify(snn, TOKENS, T=1)
    assert not report.exact
    assert not report.promised
    assert "T=1 may end before the network is silent" in str(report)


def test_an_unprepared_model_is_prepared_with_a_warning():
    unprepared = model()
    with pytest.warns(UserWarning, match=r"not trained with CQReLU.*q=4"):
        snn = casc_core.convert(unprepared, adapter="rnn", q=4)
    assert torch.equal(snn(TOKENS), casc_core.convert(casc_core.prepare(unprepared, q=4))(TOKENS))
    with pytest.raises(ConfigError, match=r"call casc_core\.prepare"):
        casc_core.convert(unprepared, adapter="rnn")


def test_another_q_than_the_prepared_one_is_refused(ann):
    with pytest.raises(ConfigError, match=r"prepared with q=4; got q=2"):
        casc_core.convert(ann, q=2)
    assert casc_core.convert(ann, q=4).settings.q == 4


@pytest.mark.parametrize(("schedule", "levels"), [(WakeSleep(wake=2), 2), (WakeSleep(wake=4, cycles=2), 8)])
def test_other_levels_warn_and_are_still_exact(ann, schedule, levels):
    with pytest.warns(UserWarning, match=rf"computes with {levels} levels, but the model was trained with q=4"):
        snn = casc_core.convert(ann, schedule=schedule)
    report = casc_core.verify(snn, TOKENS)
    assert report.exact
    assert report.ann_predictions_moved is None
    with pytest.warns(UserWarning, match="not been trained|not trained"):
        as_many = casc_core.convert(model(), q=levels)
    assert torch.equal(snn(TOKENS), as_many(TOKENS))


def test_as_many_levels_in_cycles_do_not_warn(ann, snn):
    cycles = casc_core.convert(ann, schedule=WakeSleep(wake=2, sleep=3, cycles=2))
    assert torch.equal(cycles(TOKENS), snn(TOKENS))


def test_the_model_is_left_alone(ann):
    before, mode = copy.deepcopy(ann.state_dict()), ann.training
    snn = casc_core.convert(ann)
    logits = snn(TOKENS)
    with torch.no_grad():
        snn.ann.fc.bias.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert ann.training == mode
    assert torch.equal(snn(TOKENS), logits)
    trained = copy.deepcopy(ann).train()
    casc_core.convert(trained)
    assert trained.training


def test_sums_on_an_edge_in_real_numbers_are_as_trained():
    torch.manual_seed(0)
    rough = nn.Sequential(
        nn.Linear(20, 200), casc_core.CQReLU(16), nn.Linear(200, 200), casc_core.CQReLU(16), nn.Linear(200, 3)
    )
    with torch.no_grad():
        # Sums of tenths that meet the levels' edges exactly in real numbers, and on either side of them in float32.
        for layer in (rough[0], rough[2]):
            layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape) / 10)
            layer.bias.zero_()
    x = torch.randint(0, 2, (60, 20)) / 8
    assert casc_core.verify(casc_core.convert(rough, "rnn"), x).exact
    report = casc_core.verify(casc_core.convert(rough, "rnn", numerics="as trained"), x)
    assert report.promised
    assert report.exact
    assert report.grid is not None
    assert not any(report.grid.layers.values())
    assert report.float32 is not None
    assert any(report.float32.layers.values())  # which rounds them to either side


@pytest.mark.parametrize("bits", [2, 4, 8, 24])
def test_weight_bits(ann, bits):
    snn = casc_core.convert(ann, numerics=Exact(weight_bits=bits))
    assert casc_core.verify(snn, TOKENS).exact
    difference = float((snn(TOKENS) - ann(TOKENS).detach()).abs().max())
    assert difference < 1e-5 if bits > 7 else difference > 1e-3
    assert casc_core.convert(ann, numerics=AsTrained()).settings.numerics == AsTrained()


def test_under_shares_weights(snn):
    baseline = snn.under(IF(), WakeSleep())
    assert baseline.settings.schedule == WakeSleep(4, 4, 1)
    assert snn.settings.neuron == CIF()
    assert {id(b) for b in baseline.buffers()} == {id(b) for b in snn.buffers()}
    assert not casc_core.verify(baseline, TOKENS).exact


def test_no_gradients_and_no_warnings(snn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not snn(TOKENS).requires_grad
        assert list(snn.parameters()) == []


def test_scalar_batches_of_one(snn):
    for row in range(7):
        assert torch.equal(snn(TOKENS[row : row + 1]), snn(TOKENS)[row : row + 1])


def test_operations_count_each_spike_and_synapse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), CQReLU(4), nn.Linear(4, 5), CQReLU(4), nn.Linear(5, 2))
    sim = casc_core.convert(model, adapter="rnn").simulate(torch.randn(6, 3))
    first, second = sim.spikes["1"], sim.spikes["3"]
    emitted = [layer.positive + layer.negative for layer in (first, second)]
    assert all(spikes.sum() > 0 for spikes in emitted)
    assert not first.operations.any()  # it reads real values: no spike reaches it
    assert torch.equal(second.operations, emitted[0].double() * 5)
    assert torch.equal(sim.readout_operations, emitted[1].double() * 2)
