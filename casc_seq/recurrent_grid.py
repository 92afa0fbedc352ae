"""The grids of recurrent weights and of what neurons receive beside them."""

from __future__ import annotations

from torch import Tensor

from casc_core.extend import SignalNode, Snapping
from casc_core.numerics import AsTrained


def recurrent_grid(snapping: Snapping, x: SignalNode, weight: Tensor, recurrent: Tensor) -> tuple[int, int]:
    """Exponents of the grids of recurrent weights, and of what the neurons receive beside them of `x` by these weights."""
    numerics, form = snapping.numerics, snapping.of(x).form
    exponent = own = numerics.weight_exponent(recurrent)
    if form.exponent is not None and not (isinstance(numerics, AsTrained) and x.is_fine):
        arriving = form.exponent + numerics.weight_exponent(weight * form.factor, arriving=form.exponent)
        # Weights that read whole spikes may give up bits that the recurrence has not; those on a finer grid may not.
        exponent = max(exponent, arriving) if form.exponent >= 0 else min(exponent, arriving)
    return own, exponent
