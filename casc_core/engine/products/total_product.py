"""Products of totals: a running function, where the currents of each step by themselves would not be exact.

What has been received so far is exact, and so is the product with it but for one rounding. The same totals give the same
bits, whatever the steps in which they came. What travels on is how much the rounded product has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine.signal import Signal


@dataclass(frozen=True)
class TotalProduct:
    """A product of the running totals of a signal's train: a `casc_core.engine.signal.LazyTrain`.

    Attributes:
        received: the signal, its totals exact in float64.
        product: of totals `[n, *received.shape]`, float64 `[n, *size]`: rounded, each of the n alike, 0 for 0.
        size: shape of the result.
        refuse: raises the `ExactnessError` for what reads differences, where the product is on no grid; None: it is on one.
    """

    received: Signal
    product: Callable[[Tensor], Tensor]
    size: torch.Size
    refuse: Callable[[], object] | None = None

    @property
    def shape(self) -> torch.Size:
        """`[steps, *shape]`."""
        return torch.Size([self.received.steps, *self.size])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.received.device

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds on to."""
        return self.received.nbytes

    def tensor(self) -> Tensor:
        """What changes at each step.

        Raises:
            ExactnessError: no type holds that.
        """
        if self.refuse is not None:
            self.refuse()
        return self._differences

    def total(self) -> Tensor:
        """The product with all that was received, float64."""
        return self.product(self.received.total.unsqueeze(0))[0]

    def running(self, steps: int) -> Tensor:
        """The product with all that was received until each of so many steps, float64."""
        if not steps:
            return torch.zeros((0, *self.size), dtype=torch.float64, device=self.device)
        return self.product(self.received.running(steps))

    def times(self, factor: Tensor) -> None:
        """None: its numbers are rounded first."""

    def moved(self, function: Callable[[Tensor], Tensor], by_sample: bool) -> None:
        """None: it is moved as a tensor."""

    def unweighed(self) -> Tensor | None:
        """None: it is numbers."""
        return None

    def summed(self, dims: tuple[int, ...]) -> Tensor | None:
        """None: its sums come from the whole."""
        return None

    @cached_property
    def _differences(self) -> Tensor:
        running = self.running(self.received.steps)
        running[1:] -= running[:-1].clone()
        return running
