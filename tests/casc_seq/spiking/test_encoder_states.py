"""States of one layer that another begins with: encoders and decoders, in spikes against an independent simulation."""

from __future__ import annotations

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
from casc_core.reporting.series import zero_padded

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
@settings(max_examples=30)
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


@settings(max_examples=12)
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


class Translator(nn.Module):
    """As a newcomer would write it: the decoder reads the words before each, and begins where the encoder ended."""

    def __init__(self, kind: Any, begin: str = "states", **options: Any) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(20, 4), nn.Embedding(20, 4)
        self.encoder, self.decoder = kind(4, 5, **options), kind(4, 5, **options)
        self.map, self.begin, self.is_lstm = nn.Linear(5, 5), begin, kind is nn.LSTM
        self.fc = nn.Linear(5 * (1 + options.get("bidirectional", False)), 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, final = self.encoder(self.source(source))
        h, c = final if self.is_lstm else (final, final)
        if self.begin == "map":
            h = self.map(h)
        elif self.begin == "sum":
            h = h + h
        elif self.begin == "cell":
            h = c
        elif self.begin == "first text":
            h = h[:, :1]
        return self.fc(self.decoder(self.target(target), (h, c) if self.is_lstm else h)[0])


def translator(kind: Any, begin: str = "states", q: int = 4, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Translator(kind, begin, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.8)
    return casc_core.prepare(model, adapter="rnn", q=q).eval()


SOURCE, TARGET = (
    torch.randint(0, 20, (length, 3), generator=torch.Generator().manual_seed(length)) for length in (6, 4)
)
OF_TORCH = pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])


@OF_TORCH
@pytest.mark.parametrize("layers", [1, 2])
def test_positions_first_in_both_directions_saved_cut_and_in_parts(kind: Any, layers: int, tmp_path: Any) -> None:
    snn = casc_core.convert(translator(kind, num_layers=layers, bidirectional=True))
    report = casc_core.verify(snn, SOURCE, TARGET)
    assert report.exact, str(report)
    whole = snn.simulate(SOURCE, TARGET)
    snn.save(tmp_path / "net")
    loaded = casc_core.load(tmp_path / "net")
    assert torch.equal(loaded(SOURCE, TARGET), whole.logits[-1])
    for steps in (1, 5):
        assert torch.equal(loaded.simulate(SOURCE, TARGET, T=steps).logits, whole.logits[:steps])
    snn.memory_limit = 1
    assert torch.equal(snn(SOURCE, TARGET), whole.logits[-1])


def test_the_decoder_remembers_what_the_encoder_has_read() -> None:
    snn = casc_core.convert(translator(nn.GRU))
    assert not torch.equal(snn(SOURCE, TARGET), snn(SOURCE.flip(0), TARGET))


@OF_TORCH
def test_what_a_state_brings_is_counted(kind: Any) -> None:
    """Each of its spikes goes through the recurrent weights of the first position, and meets totals there."""
    snn = casc_core.convert(translator(kind))
    recorder = Recorder(keep_activity=True, keep_trains=True)
    snn.simulate_recorded((SOURCE, TARGET), {}, None, recorder)
    trains = {name: train.abs().double() for name, train in recorder.trains.items()}
    before = {name: _received(trains, name) for name in ENDS[kind]}
    received = {name: float(train.sum()) for name, train in before.items()}
    of_gates = sum(float(trains[f"decoder{name}"].sum()) for name in MET[kind])
    work = Work.total(work for name, work in recorder.work.items() if name.startswith("decoder"))
    if kind is nn.RNN:
        assert float(work.accumulates.sum()) == received[""] * 5
    elif kind is nn.GRU:
        assert float(work.accumulates.sum()) == received[".hidden"] * (3 * 5 + 1) + of_gates
        assert float(work.multiplies.sum()) == float(before[".hidden"].any(-1).sum()) * 5
    else:
        assert float(work.accumulates.sum()) == received[".hidden"] * 4 * 5 + received[".cell"] + of_gates
    gates, texts, words = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind], TARGET.shape[1], TARGET.numel()
    products = 0 if kind is nn.RNN else words * 3 * 5  # of two totals
    assert work.dense == texts * len(TARGET) * gates * 5 * (4 + 5) + products


