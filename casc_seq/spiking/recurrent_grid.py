"""The grids of recurrent weights and of what neurons receive beside them."""

from __future__ import annotations

from torch import Tensor

from casc_core.extend import SignalNode, Snapping
from casc_core.numerics import AsTrained


def recurrent_grid(
    snapping: Snapping, x: SignalNode, weight: Tensor, recurrent: Tensor, start: tuple[SignalNode, Tensor] | None = None
) -> tuple[int, int]:
    """Exponents of the grids of recurrent weights, and of what the neurons receive beside them of `x` by these weights.

    Args:
        start: an initial state, and the weights that read it; None: there is none.
    """
    exponent = own = snapping.numerics.weight_exponent(recurrent)
    arriving = _arriving(snapping, x, weight)
    # Weights that read whole spikes may give up bits that the recurrence has not; those on a finer grid may not.
    if arriving is not None:
        exponent = min(exponent, arriving) if _is_finer(snapping, x) else max(exponent, arriving)
    if start is not None and _is_finer(snapping, start[0]):
        arriving = _arriving(snapping, *start)
        exponent = exponent if arriving is None else min(exponent, arriving)
    return own, exponent


def _arriving(snapping: Snapping, x: SignalNode, weight: Tensor) -> int | None:
    """The grid on which a weight's own bits put what the spikes of `x` bring; None: nothing, or what there is room for."""
    numerics, form = snapping.numerics, snapping.of(x).form
    if form.exponent is None or (isinstance(numerics, AsTrained) and x.is_fine):
        return None
    return form.exponent + numerics.weight_exponent(weight * form.factor, arriving=form.exponent)


def _is_finer(snapping: Snapping, x: SignalNode) -> bool:
    """Whether a signal is on a finer grid than that of whole spikes."""
    exponent = snapping.of(x).form.exponent
    return exponent is not None and exponent < 0
