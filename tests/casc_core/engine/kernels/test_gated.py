"""The compiled gated recurrence: what it refuses to read. What it computes is held against the oracle of casc_seq."""

from __future__ import annotations

import pytest
import torch
from engines import COMPILED_OR_EMULATED

from casc_core import CIF
from casc_core.engine import kernels
from casc_core.engine.kernels import GatedWeights, KernelNeuron, Sequences, gated
from casc_core.engine.kernels.gated import Thresholds

NEURON = KernelNeuron.spiking(CIF(), [True] * 4, None)
needs_kernels = pytest.mark.skipif(kernels.instructions() is None, reason="no compiled kernels")


def weights(hidden: int = 3, q: int = 4) -> GatedWeights:
    thresholds = torch.arange(1.0, q + 1), torch.arange(-float(q), q)
    state = q * (torch.arange(1 - q, q + 1) - 0.25)
    return GatedWeights.gru(torch.ones(3 * hidden, hidden), None, *thresholds, state, 0)


def sequences(batch: int = 2, length: int = 5, rows: int = 9, **others: object) -> Sequences:
    given = {"drive": torch.ones(batch, length, rows, dtype=torch.float64), "index": None, "lengths": None}
    train = torch.zeros(0, batch, length, rows, dtype=torch.float64)
    return Sequences(**(given | {"train": train, "initial": None, "reverse": False} | others))


@needs_kernels
def test_gates_that_are_not_wanted_are_not_written() -> None:
    reset, update, candidate, hidden = gated(
        weights(), sequences(), [None], [True, False, False, True], NEURON, 0, 100.0
    )
    assert reset.shape == hidden.shape == (len(hidden), 2, 5, 3)
    assert len(update) == len(candidate) == 0
    assert hidden.any()


@needs_kernels
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows": 6}, "for 9 rows"),
        ({"drive": torch.ones(2, 4, 9, dtype=torch.float64)}, "a drive"),
        ({"drive": torch.ones(2, 5, 9)}, "a drive"),
        ({"lengths": torch.tensor([5, 6])}, r"lengths beyond 1\.\.5"),
        ({"lengths": torch.tensor([5])}, "the lengths"),
        ({"drive": torch.ones(7, 9, dtype=torch.float64), "index": torch.full((2, 5), 7)}, r"rows 7\.\.7 of 7"),
        ({"train": torch.zeros(1, 2, 5, 9)}, "a train of torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gated(weights(), sequences(**given), [None], [True] * 4, NEURON, 0, 100.0)


@needs_kernels
def test_initial_levels_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="the initial levels"):
        gated(weights(), sequences(), [torch.zeros(1, 2, 3)], [True] * 4, NEURON, 0, 100.0)
    with pytest.raises(ValueError, match="the initial levels"):
        gated(weights(), sequences(), [torch.zeros(1, 3, 3, dtype=torch.int16)], [True] * 4, NEURON, 0, 100.0)


def an_lstm(hidden: int, q: int = 4) -> GatedWeights:
    """Of cells within two units."""
    sigmoid, tanh = torch.arange(1.0, q + 1), torch.arange(-float(q), q)
    state, cell = (q * (torch.arange(1 - most, most + 1) - 0.25) for most in (q, 2 * q))
    seen = torch.arange(-2.0 * q, 2 * q + 1).clamp(-q, q)
    return GatedWeights.lstm(torch.ones(4 * hidden, hidden), sigmoid, tanh, state, cell, seen, 0)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize("is_lstm", [False, True])
