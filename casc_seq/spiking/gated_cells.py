"""GRU and LSTM in a lowered network: the populations of a position, and what each receives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from casc_core.extend import Numbers, Provenance, Whole, Work, settings, tensors
from casc_core.numerics import largest
from casc_core.operations import LARGEST_TOTAL, by_step, kernels
from casc_seq.spiking.gated_position import Position
from casc_seq.spiking.gated_recurrence import GatedRecurrence
from casc_seq.spiking.level_thresholds import nearest_thresholds


class GRURecurrence(GatedRecurrence, saved_as="GRURecurrence"):
    """A GRU: reset gate R, update gate Z, candidate N and hidden state H, in levels.

    With totals X of the input's current and `C = W_hn H + b_hn` of the recurrent one, `N = tanh_q(q X + R C)`, and
    `H' = round(((q - Z) N + Z H) / q)`, halves to the even level.
    """

    TENSORS = tensors(**GatedRecurrence.TENSORS, bias=Numbers((("hidden",),), "exponent", optional=True))
    GATES = 3
    STATES = (3,)
    bias: Tensor | None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 1), (-1, 1), (-1, 1))

    @property
    def spiking_reach(self) -> float:
        return super().spiking_reach + (0.0 if self.bias is None else largest(self.bias))

    @property
    def products(self) -> int:
        return self.q

    def packed(self) -> kernels.GatedWeights:
        state = nearest_thresholds(self.q, self.q)
        return kernels.GatedWeights.gru(
            self.weight, self.bias, self.sigmoid, self.tanh, state, self.settings["exponent"]
        )

    def step(self, at: Position) -> tuple[Tensor, ...]:
        q, gates, last = self.q, slice(2 * self.hidden), slice(2 * self.hidden, None)
        opened = at.fire(at.currents(gates), at.driven(gates), self.sigmoid, 0)
        reset, update = opened.split(self.hidden, -1)
        products = at.total(at.arriving[..., last], at.driven(last)), at.total(at.recurrent[..., last], self.bias)
        candidate = at.fire(
            at.changes(lambda r, x, c: q * x + r * c, at.total(reset), *products), None, q * self.tanh.double(), -q
        )
        totals = at.total(update), at.total(candidate), at.total(at.states[0])
        mixed = at.changes(lambda z, n, h: (q - z) * n + z * h, *totals)
        return self.apart(opened, candidate, at.fire(mixed, None, self.nearest(q), -q))

    def apart(self, opened: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return *opened.split(self.hidden, -1), *others

    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        reset, update, candidate, _ = result
        spikes = Work.total(Work(accumulates=each.spikes_by_step()) for each in (reset, update, candidate))
        # Wherever spikes arrive, the current of each unit changes that the reset gate multiplies.
        changed = by_step((passed[0] > 0).to(torch.int32)) * self.hidden
        return spikes + Work(accumulates=by_step(passed[0]), multiplies=changed)


class LSTMRecurrence(GatedRecurrence, saved_as="LSTMRecurrence"):
    """An LSTM: gates I, F and O, candidate G, cell C and hidden state H, in levels.

    `C' = clip(round((F C + I G) / q), -k q, k q)`, `H = round(O round(q tanh(C'/q)) / q)`; k is `cell_range`. Products are
    rounded to the nearest level, halves to the even one.
    """

    SETTINGS = settings(**GatedRecurrence.SETTINGS, cell_range=Whole(1, 1000))
    TENSORS = tensors(**GatedRecurrence.TENSORS, table=Numbers((("cells",),)))
    GATES = 4
    STATES = (5, 4)
    table: Tensor

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        k = self.settings["cell_range"]
        return ((0, 1), (0, 1), (-1, 1), (0, 1), (-k, k), (-1, 1))

    def check(self) -> None:
        super().check()
        cells = 2 * self.cells + 1
        self.require(self.cells <= LARGEST_TOTAL, f"q times 'cell_range' must be at most {LARGEST_TOTAL:,}")
        self.require(len(self.table) == cells, f"'table' must have an entry for each of {cells} levels of a cell")

    @property
    def cells(self) -> int:
        """The highest level of a cell."""
        return self.q * int(self.settings["cell_range"])

    def packed(self) -> kernels.GatedWeights:
        state, cell = (nearest_thresholds(highest, self.q) for highest in (self.q, self.cells))
        return kernels.GatedWeights.lstm(
            self.weight, self.sigmoid, self.tanh, state, cell, self.table, self.settings["exponent"]
        )

    def step(self, at: Position) -> tuple[Tensor, ...]:
        q, hidden = self.q, self.hidden
        candidate_rows = slice(2 * hidden, 3 * hidden)
        gates = self.kept(self.weight, "gates", self._gates)
        opened = at.fire(at.currents(gates), at.driven(gates), self.sigmoid, 0)
        taken, kept, shown = opened.split(hidden, -1)
        candidate = at.fire(at.currents(candidate_rows), at.driven(candidate_rows), self.tanh, -q)
        totals = at.total(kept), at.total(at.states[1]), at.total(taken), at.total(candidate)
        products = at.changes(lambda f, c, i, g: f * c + i * g, *totals)
        cell = at.fire(products, None, self.nearest(self.cells), -self.cells)
        table = self.table.to(at.kind)
        seen = at.changes(lambda o, c: o * table[c.long() + self.cells], at.total(shown), at.total(cell))
        return self.apart(opened, candidate, cell, at.fire(seen, None, self.nearest(q), -q))

    def apart(self, opened: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        taken, kept, shown = opened.split(self.hidden, -1)
        candidate, *states = others
        return taken, kept, candidate, shown, *states

    def _gates(self) -> Tensor:
        """The rows of the input, the forget and the output gate."""
        rows = torch.arange(4 * self.hidden, device=self.weight.device)
        return torch.cat([rows[: 2 * self.hidden], rows[3 * self.hidden :]])

    def _products(self, result: Sequence[Provenance], passed: Sequence[Tensor]) -> Work:
        # A cell's spikes meet the output gate of their own position and the forget gate of the next.
        *met, _ = result
        spikes = Work.total(Work(accumulates=each.spikes_by_step()) for each in met)
        return spikes + Work(accumulates=by_step(passed[1]))
