"""Functions of counts, as tables."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.ops.declared import EXPONENT, Numbers, Whole, settings, tensors
from casc_core.engine.ops.op import Op, entries, entries_at_once
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.run import LARGEST_TOTAL, Run
from casc_core.engine.running import measured, running
from casc_core.engine.signal import Signal


class LevelTable(Op):
    """Any function of the counts of one population, entry by entry: a running function, what it gives looked up.

    It gives graded events, the changes of `table[count - lowest]`, which is 0 for the count 0. It is for the number of wake
    steps that the network was trained for, since levels are counts then.
    """

    SETTINGS = settings(lowest=Whole(-LARGEST_TOTAL, 0), exponent=EXPONENT)
    TENSORS = tensors(table=Numbers((("levels",),), "exponent"))
    is_of_trained_levels = True
    table: Tensor

    def check(self) -> None:
        lowest, levels = self.settings["lowest"], len(self.table)
        self.require(
            -lowest < levels <= 2 * LARGEST_TOTAL + 1, f"'table' must have a number for the counts {lowest}..0"
        )
        self.require(not bool(self.table[-lowest]), "'table' must hold 0 for the count 0")

    def forward(self, run: Run, signal: Signal) -> Signal:
        table, lowest = self.table.double(), self.settings["lowest"]

        def looked_up(counts: Tensor) -> Tensor:
            return table[(counts - lowest).clamp_(0, len(table) - 1)]

        return measured(run, running(run, looked_up, (signal,), (torch.int64,), 0.0, signal.divisor))

    def provenance(self, run: Run, result: Signal, signal: Provenance) -> Provenance:
        return Provenance(result, run.peak, is_current=True)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        return replace(signal, train=replace(signal.train or Train(), unit=8, held=None))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        # Counts and what they look up so far, and the steps before they are put together.
        return 8 * (6 * entries_at_once(signals[-1]) + entries(signals[-1]))