@pytest.mark.parametrize("steps", [(6, 3), (2, 9), (1, 0)])
def test_states_begin_with_trains_of_any_length(instructions: str, is_lstm: bool, steps: tuple[int, int]) -> None:
    """What they bring adds up to what their totals bring at once, text by text."""
    torch.manual_seed(0)
    hidden, batch = 9, 5
    given = an_lstm(hidden) if is_lstm else weights(hidden)
    rows, populations, states = (4, 6, 2) if is_lstm else (3, 4, 1)
    drive = torch.randint(-1, 2, (batch, 5, rows * hidden)).double()
    inputs = sequences(batch, rows=rows * hidden, drive=drive)
    # No total leaves the range, and some texts' trains end earlier than others'.
    start = [torch.randint(-1, 2, (each, batch, hidden), dtype=torch.int16) for each in steps[:states]]
    for each in start:
        each[4:] = -each[: len(each[4:])]
        each[1:, 2] = 0
    begins = [each if len(each) else None for each in start]
    totals = [each.sum(0, keepdim=True, dtype=torch.int16) if len(each) else None for each in start]
    with kernels.using(instructions):
        spikes = gated(given, inputs, begins, [True] * populations, NEURON, 0, 100.0)
        levels = gated(given, inputs, totals, [True] * populations, KernelNeuron.levels(4), 0, 100.0)
        unlike = gated(given, inputs, [None] * states, [True] * populations, KernelNeuron.levels(4), 0, 100.0)
        for row in range(batch):
            one = sequences(1, rows=rows * hidden, drive=drive[row : row + 1])
            own = [None if each is None else each[:, row : row + 1].contiguous() for each in begins]
            alone = gated(given, one, own, [True] * populations, NEURON, 0, 100.0)
            for train, each in zip(spikes, alone, strict=True):
                assert torch.equal(train[: len(each), row], each[:, 0])
                assert not train[len(each) :, row].any()
    for train, level in zip(spikes, levels, strict=True):
        assert torch.equal(train.sum(0, dtype=torch.int16), level[0])
    assert not torch.equal(levels[-1], unlike[-1])


@needs_kernels
@pytest.mark.parametrize("hidden", [1, 7, 8, 9])
def test_levels_are_what_spikes_add_up_to(hidden: int) -> None:
    given = sequences(rows=3 * hidden, drive=torch.randn(2, 5, 3 * hidden, dtype=torch.float64).round())
    spikes = gated(weights(hidden), given, [None], [True] * 4, NEURON, 0, 100.0)
    levels = gated(weights(hidden), given, [None], [True] * 4, KernelNeuron.levels(4), 0, 100.0)
    for train, level in zip(spikes, levels, strict=True):
        assert level.dtype == torch.int16
        assert torch.equal(train.sum(0, dtype=torch.int16), level[0])
    assert levels[0].any()


def levels_by_hand(weight: torch.Tensor, drive: torch.Tensor, given: GatedWeights) -> torch.Tensor:
    """The hidden states of a GRU, `[batch, length, hidden]`, in float64, whose sums here are exact."""
    q, hidden, outputs = given.q, weight.shape[1], []
    state = torch.zeros(len(drive), hidden, dtype=torch.float64)

    def level(table: Thresholds, total: torch.Tensor, lowest: int) -> torch.Tensor:
        return (total.unsqueeze(-1) >= table.exact[1:-1]).sum(-1).double() + lowest

    for current in drive.unbind(1):
        (own_r, own_z, own_n), (r, z, n) = current.chunk(3, 1), (state @ weight.T).chunk(3, 1)
        reset, update = level(given.sigmoid, own_r + r, 0), level(given.sigmoid, own_z + z, 0)
        candidate = level(given.tanh, q * own_n + reset * n, -q)
        state = level(given.state, (q - update) * candidate + update * state, -q)
        outputs.append(state)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
def test_what_rounded_weights_leave_out_decides_sums_on_a_threshold(instructions: str) -> None:
    torch.manual_seed(0)
    q, hidden, batch, length = 4, 19, 6, 7
    whole = torch.randint(-1, 2, (3 * hidden, hidden)).double()
    weight = whole + torch.randint(-3, 4, whole.shape) * 2.0**-25
    thresholds = torch.arange(1.0, q + 1), torch.arange(-float(q), q), q * (torch.arange(1 - q, q + 1) - 0.25)
    given, rounded = (GatedWeights.gru(each, None, *thresholds, -25) for each in (weight, whole))
    drive = torch.randint(-1, 2, (batch, length, 3 * hidden)).double()
    expected = levels_by_hand(weight, q * drive, given)
    assert given.recurrent is not None
    assert given.recurrent.left_out.largest
    assert not torch.equal(expected, levels_by_hand(whole, q * drive, rounded))
    inputs = sequences(batch, length, 3 * hidden, drive=drive)
    with kernels.using(instructions):
        *_, spikes = gated(given, inputs, [None], [False] * 3 + [True], NEURON, 0, 1000.0)
        *_, levels = gated(given, inputs, [None], [False] * 3 + [True], KernelNeuron.levels(q), 0, 1000.0)
    assert torch.equal(levels[0].double(), expected)
    assert torch.equal(spikes.sum(0).double(), expected)
