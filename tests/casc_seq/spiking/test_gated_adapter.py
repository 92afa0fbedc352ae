"""A trained `nn.GRU` or `nn.LSTM` of a user's, converted as it is: every form of it, saved, cut, split and counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.work import Work

KINDS = (nn.GRU, nn.LSTM)


class Net(nn.Module):
    """As a newcomer would write it."""

    def __init__(self, kind: Any, hidden: int = 5, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 6)
        self.rnn = kind(6, hidden, batch_first=True, **options)
        self.fc = nn.Linear(hidden * (1 + options.get("bidirectional", False)), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(tokens))
        return self.fc(states.mean(1))


class Real(nn.Module):
    """Of real-valued sequences, and read by its final states."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.rnn, self.is_lstm = kind(4, 5, **options), kind is nn.LSTM
        cells = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
        self.fc = nn.Linear(5 * cells * (1 + self.is_lstm), 2)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        start = (h, c) if self.is_lstm and h is not None else h
        _, final = self.rnn(x, start)
        states = torch.cat(final, 2) if self.is_lstm else final
        return self.fc(states.transpose(0, 1).flatten(1))


def seeded(model: nn.Module, scale: float = 0.8) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=generator)
    return model.eval()


TOKENS = torch.randint(0, 30, (7, 6), generator=torch.Generator().manual_seed(1))
X = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("q", [2, 16])
def test_a_trained_model_is_converted_with_its_own_weights(kind: Any, q: int) -> None:
    model = seeded(Net(kind, num_layers=2, bidirectional=True))
    prepared = casc_core.prepare(model, adapter="rnn", q=q)
    assert list(prepared.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(prepared.parameters(), model.parameters(), strict=True))
    snn = casc_core.convert(prepared, adapter="rnn")
    report = casc_core.verify(snn, TOKENS)
    assert report.exact, str(report)
    assert report.lowering is not None
    assert not report.lowering.not_compared
    assert not report.lowering.by_output
    torch.testing.assert_close(snn(TOKENS), prepared(TOKENS).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_more_levels_come_nearer_to_the_model(kind: Any) -> None:
    model = seeded(Net(kind))
    off = [(casc_core.prepare(model, q=q)(TOKENS) - model(TOKENS)).abs().max().item() for q in (2, 16, 128)]
    assert off[2] < off[1] / 3 < off[0] / 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "both", "first"), list(itertools.product((1, 2), (False, True), (False, True))))
