"""`casc_seq.GRU` and `casc_seq.LSTM`: torch's own without levels; with levels, values and gradients of the equations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from casc_core.errors import ConfigError, InputError
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM

PAIRS: list[tuple[Any, Any]] = [(GRU, nn.GRU), (LSTM, nn.LSTM)]


def parts(final: Any) -> list[Tensor]:
    """The final states, one after another."""
    return list(final) if isinstance(final, tuple) else [final]


def as_given(kind: Any, states: list[Tensor]) -> Any:
    return tuple(states) if kind is LSTM else states[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), pair=st.sampled_from(PAIRS))
def test_without_levels_values_and_every_gradient_are_torchs(data: st.DataObject, pair: tuple[Any, Any]) -> None:
    draw, (kind, theirs_kind) = data.draw, pair
    sizes = [draw(st.integers(1, 5)) for _ in range(2)]
    batch, longest = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    layers, both, bias = draw(st.integers(1, 2)), draw(st.booleans()), draw(st.booleans())
    lengths = draw(st.none() | st.lists(st.integers(1, longest), min_size=batch, max_size=batch))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    options: dict[str, Any] = {"bias": bias, "batch_first": True, "bidirectional": both, "dtype": torch.double}
    ours, theirs = kind(*sizes, layers, **options), theirs_kind(*sizes, layers, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(batch, longest, sizes[0], dtype=torch.double, requires_grad=True)
    states = [
        torch.randn(layers * ours.directions, batch, sizes[1], dtype=torch.double, requires_grad=True)
        for _ in range(1 if kind is GRU else 2)
    ]
    output, final = ours(x, as_given(kind, states), None if lengths is None else torch.tensor(lengths))
    if lengths is None:
        expected, expected_final = theirs(x, as_given(kind, states))
    else:
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        rows, expected_final = theirs(packed, as_given(kind, states))
        expected, _ = pad_packed_sequence(rows, batch_first=True, total_length=longest)
    weighed, wanted = torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
    for found, own in zip([output, *parts(final)], [expected, *parts(expected_final)], strict=True):
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)
        weight = torch.randn(found.shape, dtype=torch.double)
        weighed, wanted = weighed + (found * weight).sum(), wanted + (own * weight).sum()
    grads = torch.autograd.grad(weighed, [x, *states, *ours.parameters()])
    wants = torch.autograd.grad(wanted, [x, *states, *theirs.parameters()])
    for grad, want in zip(grads, wants, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-12, atol=1e-12)


def rounded(x: Tensor, q: int) -> Tensor:
    """To the nearest level; the gradient goes straight through."""
    return (torch.floor(x * q + 0.5) / q).detach() + (x - x.detach())


def nearest(x: Tensor, q: int) -> Tensor:
    """A product of levels, to the nearest level, halves to the even one; the gradient goes straight through."""
    return (torch.round(x * q) / q).detach() + (x - x.detach())


def gru_step(cell: list[Tensor], x: Tensor, states: list[Tensor], q: int, cell_range: int) -> list[Tensor]:
    w_x, w_h, b_x, b_h = cell
    (h,) = states
    own, back = (w_x @ x + b_x).chunk(3), (w_h @ h + b_h).chunk(3)
    reset, update = (rounded((own[i] + back[i]).sigmoid(), q) for i in range(2))
    new = rounded((own[2] + reset * back[2]).tanh(), q)
    return [nearest((1 - update) * new + update * h, q)]


def lstm_step(cell: list[Tensor], x: Tensor, states: list[Tensor], q: int, cell_range: int) -> list[Tensor]:
    w_x, w_h, b_x, b_h = cell
    h, c = states
    take, forget, new, output = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    take, forget, output = (rounded(gate.sigmoid(), q) for gate in (take, forget, output))
    c = nearest(forget * c + take * rounded(new.tanh(), q), q).clamp(-cell_range, cell_range)
    return [nearest(output * rounded(c.tanh(), q), q), c]


def equations(
    module: Any, x: Tensor, lengths: list[int], states: list[Tensor], q: int, cell_range: int
) -> tuple[Tensor, list[Tensor]]:
    """One text, one position at a time; batch first."""
    step = gru_step if isinstance(module, GRU) else lstm_step
    final: list[list[Tensor]] = [[] for _ in states]
    for layer in range(module.num_layers):
        sides = []
        for direction in range(module.directions):
            row = layer * module.directions + direction
            suffix = module.cells()[row][2]
            cell = [getattr(module, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            texts = []
            ends: list[list[Tensor]] = [[] for _ in states]
            for text, length in enumerate(lengths):
                now = [each[row, text] for each in states]
                outputs = [torch.zeros_like(now[0])] * x.shape[1]
                for i in reversed(range(length)) if direction else range(length):
                    now = step(cell, x[text, i], now, q, cell_range)
                    outputs[i] = now[0]
                texts.append(torch.stack(outputs))
                for end, state in zip(ends, now, strict=True):
                    end.append(state)
            sides.append(torch.stack(texts))
            for every, end in zip(final, ends, strict=True):
                every.append(torch.stack(end))
        x = torch.cat(sides, dim=-1)
    return x, [torch.stack(each) for each in final]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from((GRU, LSTM)))
def test_with_levels_values_and_every_gradient_are_those_of_the_equations(data: st.DataObject, kind: Any) -> None:
    draw = data.draw
    q, cell_range = draw(st.sampled_from((1, 2, 4, 16))), draw(st.sampled_from((1, 3)))
    sizes = [draw(st.integers(1, 4)) for _ in range(2)]
    batch, longest = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    layers, both = draw(st.integers(1, 2)), draw(st.booleans())
    lengths = draw(st.none() | st.lists(st.integers(1, longest), min_size=batch, max_size=batch))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    options: dict[str, Any] = {"cell_range": cell_range} if kind is LSTM else {}
    module = kind(*sizes, layers, batch_first=True, bidirectional=both, q=q, dtype=torch.double, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 1.5)
    x = torch.randn(batch, longest, sizes[0], dtype=torch.double, requires_grad=True)
    shape = (layers * module.directions, batch, sizes[1])
    states = [(torch.rand(shape, dtype=torch.double) * 1.9 - 0.95).requires_grad_() for _ in range(1 + (kind is LSTM))]
    output, final = module(x, as_given(kind, states), None if lengths is None else torch.tensor(lengths))
    own = [rounded(each, q) for each in states]
    expected, expected_final = equations(module, x, lengths or [longest] * batch, own, q, cell_range)
    weighed, wanted = torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
    for found, want in zip([output, *parts(final)], [expected, *expected_final], strict=True):
        torch.testing.assert_close(found, want)
        weight = torch.randn(found.shape, dtype=torch.double)
        weighed, wanted = weighed + (found * weight).sum(), wanted + (want * weight).sum()
    inputs = [x, *states, *module.parameters()]
    # A cell that is clipped has no gradient; that of the equations is the clamp's, whose edge is one level away.
    for grad, want in zip(torch.autograd.grad(weighed, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(grad, want)


OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (False, True))
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=["GRU", "LSTM"])
def test_is_a_drop_in_for_torch(pair: tuple[Any, Any], options: dict[str, Any]) -> None:
    kind, theirs_kind = pair
    ours, theirs = kind(5, 3, **options, q=4), theirs_kind(5, 3, **options)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    start = torch.rand(options["num_layers"] * (1 + options["bidirectional"]), 4, 3)
    states = as_given(kind, [start] * (1 + (kind is LSTM)))
    for x, hx in ((torch.randn(4, 4, 5), None), (torch.randn(4, 4, 5), states), (torch.randn(4, 5), None)):
        (output, final), (expected, expected_final) = ours(x, hx), theirs(x, hx)
        assert output.shape == expected.shape
        assert [each.shape for each in parts(final)] == [each.shape for each in parts(expected_final)]


def test_states_do_not_drift_where_products_lie_between_two_levels() -> None:
    # Weights of 0 leave half-open gates and a candidate of 0: each state is half of the one before.
    gru = GRU(1, 1, q=16)
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.zero_()
    up, down = (gru(torch.zeros(5, 1, 1), torch.full((1, 1, 1), sign * 15 / 16))[0].flatten() * 16 for sign in (1, -1))
    assert up.tolist() == [8, 4, 2, 1, 0]
    assert torch.equal(up, -down)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_every_state_is_a_level(kind: Any) -> None:
    output, final = kind(5, 8, 2, q=4)(10 * torch.randn(7, 3, 5))
    for values in (output, *parts(final)):
        levels = values.detach() * 4
        assert torch.equal(levels, levels.round())
    assert output.abs().max() <= 1


def test_a_cell_stays_in_its_range() -> None:
    lstm = LSTM(1, 1, q=4, cell_range=2)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.fill_(20.0)
    _, (_, cells) = lstm(torch.ones(9, 1, 1))
    assert cells.item() == 2.0


@pytest.mark.parametrize("kind", [GRU, LSTM])
@pytest.mark.parametrize("given_levels", [False, True])
@torch.no_grad()
def test_what_is_observed_is_what_is_rounded(kind: Any, given_levels: bool) -> None:
    torch.manual_seed(0)
    module = kind(4, 6, 2, batch_first=True, bidirectional=True, q=8, dtype=torch.double)
    x, lengths = torch.randn(3, 5, 4, dtype=torch.double) * 3, torch.tensor([5, 2, 3])
    names, ranges = module.populations(), module.ranges()
    wanted: list[Tensor | None] = [None] * len(names)
    (output, _), before = module.observed(wanted, x, lengths=lengths)
    assert torch.equal(output, module(x, lengths=lengths)[0])
    levels = [z.floor().clamp(low, high) for z, (low, high) in zip(before, ranges, strict=True)]
    if given_levels:
        real = (torch.arange(5) < lengths[:, None])[:, :, None]
        (again, _), seen = module.observed([each * real for each in levels], x, lengths=lengths)
        torch.testing.assert_close(again, output)
        for one, other in zip(seen, before, strict=True):
            torch.testing.assert_close(one * real, other * real)
    assert torch.equal(levels[names.index(".l1.hidden")] / 8, output[..., :6].detach())


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (GRU, {"hidden_size": 0}, "hidden_size"),
        (GRU, {"dropout": 1.5}, "1.5"),
        (LSTM, {"q": 0}, "levels"),
        (LSTM, {"cell_range": 0}, "cell_range"),
        (LSTM, {"proj_size": 2}, "proj_size must be 0; got 2"),
    ],
)
def test_bad_options_are_named(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**{"input_size": 4, "hidden_size": 3} | options)


def test_bad_inputs_are_named() -> None:
    x = torch.randn(2, 5, 4)
    with pytest.raises(InputError, match=r"hx to be \(h_0, c_0\); got a Tensor"):
        LSTM(4, 3, batch_first=True)(x, torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match=r"hx of shape \[1, 2, 3\]"):
        GRU(4, 3, batch_first=True)(x, torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match=r"casc_seq.GRU takes no PackedSequence"):
        GRU(4, 3, batch_first=True)(pack_padded_sequence(x, [5, 4], batch_first=True))
