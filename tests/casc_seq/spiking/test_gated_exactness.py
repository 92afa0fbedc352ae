"""GRU and LSTM in spikes against an independent simulation: every count of every neuron, every readout, every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import ENGINES, engine
from gated_oracle import GatedClassifier, GRUToken, LSTMToken
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import simulated
from text_batches import batch_of
from torch import Tensor, nn

import casc_core
from casc_core import CIF, IF, WakeSleep
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM

POOLINGS = ("mean", "sum", "max", "last")
KINDS = {GRUToken: GRU, LSTMToken: LSTM}


class Mirror(nn.Module):
    """The oracle's classifier as a PyTorch module."""

    def __init__(self, oracle: GatedClassifier) -> None:
        super().__init__()
        directions, hidden = len(oracle.cells[0]), oracle.cells[0][0].w_h.shape[1]
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(oracle.table, dtype=torch.float32))
        options = {} if oracle.kind is GRUToken else {"cell_range": oracle.cell_range}
        self.rnn = KINDS[oracle.kind](
            oracle.table.shape[1], hidden, len(oracle.cells), batch_first=True, bidirectional=directions == 2, q=oracle.q,
            **options,
        )  # fmt: skip
        self.fc = nn.Linear(hidden * directions, oracle.w_out.shape[0])
        self.pooling, self.is_lstm = oracle.pooling, oracle.kind is LSTMToken
        with torch.no_grad():
            for layer, direction, suffix in self.rnn.cells():
                cell = oracle.cells[layer][direction]
                values = {"weight_ih": cell.w_x, "weight_hh": cell.w_h, "bias_ih": cell.b_x, "bias_hh": cell.b_h}
                for name, value in values.items():
                    getattr(self.rnn, f"{name}_{suffix}").copy_(torch.tensor(value))
            self.fc.weight.copy_(torch.tensor(oracle.w_out))
            self.fc.bias.copy_(torch.tensor(oracle.b_out))

    def forward(self, tokens: Tensor, lengths: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        start = (h, c) if self.is_lstm and h is not None else h
        states, final = self.rnn(self.embedding(tokens), start, lengths=lengths)
        final = final[0] if self.is_lstm else final
        if self.pooling == "mean":
            pooled = states.sum(1) / lengths.unsqueeze(1)
        elif self.pooling == "sum":
            pooled = states.sum(1)
        elif self.pooling == "max":
            unread = torch.arange(tokens.shape[1]) >= lengths.unsqueeze(1)
            pooled = states.masked_fill(unread.unsqueeze(2), -torch.inf).max(dim=1).values
        elif self.rnn.bidirectional:
            pooled = torch.cat([final[-2], final[-1]], dim=1)
        else:
            pooled = final[-1]
        return self.fc(pooled)


def started(oracle: GatedClassifier, samples: int) -> list[Tensor]:
    """The initial states of a batch, as the model takes them."""
    return [
        (torch.tensor(each, dtype=torch.float32) / oracle.q).unsqueeze(1).expand(-1, samples, -1).contiguous()
        for each in oracle.start or []
    ]


@pytest.mark.filterwarnings("ignore:.* but the model was trained with:UserWarning")
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from((GRUToken, LSTMToken)),
    q=st.sampled_from((1, 2, 3, 4, 8, 16)),
    layers=st.integers(1, 2),
    directions=st.integers(1, 2),
    pooling=st.sampled_from(POOLINGS),
    neuron=st.sampled_from((IF(), CIF())),
    cycles=st.integers(1, 2),
    sleep=st.integers(0, 3),
    steps=st.integers(1, 30),
    starts=st.booleans(),
    way=st.sampled_from(ENGINES),
)
def test_every_step_equals_the_oracle(
    seed, kind, q, layers, directions, pooling, neuron, cycles, sleep, steps, starts, way
):
    rng = np.random.default_rng(seed)
    oracle = GatedClassifier.random(rng, kind, q, layers, directions, pooling, starts)
    schedule = WakeSleep(q if q % cycles else q // cycles, sleep, 1 if q % cycles else cycles)
    texts, tokens, lengths = batch_of(rng, samples=3, longest=4)
    snn = casc_core.convert(Mirror(oracle), adapter="rnn").under(neuron, schedule)
    with engine(way):
        simulation, counts = simulated(snn, tokens, lengths, *started(oracle, 3), T=steps)
    awake = schedule.awake(steps)
    for row, text in enumerate(texts):
        expected, readouts, last = oracle.simulate(text, awake, takes_back=isinstance(neuron, CIF))
        names = iter(snn.layers)
        for cell in expected:
            for population, want in zip(kind.NAMES, cell, strict=True):
                name = next(names)
                assert name.endswith(population)
                found = counts[name][row].numpy()
                np.testing.assert_array_equal(found[: len(text)], want)
                assert not found[len(text) :].any()
        np.testing.assert_array_equal(simulation.logits[:, row].numpy(), readouts.astype(np.float32))
        assert simulation.silent_at[row] == last


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from((GRUToken, LSTMToken)),
    q=st.sampled_from((2, 4, 8, 16)),
    layers=st.integers(1, 2),
    directions=st.integers(1, 2),
    pooling=st.sampled_from(POOLINGS),
    starts=st.booleans(),
    numerics=st.sampled_from((casc_core.AsTrained(), casc_core.Exact(16), casc_core.Exact(8))),
)
def test_once_silent_it_is_the_quantised_network(seed, kind, q, layers, directions, pooling, starts, numerics):
    rng = np.random.default_rng(seed)
    oracle = GatedClassifier.random(rng, kind, q, layers, directions, pooling, starts)
    _, tokens, lengths = batch_of(rng, samples=4, longest=6)
    model = Mirror(oracle)
    with torch.no_grad():
        for parameter in model.rnn.parameters():  # off any grid
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed % 2**31)) / 100)
    snn = casc_core.convert(model, adapter="rnn", numerics=numerics)
    report = casc_core.verify(snn, tokens, lengths, *started(oracle, 4))
    assert report.exact, str(report)
    if isinstance(numerics, casc_core.AsTrained):
        assert not any(report.grid.layers.values()), str(report)


@pytest.mark.parametrize("cell", [GRU, LSTM])
def test_real_valued_input_reaches_gates_on_their_grid(cell: type[nn.Module]) -> None:
    """A product with real-valued input is rounded once, where neurons receive it; or sums of it might round."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.fc = cell(3, 4, q=4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.cells(x)[0][:, -1])

    torch.manual_seed(0)
    snn = casc_core.convert(Model().eval())
    (recurrence,) = (op for op in snn.operations() if "sigmoid" in op.tensors())
    for layer in snn.simulate(torch.randn(2, 3, 3), record=("potentials",)).spikes.values():
        assert layer.potentials is not None
        units = layer.potentials * 2.0 ** -recurrence.settings["exponent"]
        assert torch.equal(units, units.round())
