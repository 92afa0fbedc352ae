"""The rule table: what each operation between activations becomes. Adding an operation is adding a row."""

from casc_core.conversion.rules import (
    affine,
    arithmetic,
    casts,
    clipping,
    convolution,
    factories,
    interpolation,
    layout,
    normalisation,
    pooling,
    population,
    products,
    reduction,
    refusals,
)
from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.layout import join
from casc_core.conversion.rules.normalisation import batch_norm
from casc_core.conversion.rules.population import grid_threshold, half_step, neurons
from casc_core.conversion.rules.refusals import UNPREPARED
from casc_core.conversion.rules.table import RULES

ROWS = (
    affine, normalisation, convolution, arithmetic, products, population, reduction, pooling, layout, casts, factories,
    refusals, clipping, interpolation,
)  # fmt: skip
"""The modules whose import fills the table."""

__all__ = ["ROWS", "RULES", "UNPREPARED", "batch_norm", "grid_threshold", "half_step", "join", "linear_map", "neurons"]
