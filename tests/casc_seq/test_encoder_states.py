"""States of one layer that another begins with: encoders and decoders, in spikes against an independent simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from encoder_oracle import EncoderDecoder, Recurrent
from engines import ENGINES, engine
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import simulated
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core import CIF, IF, AsTrained, Exact, Rounded, WakeSleep
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.work import Work

KINDS: dict[str, Any] = {"rnn": casc_seq.RNN, "gru": casc_seq.GRU, "lstm": casc_seq.LSTM}
BRIDGES = ("own", "last", "joined")


class Mirror(nn.Module):
    """The oracle's encoder and decoder as PyTorch modules."""

    def __init__(self, oracle: EncoderDecoder) -> None:
        super().__init__()
        self.bridge, hidden = oracle.bridge, len(oracle.w_bridge)
        self.table = nn.Embedding.from_pretrained(torch.tensor(oracle.table, dtype=torch.float32))
        self.encoder, self.decoder = recurrent(oracle.encoder, oracle.q), recurrent(oracle.decoder, oracle.q)
        self.joined, self.tanh = nn.Linear(2 * hidden, hidden), Rounded(oracle.q, "tanh")
        self.fc = nn.Linear(oracle.w_out.shape[1], len(oracle.w_out))
        with torch.no_grad():
            for layer, weight, bias in (
                (self.joined, oracle.w_bridge, oracle.b_bridge),
                (self.fc, oracle.w_out, oracle.b_out),
            ):
                layer.weight.copy_(torch.tensor(weight))
                layer.bias.copy_(torch.tensor(bias))

    def forward(self, source: Tensor, sizes: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        _, final = self.encoder(self.table(source), lengths=sizes)
        states = final if isinstance(final, tuple) else (final, final)
        if self.bridge == "joined":
            both = states[0].unflatten(0, (-1, 2))
            states = (self.tanh(self.joined(torch.cat([both[:, 0], both[:, 1]], 2))),) * 2
        elif self.bridge == "last":
            states = tuple(each[-1:].expand(len(self.decoder.cells()), -1, -1) for each in states)
        start = states if isinstance(self.decoder, casc_seq.LSTM) else states[0]
        return self.fc(self.decoder(self.table(target), start, lengths=lengths)[0])


def recurrent(of: Recurrent, q: int) -> Any:
    """Its layers, with its weights."""
    first = of.cells[0][0]
    options = {"cell_range": 2} if of.kind == "lstm" else {}
    layers = KINDS[of.kind](
        first.w_x.shape[1], first.w_h.shape[1], len(of.cells), batch_first=True, bidirectional=len(of.cells[0]) == 2,
        q=q, **options,
    )  # fmt: skip
    with torch.no_grad():
        for layer, direction, suffix in layers.cells():
            cell = of.cells[layer][direction]
            values = {"weight_ih": cell.w_x, "weight_hh": cell.w_h, "bias_ih": cell.b_x, "bias_hh": cell.b_h}
            for name, value in values.items():
                getattr(layers, f"{name}_{suffix}").copy_(torch.tensor(value))
    return layers


def texts(rng: np.random.Generator, samples: int) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """Texts of up to four tokens, and what a model reads of them."""
    each = [rng.integers(0, 9, rng.integers(1, 5)) for _ in range(samples)]
    tokens = torch.zeros(samples, 4, dtype=torch.int64)
    for row, text in enumerate(each):
        tokens[row, : len(text)] = torch.tensor(text)
    return each, tokens, torch.tensor([len(text) for text in each])


OF_ORACLES: dict[str, Any] = {
    "seed": st.integers(0, 2**32 - 1),
    "kinds": st.tuples(st.sampled_from(tuple(KINDS)), st.sampled_from(tuple(KINDS))),
    "layers": st.integers(1, 2),
    "directions": st.integers(1, 2),
    "bridge": st.sampled_from(BRIDGES),
}


@pytest.mark.filterwarnings("ignore:.* but the model was trained with:UserWarning")
@settings(max_examples=40)
@given(
    **OF_ORACLES,
    q=st.sampled_from((1, 2, 3, 4, 8)),
    neuron=st.sampled_from((IF(), CIF())),
    sleep=st.integers(0, 3),
    steps=st.integers(1, 30),
    way=st.sampled_from(ENGINES),
)
def test_every_step_equals_the_oracle(seed, kinds, layers, directions, bridge, q, neuron, sleep, steps, way):
    rng = np.random.default_rng(seed)
    oracle = EncoderDecoder.random(rng, kinds, q, layers, directions, bridge)
    sources, source, sizes = texts(rng, 3)
    targets, target, lengths = texts(rng, 3)
    schedule = WakeSleep(q, sleep)
    snn = casc_core.convert(Mirror(oracle), adapter="rnn").under(neuron, schedule)
    with engine(way):
        simulation, counts = simulated(snn, source, sizes, target, lengths, T=steps)
    for row, (one, other) in enumerate(zip(sources, targets, strict=True)):
        expected, readouts, last = oracle.simulate(one, other, schedule.awake(steps), isinstance(neuron, CIF))
        assert len(expected) == len(snn.layers)
        for name, want in zip(snn.layers, expected, strict=True):
            found = counts[name].select(1 if name == "tanh" else 0, row).numpy()
            np.testing.assert_array_equal(found[: len(want)], want, err_msg=name)
            assert not found[len(want) :].any()
        found = simulation.logits[:, row, : len(other)].numpy()
        np.testing.assert_array_equal(found, readouts.astype(np.float32))
        assert simulation.silent_at[row] == last


@settings(max_examples=20)
@given(
    **OF_ORACLES,
    q=st.sampled_from((2, 4, 16)),
    numerics=st.sampled_from((AsTrained(), Exact(16), Exact(8))),
    way=st.sampled_from(ENGINES),
)
def test_once_silent_it_is_the_quantised_network(seed, kinds, layers, directions, bridge, q, numerics, way):
    rng = np.random.default_rng(seed)
    model = Mirror(EncoderDecoder.random(rng, kinds, q, layers, directions, bridge))
    with torch.no_grad():
        for parameter in (*model.encoder.parameters(), *model.decoder.parameters()):  # off any grid
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed % 2**31)) / 100)
    (_, *given_source), (_, *given_target) = texts(rng, 4), texts(rng, 4)
    inputs = *given_source, *given_target
    snn = casc_core.convert(model, adapter="rnn", numerics=numerics)
    with engine(way):
        report = casc_core.verify(snn, *inputs)
        assert report.exact, str(report)
        assert not report.lowering.not_compared
        if isinstance(numerics, AsTrained):
            assert not any(report.grid.layers.values()), str(report)
        whole = snn.simulate(*inputs)
        assert torch.equal(whole.logits[-1], snn.reference(*inputs))
        for row in range(4):
            alone = snn.simulate(*(each[row : row + 1] for each in inputs), T=whole.T)
            assert torch.equal(alone.logits[:, 0], whole.logits[:, row])
            assert alone.silent_at[0] == whole.silent_at[row]
