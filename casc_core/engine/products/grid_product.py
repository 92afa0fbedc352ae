"""Products of real-valued input with weights where both are on grids, as `casc_core.Exact` has them: exact, then rounded to
the grid of a drive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from casc_core.engine.products.exact_sums import exact_product, is_exact_in_one
from casc_core.engine.products.input_product import InputProduct
from casc_core.numerics import Numerics


class Grids(NamedTuple):
    """Exponents of the grids that inputs and weights are on, and of the one that their product is rounded to."""

    inputs: int
    weights: int
    product: int


@dataclass(frozen=True)
class GridProduct(InputProduct):
    """A drive: the product, rounded to its grid, and a bias; neurons may round it again, to theirs.

    Attributes:
        numerics: of the run. name: that an error gives.
    """

    grids: Grids
    numerics: Numerics
    name: str

    @cached_property
    def _values(self) -> Tensor:
        product = exact_product(self.numerics, self.x, self.weights.whole, *self.grids[:2], self.name, self.sums)
        return self._shaped(self._biased(self.numerics.drive(product, self.grids.product)))

    @cached_property
    def reach(self) -> float:
        return super().reach + math.ldexp(0.5, self.grids.product)

    @property
    def product_exponent(self) -> int:
        return self.grids.product

    def is_decided(self, exponent: int) -> bool:
        return is_exact_in_one(self.largest_input, self.weights.whole, sum(self.grids[:2]))

    def _rounded(self, exponent: int, most: float) -> None:
        """None: its values are rounded, not what they are sums of."""

    def _rest(self) -> tuple[int, float]:
        """The exponent of the inputs' grid, so that nothing is left of them: the sums in one part are exact."""
        return self.grids.inputs, 0.0
