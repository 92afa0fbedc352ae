"""A product at the readout, where no neuron compares it: taken of spike totals, and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.products.exact_sums import exact_sum
from casc_core.engine.signal import running_total


@dataclass(frozen=True)
class TotalProduct:
    """`train @ weight.T`, of weights too fine for exact currents: a `casc_core.engine.signal.LazyTrain`.

    What was received so far is exact, and so is the product with it but for one rounding. The same totals give the same
    bits, whatever the steps in which they came. Each step's currents by themselves would not add up to them.

    Attributes:
        weight: `[outputs, inputs]`.
        limbs: its `weight_limbs`, made where they are needed.
        refuse: raises the `ExactnessError` for what reads the currents by themselves.
    """

    received: Tensor
    weight: Tensor
    limbs: Callable[[], Sequence[Tensor]]
    refuse: Callable[[], torch.dtype]

    @property
    def shape(self) -> torch.Size:
        """`[steps, *shape]`."""
        return torch.Size([*self.received.shape[:-1], len(self.weight)])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.received.device

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds on to."""
        return self.received.nbytes

    def tensor(self) -> Tensor:
        """Refused: no type holds the currents of each step."""
        return F.linear(self.received.to(self.refuse()), self.weight)

    def total(self) -> Tensor:
        """The product with all that was received, float64."""
        return self._of(self.received.sum(0, dtype=torch.float64))

    def running(self, steps: int) -> Tensor:
        """The product with all that was received until each of so many steps, float64."""
        return self._of(running_total(self.received, steps))

    def _of(self, totals: Tensor) -> Tensor:
        return exact_sum(totals, self._limbs, F.linear)

    @cached_property
    def _limbs(self) -> Sequence[Tensor]:
        return self.limbs()
