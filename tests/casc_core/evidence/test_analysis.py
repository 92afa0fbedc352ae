"""The analysis against the same figures taken by hand from whole spike trains and the reference's levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CIF, IF, SRP, Burst, Continuous, CQReLU, EnergyTable, WakeSleep
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.recording.agreement import agreement
from casc_core.engine.recording.recorder import Recorder
from casc_seq import RNN

METHODS = {
    "CASC": (CIF(), WakeSleep()),
    "WSC": (IF(), WakeSleep()),
    "baseline": (IF(), Continuous()),
    "burst": (Burst(gamma=3), Continuous()),
    "SRP": (SRP(tau=2), Continuous()),
}


class Text(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.rnn, self.fc = RNN(3, 6, batch_first=batch_first, bidirectional=True, q=3), nn.Linear(12, 3)
        self.axis = 1 if batch_first else 0

    def forward(self, tokens, lengths):
        states, _ = self.rnn(self.embedding(tokens), lengths=lengths)
        return self.fc(states.sum(self.axis) / lengths.unsqueeze(1))


def text_network(seed, method):
    torch.manual_seed(seed)
    model = Text()
    for parameter in model.rnn.parameters():
        parameter.data *= 2.5
    neuron, schedule = METHODS[method]
    return casc_core.convert(model, neuron=neuron, schedule=schedule)


def text_batches(sizes=(3, 2)):
    batches = []
    for size in sizes:
        lengths = torch.randint(1, 6, (size,))
        batches.append((torch.randint(1, 9, (size, int(lengths.max()))), lengths, torch.randint(3, (size,))))
    return batches


def by_hand(snn, batches, T):
    """Figures of one network from every spike of every neuron."""
    q, (awake, warm_up) = snn.settings.levels, snn.wake_steps(T)
    sums, samples = {}, 0
    for *inputs, labels in batches:
        recorder = Recorder(keep_trains=True)
        simulation = snn.simulate_recorded(tuple(inputs), {}, T, recorder)
        reference, levels = snn.reference_counts(tuple(inputs), {})
        samples += len(labels)
        real = None
        if len(inputs) == 2:
            real = (torch.arange(inputs[0].shape[1]) < inputs[1][:, None]).numpy()[..., None]
        for name, train in recorder.trains.items():
            spikes = np.zeros((T, *train.shape[1:]))
            spikes[: len(train)] = train.numpy()
            rows = sums.setdefault(name, np.zeros((T, 6)))
            level = levels[name].double().numpy()
            valid = np.broadcast_to(np.ones(1, bool) if real is None else real, level.shape)
            for t in range(T):
                start = warm_up if t >= warm_up else 0
                count, due = spikes[start : t + 1].sum(0), level * awake[t] / q
                rows[t] += [
                    ((count >= due + 1 - 1e-9) & valid).sum(), ((count <= due - 1 + 1e-9) & valid).sum(),
                    np.abs(count - due)[valid].sum() / awake[t] * q, (level * valid).sum(),
                    np.maximum(spikes[t], 0).sum(), valid.sum(),
                ]  # fmt: skip
        squares = (simulation.logits.double() - reference.double()).square().sum((1, 2)).numpy()
        total = sums.setdefault("", np.zeros((T, 3)))
        classes = simulation.logits.argmax(-1)
        total[:, 0] += squares
        total[:, 1] += (classes == labels).sum(1).numpy()
        total[:, 2] += (classes != reference.argmax(-1)).sum(1).numpy()
    return sums, samples


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), method=st.sampled_from(list(METHODS)), T=st.integers(3, 9))
def test_every_figure_equals_that_taken_by_hand(seed, method, T):
    snn = text_network(seed, method)
    batches = text_batches()
    expected, samples = by_hand(snn, batches, T)
    for choice in all_instructions():
        with using(choice):
            found = casc_core.analyse(snn, batches, T=T)
        assert (found.T, found.samples) == (T, samples)
        for name, layer in found.layers.items():
            more, fewer, error, levels, positive, neurons = expected[name].T
            assert layer.neurons * samples == neurons[0]
            np.testing.assert_allclose(layer.more, more / neurons, err_msg=f"{choice}, {name}")
            np.testing.assert_allclose(layer.fewer, fewer / neurons)
            np.testing.assert_allclose(layer.relative_error, error / np.maximum(levels, 1e-9), rtol=1e-9)
            np.testing.assert_allclose(layer.positive, positive / neurons)
        squares, right, off = expected[""].T
        np.testing.assert_allclose(found.mse, squares / samples / 3, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.accuracy, 100 * right / samples)
        np.testing.assert_array_equal(found.mismatches, off)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), q=st.integers(1, 8), T=st.integers(1, 12), warm_up=st.integers(0, 5))
def test_agreement_by_every_engine(seed, q, T, warm_up):
    generator = torch.Generator().manual_seed(seed)
    neurons = 20_000  # more than a block
    train = torch.randint(-1, 3, (min(T, 4), neurons), generator=generator).to(torch.int8)
    levels = torch.randint(0, q + 1, (neurons,), generator=generator).to(torch.int16)
    awake = [min(t + 1, q) for t in range(T)]
    found = []
    for choice in all_instructions():
        with using(choice):
            found.append(agreement(train, levels, q, awake, warm_up))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


def test_until_silent_is_exact_and_later_steps_change_nothing():
    snn, batches = text_network(1, "CASC"), text_batches((4, 3))
    silent = casc_core.analyse(snn, batches)
    assert silent.exact
    assert max(3, int(silent.silent_at.max())) == silent.T
    assert int(silent.exact_at.max()) <= silent.T + 1
    longer = casc_core.analyse(snn, batches, T=silent.T + 5)
    assert torch.equal(longer.mse[: silent.T], silent.mse)
    assert not longer.mse[silent.T - 1 :].any()
    assert torch.equal(longer.energy()[-1], silent.energy()[-1])
    for name, layer in longer.layers.items():
        assert torch.equal(layer.more[: silent.T], silent.layers[name].more)
        assert not (layer.more + layer.fewer)[silent.T - 1 :].any()
        assert not (layer.positive + layer.negative)[silent.T :].any()


def test_parts_of_a_batch_are_put_together():
    snn, (batch,) = text_network(2, "CASC"), text_batches((40,))
    whole = casc_core.analyse(snn, [batch])
    snn.memory_limit = 4_000
    parts = casc_core.analyse(snn, [batch])
    halves = casc_core.analyse(snn, [tuple(part[:17] for part in batch), tuple(part[17:] for part in batch)])
    for other in (parts, halves):
        assert other.samples == 40
        torch.testing.assert_close(other.mse, whole.mse)
        assert torch.equal(other.logits, whole.logits)
        assert torch.equal(other.silent_at, whole.silent_at)
        torch.testing.assert_close(other.accumulates, whole.accumulates)
        for name, layer in whole.layers.items():
            torch.testing.assert_close(other.layers[name].more, layer.more)
            torch.testing.assert_close(other.layers[name].positions.mismatch, layer.positions.mismatch)


@pytest.mark.parametrize("batch_first", [True, False])
def test_by_token_position(batch_first):
    torch.manual_seed(4)
    model = Text(batch_first)
    for parameter in model.rnn.parameters():
        parameter.data *= 2.5
    snn = casc_core.convert(model, neuron=IF(), schedule=Continuous())
    tokens, lengths = torch.randint(1, 9, (6, 5)), torch.tensor([5, 4, 3, 3, 2, 1])
    tokens = tokens if batch_first else tokens.T.contiguous()
    recorder = Recorder(keep_trains=True)
    snn.simulate_recorded((tokens, lengths), {}, 7, recorder)
    _, levels = snn.reference_counts((tokens, lengths), {})
    analysis = casc_core.analyse(snn, [(tokens, lengths)], T=7)
    for name, layer in analysis.layers.items():
        train, level = recorder.trains[name], levels[name]
        if not batch_first:
            train, level = train.transpose(1, 2), level.transpose(0, 1)
        for place in range(5):
            reach = lengths > place
            off = (train[:, reach, place].sum(0) * 3 - level[reach, place].int() * 7).abs() >= 3
            assert float(layer.positions.mismatch[place]) == pytest.approx(float(off.double().mean()))
            last = [
                max([t + 1 for t in range(len(train)) if train[t, text, place].any()], default=0)
                for text in reach.nonzero().flatten()
            ]
            assert float(layer.positions.silent_at[place]) == pytest.approx(sum(last) / len(last))


def test_energy_is_of_all_layers_and_the_readout():
    snn, batches = text_network(5, "baseline"), text_batches()
    analysis = casc_core.analyse(snn, batches, T=4)
    table = EnergyTable(mac=3.0, ac=1.0, name="", source="")
    spent, samples = torch.zeros(4), 0
    for *inputs, _ in batches:
        simulation = snn.simulate(*inputs, T=4)
        samples += len(inputs[0])
        spent += simulation.readout_operations + 3 * simulation.readout_multiplications
        for layer in simulation.spikes.values():
            spent += layer.operations + 3 * layer.multiplications
    torch.testing.assert_close(analysis.energy(table), (spent / samples).cumsum(0).double())
    assert analysis.ann_energy(table) == pytest.approx(3 * analysis.ann_multiply_accumulates)
    counted = sum(((layer.positive + layer.negative) * layer.neurons) for layer in analysis.layers.values())
    torch.testing.assert_close(analysis.spikes.double(), counted)


def test_it_prints_as_a_table():
    said = str(casc_core.analyse(text_network(6, "CASC"), text_batches()))
    assert said.splitlines()[0].startswith("layer")
    assert "rnn.l0_reverse" in said
    assert "5 samples" in said
    assert "predictions of 0 samples differ from the reference's, accuracy" in said
    assert "accuracy" not in str(casc_core.analyse(casc_core.convert(image_network()), [torch.rand(2, 1, 4, 4)]))


def image_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), CQReLU(2), nn.Flatten(), nn.Linear(16, 3))


def test_labels_are_optional_and_batches_may_be_tensors():
    snn, images = casc_core.convert(image_network()), torch.rand(5, 1, 4, 4)
    assert casc_core.analyse(snn, [images]).accuracy is None
    assert casc_core.analyse(snn, [(images,)]).accuracy is None
    assert casc_core.analyse(snn, [(images, snn(images).argmax(1))]).accuracy.tolist()[-1] == 100.0
    assert casc_core.analyse(snn, [images]).layers["1"].positions is None


@pytest.mark.parametrize(
    ("batches", "T", "error", "message"),
    [
        ([], 4, casc_core.InputError, "there is no batch to analyse"),
        (torch.rand(2, 1, 4, 4), 4, casc_core.InputError, "put it into a list"),
        ([(torch.rand(2, 1, 4, 4), torch.tensor([1]))], 4, casc_core.InputError, r"labels of shape \[1\] for 2 samples"),
        ([(torch.rand(1, 1, 4, 4), torch.tensor([1])), torch.rand(2, 1, 4, 4)], 4, casc_core.InputError, "some have none"),
        ([torch.rand(2, 1, 4, 4)], 0, casc_core.ConfigError, "must be an integer of at least 1; got 0"),
    ],
)  # fmt: skip
def test_mistakes(batches, T, error, message):
    with pytest.raises(error, match=message):
        casc_core.analyse(casc_core.convert(image_network()), batches, T=T)


def test_continuous_input_needs_steps_and_a_network_is_needed():
    snn = casc_core.convert(image_network(), neuron=IF(), schedule=Continuous())
    with pytest.raises(casc_core.ConfigError, match="never falls silent"):
        casc_core.analyse(snn, [torch.rand(2, 1, 4, 4)])
    with pytest.raises(casc_core.ConfigError, match="analyse takes the converted network first; got Sequential"):
        casc_core.analyse(image_network(), [torch.rand(2, 1, 4, 4)])