ENDS = {nn.RNN: ("",), nn.GRU: (".hidden",), nn.LSTM: (".hidden", ".cell")}
MET = {
    nn.RNN: (),
    nn.GRU: (".reset", ".update", ".candidate"),
    nn.LSTM: (".input", ".forget", ".candidate", ".output", ".cell"),
}


def _received(trains: dict[str, Tensor], name: str) -> Tensor:
    """The spikes that reach a position of the decoder: from the encoder's last one, and from all but its own last one."""
    of_each = trains[f"encoder{name}"][:, -1:], trains[f"decoder{name}"][:, :-1]
    return torch.cat([zero_padded(train, max(map(len, of_each))) for train in of_each], 1)


@pytest.mark.parametrize(
    ("kind", "begin", "said"),
    [
        (
            nn.GRU,
            "map",
            r"'decoder': GRU .*spikes worth a level, 1/4, each, .* are other numbers.*Rounded\(4, .hardtanh.\)",
        ),
        (nn.GRU, "sum", r"'decoder': GRU .*may reach 2, and a state's levels are within 1\. Put an activation"),
        (nn.LSTM, "cell", r"'decoder': LSTM .*may reach 32, and a state's levels are within 1"),
        (nn.LSTM, "map", r"'decoder': LSTM .*worth a level"),
    ],
)
def test_what_gates_cannot_multiply_is_refused(kind: Any, begin: str, said: str) -> None:
    with pytest.raises(casc_core.ConversionError, match=said):
        casc_core.convert(translator(kind, begin))


@pytest.mark.parametrize("begin", ["map", "sum"])
def test_to_a_cq_relu_layer_any_state_is_a_current(begin: str) -> None:
    for numerics in (AsTrained(), Exact(16)):
        snn = casc_core.convert(translator(nn.RNN, begin), numerics=numerics)
        assert casc_core.verify(snn, SOURCE, TARGET).exact


@OF_TORCH
def test_a_state_of_other_texts_is_refused_when_it_is_seen(kind: Any) -> None:
    snn = casc_core.convert(translator(kind, "first text"))
    with pytest.raises(casc_core.InputError, match=r"decoder: expected hx of shape \[cells, 3, 5\].*one has \[1, 5\]"):
        snn(SOURCE, TARGET)


@OF_TORCH
def test_an_untouched_model_is_one_call(kind: Any) -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="prepared with q=8"):
        snn = casc_core.convert(Translator(kind).eval(), adapter="rnn", q=8)
    assert casc_core.verify(snn, SOURCE, TARGET).exact


class Captions(nn.Module):
    """Image features, a map and an activation, and a decoder."""

    def __init__(self, kind: Any, activation: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.start, self.activation, self.words = nn.Linear(16, 5), activation, nn.Embedding(20, 4)
        self.decoder, self.fc, self.is_lstm = kind(4, 5), nn.Linear(5, 20), kind is nn.LSTM

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        h = self.activation(self.start(self.features(images))).unsqueeze(0)
        return self.fc(self.decoder(self.words(words), (h, torch.zeros_like(h)) if self.is_lstm else h)[0])


@OF_TORCH
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Hardtanh(), nn.Sigmoid()], ids=str)
def test_image_features_are_an_initial_state(kind: Any, activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = Captions(kind, activation).eval()
    images = torch.randn(3, 1, 6, 6)
    for numerics in (AsTrained(), Exact(8)):
        snn = casc_core.convert(casc_core.prepare(model, adapter="rnn", q=4).eval(), adapter="rnn", numerics=numerics)
        report = casc_core.verify(snn, images, TARGET)
        assert report.exact, str(report)
