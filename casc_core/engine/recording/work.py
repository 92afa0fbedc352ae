"""Operations: what a network's linear maps do with spikes, and what the ANN does in their place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.signal import add_trains
from casc_core.reporting.summaries import Summarised


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, repr=False)
class Work(Summarised):
    """Operations for all samples of a batch.

    Attributes:
        accumulates: `[steps]` float64, one for each spike and synapse.
        multiplies: `[steps]` float64, multiply-accumulates of currents that go through a second linear map before they
            reach neurons.
        awake: multiply-accumulates at each wake step: of real-valued inputs, and one for each bias.
        dense: multiply-accumulates of the ANN.

    >>> both = Work(accumulates=torch.ones(2), dense=4.0) + Work(accumulates=torch.ones(1), dense=2.0) * 0.5
    >>> both.accumulates.tolist(), both.dense
    ([2.0, 1.0], 5.0)
    """

    accumulates: Tensor = field(default_factory=_none)
    multiplies: Tensor = field(default_factory=_none)
    awake: float = 0.0
    dense: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            add_trains(self.accumulates, other.accumulates),
            add_trains(self.multiplies, other.multiplies),
            self.awake + other.awake,
            self.dense + other.dense,
        )

    def __mul__(self, share: float) -> Work:
        """The same with a share of what does not depend on spikes: that of real positions among padded ones."""
        return Work(self.accumulates, self.multiplies, self.awake * share, self.dense * share)

    def in_steps(self, period: int) -> Work:
        """Of bins of so many steps, as that of steps: it is done at the last of each.

        >>> Work(accumulates=torch.tensor([3.0, 7.0])).in_steps(2).accumulates.tolist()
        [0.0, 3.0, 0.0, 7.0]
        """
        if period == 1:
            return self

        def spread(counts: Tensor) -> Tensor:
            return F.pad(counts[:, None], [period - 1, 0]).flatten()

        return replace(self, accumulates=spread(self.accumulates), multiplies=spread(self.multiplies))

    @classmethod
    def total(cls, parts: Iterable[Work]) -> Work:
        """All of it."""
        total = cls()
        for part in parts:
            total = total + part
        return total
