"""The spikes of a recurrence, which are not written down where only their sums are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from casc_core.operations import running_total


@dataclass
class RecurrentTrain:
    """The spikes of a recurrence that nothing but one operation reads: a train that is lazy.

    Their sum over the positions, which a mean takes, is a small part of what it would take to write them down.

    Attributes:
        size, device: as those of a step. positions: the dimension that they are along, from the end.
        fired: runs the recurrence; `summed`: for the sums over positions.
    """

    size: torch.Size
    device: torch.device
    positions: int
    fired: Callable[..., Tensor]

    @property
    def shape(self) -> torch.Size:
        """`[steps, *size]`."""
        return self.tensor().shape

    @property
    def nbytes(self) -> int:
        """Bytes of what is written down."""
        return self.__dict__["_train"].nbytes if "_train" in self.__dict__ else 0

    def tensor(self) -> Tensor:
        """The spikes; computed once."""
        return self._train

    def total(self) -> Tensor:
        """Their sum over all steps, float64."""
        return self._train.sum(0, dtype=torch.float64)

    def running(self, steps: int) -> Tensor:
        """Their sum until each of the first `steps` steps, float64."""
        return running_total(self._train, steps)

    def times(self, factor: Tensor) -> None:
        """None: it is multiplied as a tensor."""

    def moved(self, function: Callable[[Tensor], Tensor], by_sample: bool) -> None:
        """None: it is moved as a tensor."""

    def unweighed(self) -> Tensor | None:
        """None: it is spikes as they are."""
        return None

    def summed(self, dims: tuple[int, ...]) -> Tensor | None:
        """Each step summed over the positions, int32; None for other dimensions."""
        return self.fired(summed=True) if dims == (self.positions,) and "_train" not in self.__dict__ else None

    @cached_property
    def _train(self) -> Tensor:
        return self.fired(summed=False)
