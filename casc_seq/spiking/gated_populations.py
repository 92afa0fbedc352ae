"""The nodes of a gated layer: its recurrence, and each of the populations that this gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from casc_core.extend import (
    Form,
    InputNode,
    Node,
    PopulationNode,
    Reach,
    SignalNode,
    Snapped,
    Snapping,
    grid_threshold,
    stored,
)
from casc_core.numerics import largest
from casc_core.operations import Pick, largest_row
from casc_seq.spiking.gated_cells import GRURecurrence, LSTMRecurrence
from casc_seq.spiking.gated_recurrence import Emitted, GatedRecurrence
from casc_seq.spiking.level_thresholds import atanh_thresholds, logit_thresholds, tanh_table
from casc_seq.spiking.recurrent_grid import recurrent_grid


@dataclass(frozen=True, eq=False, repr=False)
class GatedNode(PopulationNode):
    """The recurrence of one direction of one gated layer: what it becomes gives all populations at once.

    Attributes:
        x: what its input map reads.
        current: the input map; its result is put on the grid of the recurrence.
        weight: of the input map, before anything is folded into it.
        recurrent, bias: of the recurrent map; the bias where a gate multiplies it.
        levels: that it was trained with.
        cell_range: of an LSTM; None: it is a GRU.
        hx, row: the initial states, of which this is the row; of a signal, it is the row already.
        lengths: how long each text is.
    """

    x: SignalNode
    current: SignalNode
    weight: Tensor
    recurrent: Tensor
    bias: Tensor | None
    levels: int
    cell_range: int | None
    reverse: bool
    batch_first: bool
    hx: tuple[InputNode | SignalNode | None, ...] | None
    row: int
    lengths: InputNode | None

    @property
    def products(self) -> int:
        """How many times as large as a current its largest product with a gate is."""
        return self.levels if self.cell_range is None else 1

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        bias = 0.0 if self.bias is None else largest(self.bias)
        largest_threshold = math.log(4 * self.levels)  # of a sigmoid or tanh, for each level
        own = largest_row(self.recurrent) + bias + largest_threshold
        received = of(self.current).times(float(self.products))
        return replace(received, train=received.train + self.products * own)

    def snap(self, snapping: Snapping) -> Snapped:
        numerics = snapping.numerics
        own, exponent = recurrent_grid(snapping, self.x, self.weight, self.recurrent)
        _, exponent = grid_threshold(numerics, 1.0, exponent)
        given: dict[str, Any] = {
            "name": self.name,
            "q": self.levels,
            "exponent": exponent,
            "reverse": self.reverse,
            "batch_first": self.batch_first,
            "weight": stored(numerics.snap(self.recurrent, max(own, exponent))),
            "sigmoid": numerics.snap(logit_thresholds(self.levels), exponent),
            "tanh": numerics.snap(atanh_thresholds(self.levels), exponent),
        }
        op: GatedRecurrence
        if self.cell_range is None:
            bias = None if self.bias is None else numerics.snap(self.bias, exponent)
            op = GRURecurrence(**given, bias=bias)
        else:
            table = tanh_table(self.levels, self.levels * self.cell_range)
            op = LSTMRecurrence(**given, cell_range=self.cell_range, table=table)
        for state, highest in zip(self.hx or (), (1, self.cell_range or 0), strict=False):
            self._require_levels(snapping, state, highest)
        current = self.current.on_grid(exponent)
        return Snapped(snapping.call(op, current, self.hx, self.row, self.lengths), Form(exponent=0, is_exact=True))

    def _require_levels(self, snapping: Snapping, state: InputNode | SignalNode | None, highest: int) -> None:
        """Refuse an initial state that is no signal of levels within `-highest..highest`: gates multiply its levels.

        Raises:
            ConversionError: it is something else.
        """
        if not isinstance(state, SignalNode):
            return
        form, reach = snapping.of(state).form, snapping.reach_of(state)
        are_levels = form.exponent == 0 and form.scale == 1 and form.drive_exponent is None
        if are_levels and not state.is_divided and reach.total <= highest:
            return
        why = "are other numbers, as of a linear layer, a mean or a factor"
        if are_levels:
            why = f"may reach {reach.total:g}, and a state's levels are within {highest}"
        raise self.refuse(
            f"its initial state must be spikes worth a level, 1/{self.levels}, each, and those that it is given {why}. Put "
            "an activation before it that rounds them to levels: nn.Hardtanh() or nn.Tanh(), and call casc_core.prepare "
            f'again, or casc_core.Rounded({self.levels}, "hardtanh")'
        )


@dataclass(frozen=True, eq=False, repr=False)
class EmittedPopulation(PopulationNode):
    """One of the populations of a gated layer.

    Attributes:
        recurrence, index: what gives its spikes, and as which.
        before: the populations of its layer whose spikes it receives.
        units: the largest magnitude of its values.
    """

    recurrence: GatedNode
    index: int
    before: tuple[SignalNode, ...]
    units: int

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return Reach(float(self.units))

    def snap(self, snapping: Snapping) -> Snapped:
        picked = snapping.call(Pick(index=self.index, count=None, line=""), self.recurrence)
        op = Emitted(name=self.name, batch_first=self.recurrence.batch_first)
        ref = snapping.call(op, picked, self.recurrence.lengths, *self.before)
        return Snapped(ref, Form(exponent=0, is_exact=True))