def test_every_form_with_and_without_initial_states(kind: Any, layers: int, both: bool, first: bool) -> None:
    model = seeded(Real(kind, num_layers=layers, bidirectional=both, batch_first=first))
    snn = casc_core.convert(casc_core.prepare(model, q=4))
    x = X.transpose(0, 1) if first else X
    start = [torch.randn(layers * (1 + both), 3, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    start = start if kind is nn.LSTM else start[:1]
    for inputs in ((x,), (x, *start)):
        report = casc_core.verify(snn, *inputs)
        assert report.exact, str(report)
    assert not torch.equal(snn(x), snn(x, *start))


def test_populations_are_named_by_what_they_do() -> None:
    gru, lstm = (casc_core.convert(casc_core.prepare(Net(kind), q=2)) for kind in KINDS)
    assert gru.layers == ("rnn.reset", "rnn.update", "rnn.candidate", "rnn.hidden")
    assert lstm.layers == (
        "rnn.input", "rnn.forget", "rnn.candidate", "rnn.output", "rnn.cell", "rnn.hidden",
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_gives_the_same_bits(kind: Any, tmp_path: Any) -> None:
    snn = casc_core.convert(casc_core.prepare(seeded(Net(kind)), q=4))
    snn.save(tmp_path / "net")
    loaded = casc_core.load(tmp_path / "net")
    assert torch.equal(loaded(TOKENS), snn(TOKENS))
    assert torch.equal(loaded.simulate(TOKENS, T=3).logits, snn.simulate(TOKENS, T=3).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run_is_the_beginning_of_a_long_one(kind: Any) -> None:
    snn = casc_core.convert(casc_core.prepare(seeded(Net(kind)), q=8))
    whole = snn.simulate(TOKENS)
    assert torch.equal(whole.logits[-1], snn.reference(TOKENS))
    for steps in (1, 3, 9):
        assert torch.equal(snn.simulate(TOKENS, T=steps).logits, whole.logits[:steps])
    longer = snn.simulate(TOKENS, T=whole.T + 4)
    assert torch.equal(longer.logits[-1], whole.logits[-1])
    assert torch.equal(longer.silent_at, whole.silent_at)


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_of_the_batch_gives_the_same_bits(kind: Any) -> None:
    snn = casc_core.convert(casc_core.prepare(seeded(Net(kind)), q=4))
    whole = snn.simulate(TOKENS, T=12)
    for row in range(len(TOKENS)):
        alone = snn.simulate(TOKENS[row : row + 1], T=12)
        assert torch.equal(alone.logits[:, 0], whole.logits[:, row])
        assert alone.silent_at[0] == whole.silent_at[row]
    snn.memory_limit = 1
    assert torch.equal(snn(TOKENS), whole.logits[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_counted(kind: Any) -> None:
    """All but the last position's spikes go through the recurrent weights to each gate; what meets a total adds it."""
    snn = casc_core.convert(casc_core.prepare(seeded(Net(kind)), q=4))
    recorder = Recorder(keep_activity=True, keep_trains=True)
    snn.simulate_recorded((TOKENS,), {}, None, recorder)
    trains = {name.removeprefix("rnn."): train.abs().double() for name, train in recorder.trains.items()}
    passed = {name: train[:, :, :-1] for name, train in trains.items()}
    spikes = {name: float(train.sum()) for name, train in trains.items()}
    work = Work.total(recorder.work[name] for name in snn.layers)
    if kind is nn.GRU:
        expected = float(passed["hidden"].sum()) * (3 * 5 + 1) + sum(
            spikes[i] for i in ("reset", "update", "candidate")
        )
        assert float(work.multiplies.sum()) == float(passed["hidden"].any(-1).sum()) * 5
        assert work.dense == 6 * 7 * 5 * (3 * 6) + (7 * 6 - 7) * 3 * 5 * 5 + 7 * 6 * 3 * 5
    else:
        expected = float(passed["hidden"].sum()) * 4 * 5 + float(passed["cell"].sum())
        expected += sum(spikes.values()) - spikes["hidden"]
        assert float(work.multiplies.sum()) == 0
        assert work.dense == 6 * 7 * 5 * (4 * 6) + (7 * 6 - 7) * 4 * 5 * 5 + 7 * 6 * 3 * 5
    assert float(work.accumulates.sum()) == expected
    assert "rnn.hidden" in str(casc_core.analyse(snn, [TOKENS]))


def test_what_cannot_be_converted_says_why() -> None:
    with pytest.raises(casc_core.ConversionError, match="proj_size=3"):
        casc_core.prepare(Net(nn.LSTM, proj_size=3), q=2)
    model = Net(nn.GRU)
    model.rnn = casc_seq.GRU(6, 5, batch_first=True)
    model.act = casc_core.CQReLU(q=2)
    with pytest.raises(casc_core.ConversionError, match=r"'rnn': GRU .*not rounded to levels; call casc_core.prepare"):
        casc_core.convert(model)
    snn = casc_core.convert(casc_core.prepare(Real(nn.GRU), q=2))
    with pytest.raises(casc_core.InputError, match=r"expected hx of shape \[cells, 3, 5\]; got \[1, 3, 4\]"):
        snn(X, torch.ones(1, 3, 4))
    with pytest.raises(casc_core.InputError, match="the initial state must be finite"):
        snn(X, torch.full((1, 3, 5), torch.nan))


def test_a_gru_without_levels_is_prepared_as_torchs_is() -> None:
    model = seeded(Net(nn.GRU))
    ours = seeded(Net(casc_seq.GRU))
    torch.testing.assert_close(ours(TOKENS), model(TOKENS))
    prepared = casc_core.prepare(ours, q=4)
    assert torch.equal(prepared(TOKENS), casc_core.prepare(model, q=4)(TOKENS))
    assert ours.rnn.q is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_model_is_one_call_and_verify_says_what_rounding_moved(kind: Any) -> None:
    model = seeded(Net(kind))
    with pytest.warns(UserWarning, match=r"prepared with q=4, .* casc_core\.verify says by how much"):
        snn = casc_core.convert(model, adapter="rnn", q=4)
    report = casc_core.verify(snn, TOKENS)
    assert report.exact, str(report)
    moved = report.against_ann.prepared
    off = (snn(TOKENS) - model(TOKENS)).abs().max().item()
    assert moved.max_logit_difference == pytest.approx(off, rel=1e-4)
    assert moved.predictions == int((snn(TOKENS).argmax(1) != model(TOKENS).argmax(1)).sum())
    assert f"rounding the activations to levels moved logits of {moved.logits} and predictions of" in str(report)
    snn.memory_limit = 1  # in parts
    assert casc_core.verify(snn, TOKENS).against_ann.prepared.predictions == moved.predictions
    assert casc_core.verify(casc_core.convert(casc_core.prepare(model, q=4)), TOKENS).against_ann.prepared is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("q", [6, 12, 48])
def test_levels_that_are_no_power_of_two_take_halves_to_the_even_level_in_the_model_too(kind: Any, q: int) -> None:
    torch.manual_seed(0)
    prepared = casc_core.prepare(Net(kind, hidden=16), adapter="rnn", q=q).eval()
    tokens = torch.randint(0, 30, (32, 20))
    answers = casc_core.convert(prepared, adapter="rnn")(tokens)
    with torch.no_grad():
        torch.testing.assert_close(prepared.double()(tokens), answers.double(), rtol=1e-6, atol=1e-6)


class EitherKind(Net):
    """One class for GRU and LSTM, as people write it."""

    def forward(self, tokens: Tensor) -> Tensor:
        both = self.rnn(self.embedding(tokens))
        states, final = both if isinstance(both, tuple) else (both, None)
        if isinstance(final, tuple):  # an LSTM's
            final = final[0]
        return self.fc(final[-1] + states[:, -1])


@pytest.mark.parametrize("kind", [*KINDS, nn.RNN])
def test_a_forward_that_asks_whether_states_are_a_tuple_is_answered_as_by_the_layer(kind: Any) -> None:
    torch.manual_seed(0)
    prepared = casc_core.prepare(EitherKind(kind), adapter="rnn", q=4).eval()
    tokens = torch.randint(0, 30, (4, 7))
    snn = casc_core.convert(prepared, adapter="rnn")
    assert snn(tokens).shape == prepared(tokens).shape
    assert casc_core.verify(snn, tokens).exact
