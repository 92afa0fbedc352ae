"""The kernels that train a GRU and an LSTM: one position against its equations in float64, the same bits whatever the
instructions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import CellKind

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
GATES = {"gru": 3, "lstm": 4}


class Levels:
    """Roundings with a gradient that goes straight through; where one is open, `sure` is false."""

    def __init__(self, q: int | None, shape: torch.Size) -> None:
        self.q, self.scale, self.sure = q, q or 1, torch.ones(shape, dtype=torch.bool)

    def activation(self, x: Tensor) -> Tensor:
        if self.q is None:
            return x
        above = self.q * x.detach() + 0.5
        self.sure &= (above - above.round()).abs() > 1e-4 * self.q
        return above.floor() / self.q + (x - x.detach())

    def state(self, x: Tensor, largest: float) -> tuple[Tensor, Tensor]:
        """Of a sum of products of two levels; and where it is within its range."""
        if self.q is None:
            return x, torch.ones_like(x, dtype=torch.bool)
        products = (x.detach() * self.q**2).round()  # whole
        level = (products / self.q).round()
        inside = level.abs() <= largest
        return level.clamp(-largest, largest) / self.q + (x - x.detach()) * inside, inside


def by_equations(kind: CellKind, drive: Tensor, product: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Levels]:
    """Hidden state and cell (of a GRU, what its reset gate multiplies) in float64."""
    to = Levels(kind.q, before.shape)
    own, back = drive.chunk(GATES[kind.name], 1), product.chunk(GATES[kind.name], 1)
    if kind.name == "gru":
        reset, update = (to.activation((own[i] + back[i]).sigmoid()) for i in range(2))
        new = to.activation((own[2] + reset * back[2]).tanh())
        return to.state((1 - update) * new + update * before, to.scale)[0], back[2], to
    take, forget, new, output = (one + other for one, other in zip(own, back, strict=True))
    take, forget, output = (to.activation(gate.sigmoid()) for gate in (take, forget, output))
    cell, _ = to.state(forget * before + take * to.activation(new.tanh()), kind.most)
    return to.state(output * to.activation(cell.tanh()), to.scale)[0], cell, to


class Position:
    """Random arrays of one position, and what the kernels make of them."""

    def __init__(self, kind: CellKind, rows: int, hidden: int, known: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.kind, self.known, scale = kind, known, kind.q or 1
        wide, narrow = (rows, GATES[kind.name] * hidden), (rows, hidden)
        self.drive, self.product = 2 * torch.randn(wide), torch.randn(wide)
        largest = kind.most / scale if kind.name == "lstm" and kind.q else 1.0
        self.before = (2 * torch.rand(narrow) - 1) * largest
        if kind.q is not None:
            self.before = (self.before * scale).round() / scale
        self.above, self.cells = torch.randn(rows, 2 * hidden)[:, hidden:], torch.randn(narrow)
        self.later, self.carry = torch.randn(known, hidden), torch.randn(narrow)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        gates, state, beside = torch.empty_like(self.drive), *(torch.empty_like(self.before) for _ in range(2))
        kernels.cell(self.kind, self.drive, self.product, self.before, gates, state, beside)
        return gates, state, beside

    def backward(self, gates: Tensor, beside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        into_gates, carry = torch.empty_like(gates), self.carry.clone()
        into_product = into_gates if self.kind.name == "lstm" else torch.empty_like(gates)
        cells = self.cells if self.kind.name == "lstm" else None
        arrays = gates, self.before, beside, self.above, cells, self.later, carry, into_gates, into_product
        kernels.cell_gradient(self.kind, *arrays)
        return into_gates, into_product, carry


def kinds() -> Any:
    levels = st.sampled_from((None, 1, 2, 3, 4, 6, 8, 16))
    gru = levels.map(lambda q: CellKind("gru", q))
    return gru | st.builds(lambda q, k: CellKind("lstm", q, k * (q or 0)), levels, st.sampled_from((1, 3, 32)))


SIZES = {
    "rows": st.integers(1, 5),
    "hidden": st.sampled_from((1, 3, 8, 15, 16, 33, 50)),
    "seed": st.integers(0, 2**31),
    "kind": kinds(),
    "known": st.integers(0, 5),
}


@settings(max_examples=150, deadline=None)
@given(instructions=st.sampled_from(COMPILED_OR_EMULATED), **SIZES)
def test_values_and_gradients_are_those_of_the_equations(
    instructions: str, kind: CellKind, rows: int, hidden: int, known: int, seed: int
) -> None:
    at = Position(kind, rows, hidden, min(known, rows), seed)
    with kernels.using(instructions):
        gates, state, beside = at.forward()
        into_gates, into_product, carry = at.backward(gates, beside)
    drive, product, before = (each.double().requires_grad_() for each in (at.drive, at.product, at.before))
    wanted_state, wanted_beside, to = by_equations(kind, drive, product, before)
    close = {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(state.double()[to.sure], wanted_state.detach()[to.sure], **close)
    torch.testing.assert_close(beside.double()[to.sure], wanted_beside.detach()[to.sure], **close)
    arriving, carried = at.above.double(), at.carry.double()
    arriving[: at.known] += at.later
    carried[at.known :] = 0
    if kind.name == "gru":
        wanted = torch.autograd.grad(wanted_state, [drive, product, before], arriving + carried)
        # The product of the state before is not the kernel's: what is left is elementwise.
        found = [into_gates, into_product, carry]
    else:
        ends = [wanted_state, wanted_beside]
        wanted = torch.autograd.grad(ends, [drive, product, before], [arriving, carried + at.cells])
        found = [into_gates, into_gates, carry]
    for one, other in zip(found, wanted, strict=True):
        sure = to.sure.repeat(1, one.shape[1] // hidden)
        torch.testing.assert_close(one.double()[sure], other[sure], rtol=2e-4, atol=1e-4)
    assert float(to.sure.double().mean()) > 0.5 or rows * hidden < 50


@settings(max_examples=60, deadline=None)
@given(spoilt=st.sampled_from((None, torch.inf, -torch.inf, torch.nan, 1e30)), **SIZES)
def test_bits_do_not_depend_on_the_instructions(
    spoilt: float | None, kind: CellKind, rows: int, hidden: int, known: int, seed: int
) -> None:
    at = Position(kind, rows, hidden, min(known, rows), seed)
    if spoilt is not None:
        at.drive[0, -1] = spoilt
    found = []
    for instructions in COMPILED_OR_EMULATED:
        with kernels.using(instructions):
            gates, state, beside = at.forward()
            found.append([gates, state, beside, *at.backward(gates, beside)])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one.isnan(), same.isnan())
            assert torch.equal(one.nan_to_num(), same.nan_to_num())


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
def test_what_is_no_number_stays_so_and_what_is_large_saturates(name: str, instructions: str) -> None:
    at = Position(CellKind(name, 4, 8), 3, 20, 0, 0)
    at.drive[:, :20] = torch.tensor([torch.nan, 1e30, -torch.inf])[:, None]
    with kernels.using(instructions):
        gates, _, _ = at.forward()
    assert gates[0, :20].isnan().all()
    assert (gates[1, :20] == 1).all()
    assert (gates[2, :20] < 1e-30).all()


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_bits_do_not_depend_on_the_threads(name: str) -> None:
    at, before = Position(CellKind(name, 4, 8), 200, 100, 150, 0), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gates, state, beside = at.forward()
            found.append([gates, state, beside, *at.backward(gates, beside)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def wrong_arrays(place: int, changed: Tensor) -> None:
    at = Position(CellKind("lstm", 4, 8), 3, 5, 2, 0)
    arrays = [at.drive, at.product, at.before, *at.forward()]
    arrays[place] = changed
    kernels.cell(at.kind, *arrays)


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, torch.ones(3, 19)),
        (1, torch.ones(2, 20)),
        (1, torch.ones(3, 20).double()),
        (1, torch.ones(20, 3).t()),
        (2, torch.ones(4, 5)),
        (3, torch.ones(3, 15)),
        (4, torch.ones(3, 4)),
        (5, torch.ones(5, 3).t()),
    ],
)
def test_arrays_that_do_not_fit_are_refused(place: int, changed: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must|does not fit"):
        wrong_arrays(place, changed)


@pytest.mark.parametrize(
    "change",
    [
        {"later": torch.ones(4, 5)},
        {"carry": torch.ones(2, 5)},
        {"cells": torch.ones(3, 4)},
        {"above": torch.ones(5, 3).t()},
    ],
)
def test_gradients_that_do_not_fit_are_refused(change: dict[str, Tensor]) -> None:
    at = Position(CellKind("lstm", 4, 8), 3, 5, 2, 0)
    gates, _, beside = at.forward()
    vars(at).update(change)
    with pytest.raises(ValueError, match=r"must|does not fit"):
        at.backward(gates, beside)


@pytest.mark.parametrize("wrong", [("rnn", 4, 0), ("gru", 0, 0), ("lstm", 4, -1)])
def test_cells_that_there_are_not_are_refused(wrong: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        CellKind(*wrong)


def test_levels_that_float32_does_not_hold_are_not_for_the_kernels() -> None:
    assert CellKind("gru", 2896).fits
    assert not CellKind("gru", 2897).fits
    assert not CellKind("lstm", 1024, 1024 * 1000).fits
