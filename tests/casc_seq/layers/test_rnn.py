"""`casc_seq.RNN` is `torch.nn.RNN` with another activation: same interface; values and gradients of the equation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from casc_core.activation import CQReLU
from casc_core.errors import ConfigError, InputError
from casc_seq.layers.rnn import RNN


def reference(rnn: RNN, x: Tensor, lengths: list[int], start: Tensor, activation: nn.Module) -> tuple[Tensor, Tensor]:
    """The equation, one text, one position at a time. `x` is batch first; so is the output."""
    batch, longest = x.shape[:2]
    final = []
    for layer in range(rnn.num_layers):
        sides = []
        for direction in range(rnn.directions):
            row = layer * rnn.directions + direction
            weight_ih, weight_hh, bias = rnn.cell_parameters(rnn.cells()[row][2])
            texts, ends = [], []
            for text in range(batch):
                state = start[row, text]
                outputs = [torch.zeros_like(state)] * longest
                positions = range(lengths[text])
                for i in reversed(positions) if direction else positions:
                    current = weight_ih @ x[text, i] + weight_hh @ state
                    state = activation(current if bias is None else current + bias)
                    outputs[i] = state
                texts.append(torch.stack(outputs))
                ends.append(state)
            sides.append(torch.stack(texts))
            final.append(torch.stack(ends))
        x = torch.cat(sides, dim=-1)
    return x, torch.stack(final)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_values_and_every_gradient_equal_the_equation(data: st.DataObject) -> None:
    draw = data.draw
    q, threshold = draw(st.sampled_from([1, 2, 4, 16])), draw(st.sampled_from([0.5, 1.0, 3.0]))
    sizes = [draw(st.integers(1, 5)) for _ in range(2)]
    batch, longest = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    layers, both, bias = draw(st.integers(1, 2)), draw(st.booleans()), draw(st.booleans())
    lengths = draw(st.none() | st.lists(st.integers(1, longest), min_size=batch, max_size=batch))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    rnn = RNN(
        *sizes, layers, bias=bias, batch_first=True, bidirectional=both, q=q, threshold=threshold, dtype=torch.double
    )
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.normal_(0, threshold)
    x = torch.randn(batch, longest, sizes[0], dtype=torch.double, requires_grad=True)
    start = (torch.rand(layers * rnn.directions, batch, sizes[1], dtype=torch.double) * threshold).requires_grad_()
    weigh = torch.randn(batch, longest, sizes[1] * rnn.directions, dtype=torch.double)
    weigh_final = torch.randn(start.shape, dtype=torch.double)
    inputs = [x, start, *rnn.parameters()]

    output, final = rnn(x, start, None if lengths is None else torch.tensor(lengths))
    expected, expected_final = reference(rnn, x, lengths or [longest] * batch, start, CQReLU(q, threshold))

    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(final, expected_final)
    grads = torch.autograd.grad((output * weigh).sum() + (final * weigh_final).sum(), inputs)
    wanted = torch.autograd.grad((expected * weigh).sum() + (expected_final * weigh_final).sum(), inputs)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want)


OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (False, True))
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_a_drop_in_for_torch(options: dict[str, Any]) -> None:
    ours, theirs = RNN(5, 3, **options), nn.RNN(5, 3, **options)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())

    start = torch.rand(options["num_layers"] * (1 + options["bidirectional"]), 4, 3)
    for x, hx in ((torch.randn(4, 4, 5), None), (torch.randn(4, 4, 5), start), (torch.randn(4, 5), None)):
        for result, expected in zip(ours(x, hx), theirs(x, hx), strict=True):
            assert result.shape == expected.shape


@pytest.mark.parametrize("function", ["tanh", "relu", "left out"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}])
def test_without_levels_it_is_torchs(function: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    named = {} if function == "left out" else {"nonlinearity": function}
    theirs, ours = nn.RNN(3, 4, **named, **options).double(), RNN(3, 4, q=None, **named, **options).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 6, 3, dtype=torch.float64, requires_grad=True)
    hx = torch.randn(len(ours.cells()), 5 if ours.batch_first else 6, 4, dtype=torch.float64, requires_grad=True)
    for start in (None, hx):
        wanted, found = theirs(x, start), ours(x, start)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        leaves = [x] if start is None else [x, hx]
        gradients = [
            torch.autograd.grad(output.square().sum() + last.sum(), [*leaves, *rnn.parameters()])
            for rnn, (output, last) in ((theirs, wanted), (ours, found))
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    lengths = torch.tensor([3, 5, 1, 4, 2]) if ours.batch_first else None
    if lengths is not None:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
        torch.testing.assert_close(ours(x, lengths=lengths)[0][:, :5], padded, rtol=0, atol=1e-12)
    assert f"q=None, nonlinearity='{'relu' if function == 'relu' else 'tanh'}'" in repr(ours)


def test_every_state_is_a_level() -> None:
    output, final = RNN(5, 8, 2, q=4, threshold=2.0)(10 * torch.randn(7, 3, 5))
    for values in (output, final):
        levels = values * 4 / 2.0
        assert torch.equal(levels, levels.round())
        assert levels.min() >= 0
        assert levels.max() <= 4


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_lengths_equal_running_each_text_alone(first: bool, both: bool) -> None:
    torch.manual_seed(0)
    rnn = RNN(4, 6, 2, batch_first=first, bidirectional=both, q=4, dtype=torch.double)
    texts = [torch.randn(length, 4, dtype=torch.double) * 3 for length in (2, 7, 1, 7, 4)]
    padded = torch.full((5, 9, 4), float("nan"), dtype=torch.double)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    output, final = rnn(padded if first else padded.transpose(0, 1), lengths=torch.tensor([2, 7, 1, 7, 4]))
    output = output if first else output.transpose(0, 1)
    assert output.shape[1] == 9
    for row, text in enumerate(texts):
        alone, alone_final = rnn(text)
        torch.testing.assert_close(output[row, : len(text)], alone)
        torch.testing.assert_close(final[:, row], alone_final)
        assert not output[row, len(text) :].any()


def test_an_unbatched_input_equals_a_batch_of_one() -> None:
    rnn = RNN(4, 6, bidirectional=True)
    x, start = torch.randn(5, 4), torch.rand(2, 6)
    output, final = rnn(x, start)
    batched, batched_final = rnn(x.unsqueeze(1), start.unsqueeze(1))
    assert torch.equal(output, batched.squeeze(1))
    assert torch.equal(final, batched_final.squeeze(1))


def test_dropout_acts_between_layers_and_only_in_training() -> None:
    torch.manual_seed(0)
    rnn = RNN(4, 16, 2, dropout=0.5, q=16)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.abs_()
    x = torch.rand(5, 3, 4)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    assert torch.equal(rnn(x)[0], rnn(x)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.5}, "1.5"),
        ({"nonlinearity": "sigmoid"}, "sigmoid"),
        ({"q": 0}, "levels"),
        ({"threshold": -1.0}, "-1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RNN(**{"input_size": 4, "hidden_size": 3} | options)


def test_bad_inputs_are_named() -> None:
    rnn, x = RNN(4, 3, batch_first=True), torch.randn(2, 5, 4)
    with pytest.raises(InputError, match=r"\[2, 5, 3\]"):
        rnn(x[..., :3])
    with pytest.raises(InputError, match=r"\[0, 5, 4\]"):
        rnn(x[:0])
    with pytest.raises(InputError, match=r"hx of shape \[1, 2, 3\]"):
        rnn(x, torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match="sample 1 has length 6"):
        rnn(x, lengths=torch.tensor([5, 6]))
    with pytest.raises(InputError, match="sample 0 has length 0"):
        rnn(x, lengths=torch.tensor([0, 5]))
    with pytest.raises(InputError, match="one length for each of 2"):
        rnn(x, lengths=torch.tensor([5]))
    with pytest.raises(InputError, match="PackedSequence"):
        rnn(pack_padded_sequence(x, [5, 4], batch_first=True))
