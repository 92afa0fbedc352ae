"""The library's simulation against an independent one: every count of every neuron, every readout, every schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import ENGINES, engine
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Classifier
from recorded import simulated
from text_batches import batch_of
from torch import Tensor, nn

import casc_core
from casc_core import CIF, IF, Continuous, WakeSleep
from casc_seq.layers.rnn import RNN

POOLINGS = ("mean", "sum", "max", "last")


class Mirror(nn.Module):
    """The oracle's classifier as a PyTorch module."""

    def __init__(self, oracle: Classifier) -> None:
        super().__init__()
        directions, hidden = len(oracle.cells[0]), oracle.cells[0][0].w_h.shape[0]
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(oracle.table, dtype=torch.float32))
        self.rnn = RNN(
            oracle.table.shape[1], hidden, len(oracle.cells), batch_first=True, bidirectional=directions == 2,
            q=oracle.q, threshold=oracle.threshold,
        )  # fmt: skip
        self.fc = nn.Linear(hidden * directions, oracle.w_out.shape[0])
        self.pooling = oracle.pooling
        with torch.no_grad():
            for layer, direction, suffix in self.rnn.cells():
                cell = oracle.cells[layer][direction]
                for name, value in (("weight_ih", cell.w_x), ("weight_hh", cell.w_h), ("bias_ih", cell.b)):
                    getattr(self.rnn, f"{name}_{suffix}").copy_(torch.tensor(value))
                getattr(self.rnn, f"bias_hh_{suffix}").zero_()
            self.fc.weight.copy_(torch.tensor(oracle.w_out))
            self.fc.bias.copy_(torch.tensor(oracle.b_out))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, final = self.rnn(self.embedding(tokens), lengths=lengths)
        if self.pooling == "mean":
            pooled = states.sum(1) / lengths.unsqueeze(1)
        elif self.pooling == "sum":
            pooled = states.sum(1)
        elif self.pooling == "max":
            pooled = states.max(dim=1).values
        elif self.rnn.bidirectional:
            pooled = torch.cat([final[-2], final[-1]], dim=1)
        else:
            pooled = final[-1]
        return self.fc(pooled)


def model_of(seed: int, q: int, layers: int, directions: int, pooling: str, threshold: float = 1.0):
    rng = np.random.default_rng(seed)
    oracle = Classifier.random(rng, q, layers, directions, pooling, threshold)
    return rng, oracle, Mirror(oracle)


@pytest.mark.filterwarnings("ignore:.* but the model was trained with:UserWarning")
@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.sampled_from((1, 2, 3, 4, 8, 16)),
    layers=st.integers(1, 2),
    directions=st.integers(1, 2),
    pooling=st.sampled_from(POOLINGS),
    neuron=st.sampled_from((IF(), CIF())),
    cycles=st.integers(0, 3),
    wake=st.integers(1, 4),
    sleep=st.integers(0, 3),
    steps=st.integers(1, 14),
    threshold=st.sampled_from((0.5, 1.0, 2.0)),
    way=st.sampled_from(ENGINES),
)
def test_every_step_of_every_schedule_equals_the_oracle(
    seed, q, layers, directions, pooling, neuron, cycles, wake, sleep, steps, threshold, way
):
    rng, oracle, model = model_of(seed, q, layers, directions, pooling, threshold)
    schedule = Continuous() if cycles == 0 else WakeSleep(wake, sleep, cycles)
    texts, tokens, lengths = batch_of(rng, samples=3, longest=5)
    snn = casc_core.convert(model, adapter="rnn").under(neuron, schedule)
    with engine(way):
        simulation, counts = simulated(snn, tokens, lengths, T=steps)
    awake = schedule.awake(steps)
    for row, text in enumerate(texts):
        expected, readouts, last = oracle.simulate(text, awake, negative=isinstance(neuron, CIF))
        found = layer_counts(snn, counts, row, len(text), directions)
        for layer, total in enumerate(expected):
            np.testing.assert_array_equal(found[layer], total)
        np.testing.assert_array_equal(simulation.logits[:, row].numpy(), readouts.astype(np.float32))
        assert simulation.silent_at[row] == last


