"""Energy of multiply-accumulates and accumulates, by a table that says what one of each takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from casc_core.errors import ConfigError


@dataclass(frozen=True)
class EnergyTable:
    """What one operation takes: `E = mac * MACs + ac * ACs`.

    The defaults are for 32-bit floating point in a 45 nm process at 0.9 V: a multiplication takes 3.7 pJ and an addition
    0.9 pJ (Horowitz 2014, "Computing's Energy Problem (and what we can do about it)", ISSCC), so both together
    take 4.6 pJ. They leave out memory, which on most hardware takes more than the arithmetic.

    Args:
        mac: pJ of a multiply-accumulate.
        ac: pJ of an accumulate.
        name, source: what to call it, and where it is from.

    Raises:
        ConfigError: a figure is negative or no finite number.

    >>> EnergyTable().picojoules(macs=10.0, acs=100.0)
    136.0
    >>> EnergyTable(mac=0.23, ac=0.03, name="8-bit integers", source="ours").picojoules(100.0, 100.0)
    26.0
    """

    mac: float = 4.6
    ac: float = 0.9
    name: str = "45 nm, 32-bit floating point"
    source: str = "Horowitz 2014, Computing's Energy Problem (and what we can do about it), ISSCC"

    def __post_init__(self) -> None:
        for what, value in (("mac", self.mac), ("ac", self.ac)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
                raise ConfigError(f"EnergyTable: {what}, in pJ, must be a finite number of at least 0; got {value!r}")

    @overload
    def picojoules(self, macs: float, acs: float) -> float: ...
    @overload
    def picojoules(self, macs: Tensor, acs: Tensor) -> Tensor: ...
    def picojoules(self, macs: float | Tensor, acs: float | Tensor) -> float | Tensor:
        """Energy of this many operations, in pJ: numbers, or tensors of one shape."""
        return self.mac * macs + self.ac * acs