def layer_counts(snn, counts, row: int, length: int, directions: int) -> list[np.ndarray]:
    """Counts of each layer `[length, directions * hidden]` of one sample; padding must be silent."""
    values = [counts[name][row].numpy() for name in snn.layers]
    assert all(not value[length:].any() for value in values)
    return [np.concatenate(values[i : i + directions], axis=1)[:length] for i in range(0, len(values), directions)]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.sampled_from((1, 2, 4, 8, 16)),
    layers=st.integers(1, 2),
    directions=st.integers(1, 2),
    pooling=st.sampled_from(POOLINGS),
    cycles=st.integers(1, 3),
    way=st.sampled_from(ENGINES),
)
def test_once_silent_it_is_the_quantised_ann_of_the_oracle(seed, q, layers, directions, pooling, cycles, way):
    rng, oracle, model = model_of(seed, q, layers, directions, pooling)
    if q % cycles:
        cycles = 1
    schedule = WakeSleep(wake=q // cycles, sleep=1, cycles=cycles)
    texts, tokens, lengths = batch_of(rng, samples=3, longest=6)
    snn = casc_core.convert(model, adapter="rnn", schedule=schedule)
    with engine(way):
        report = casc_core.verify(snn, tokens, lengths)
        assert report.exact, str(report)
        simulation, counts = simulated(snn, tokens, lengths, T=None)
    for row, text in enumerate(texts):
        levels, logits = oracle.levels(text)
        found = layer_counts(snn, counts, row, len(text), directions)
        for layer, expected in enumerate(levels):
            np.testing.assert_array_equal(found[layer], expected)
        np.testing.assert_allclose(simulation.logits[-1, row].numpy(), logits, rtol=1e-6, atol=1e-6)
        # silent means silent: a longer simulation emits nothing more and changes nothing
    longer = snn.simulate(tokens, lengths, T=simulation.T + 5)
    torch.testing.assert_close(longer.logits[-1], simulation.logits[-1], rtol=0, atol=0)
    torch.testing.assert_close(longer.silent_at, simulation.silent_at, rtol=0, atol=0)


@pytest.mark.parametrize("q", [2, 4, 8, 16])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_random_weights_off_the_grid_are_exact_too(q, layers, directions, pooling):
    _, _, model = model_of(0, q, layers, directions, pooling)
    torch.manual_seed(q * layers * directions)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    rng = np.random.default_rng(1)
    _, tokens, lengths = batch_of(rng, samples=16, longest=12)
    snn = casc_core.convert(model, adapter="rnn")
    report = casc_core.verify(snn, tokens, lengths)
    assert report.exact, str(report)
    assert report.promised
    assert report.ann_predictions_moved is not None


@pytest.mark.parametrize("directions", [1, 2])
def test_bits_do_not_depend_on_batch_split_padding_order_or_threads(directions):
    rng, _, model = model_of(3, 4, 2, directions, "mean")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.6)
    _, tokens, lengths = batch_of(rng, samples=24, longest=9)
    snn = casc_core.convert(model, adapter="rnn")
    whole = snn.simulate(tokens, lengths, T=12)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        for threads, size in ((1, 1), (2, 5), (1, 24)):
            torch.set_num_threads(threads)
            for start in range(0, 24, size):
                rows = order[start : start + size]
                longest = int(lengths[rows].max())
                part = snn.simulate(tokens[rows, :longest], lengths[rows], T=12)
                assert torch.equal(part.logits, whole.logits[:, rows])
                assert torch.equal(part.silent_at, whole.silent_at[rows])
                assert torch.equal(snn.reference(tokens[rows, :longest], lengths[rows]), whole.logits[-1, rows])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("hidden", "samples", "length", "q"),
    [(1, 1, 1, 1), (1, 5, 4, 8), (7, 1, 9, 4), (7, 4096, 2, 2), (300, 1, 1, 2), (300, 6, 5, 8), (1023, 2, 2, 2)],
)
@pytest.mark.parametrize("bits", [16, 8, 20])
def test_odd_shapes_are_the_same_bits_by_every_way(hidden, samples, length, q, bits):
    rng = np.random.default_rng(hidden + samples)
    oracle = Classifier.random(rng, q, 1, 2, "mean", 1.0, hidden=hidden)
    model = Mirror(oracle)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(hidden)
        for name, parameter in model.rnn.named_parameters():
            parameter.normal_(0.0, 0.7 if "_ih" in name else 1.5 / hidden**0.5, generator=generator)
            if "bias_hh" in name:
                parameter.fill_(1.0)
    lengths = torch.tensor(rng.integers(1, length + 1, samples))
    lengths[0] = length
    tokens = torch.tensor(rng.integers(1, 9, (samples, length))) * (torch.arange(length) < lengths[:, None])
    snn = casc_core.convert(model, adapter="rnn", numerics=casc_core.Exact(weight_bits=bits))
    # The oldest way, step by step in floating point, is what the others are held against.
    with engine((None, "float")):
        expected, expected_counts = simulated(snn, tokens, lengths, T=None)
        assert torch.equal(expected.logits[-1], snn.reference(tokens, lengths))
    assert any(int(layer.positive.sum()) for layer in expected.spikes.values())
    for way in ENGINES[1:] if samples * hidden < 20_000 else ENGINES[:1]:
        with engine(way):
            found, counts = simulated(snn, tokens, lengths, T=None)
            assert torch.equal(snn(tokens, lengths), expected.logits[-1]), way
            assert torch.equal(snn.reference(tokens, lengths), expected.logits[-1]), way
        assert torch.equal(found.logits, expected.logits), way
        assert torch.equal(found.silent_at, expected.silent_at), way
        for name, layer in expected.spikes.items():
            assert torch.equal(counts[name], expected_counts[name]), way
            for what in ("positive", "negative", "operations", "silent_at"):
                assert torch.equal(getattr(found.spikes[name], what), getattr(layer, what)), (way, what)


def test_plain_if_and_continuous_input_are_not_exact():
    """The paper's point: without either half of the method, counts differ."""
    _, _, model = model_of(5, 4, 2, 2, "mean")
    rng = np.random.default_rng(2)
    _, tokens, lengths = batch_of(rng, samples=30, longest=8)
    snn = casc_core.convert(model, adapter="rnn")
    assert casc_core.verify(snn, tokens, lengths).exact
    for neuron, schedule in ((IF(), WakeSleep()), (CIF(), Continuous()), (IF(), Continuous())):
        report = casc_core.verify(snn.under(neuron, schedule), tokens, lengths)
        assert not report.exact
        assert not report.promised
        assert "not promised" in str(report)
        assert report.first_divergence is not None
