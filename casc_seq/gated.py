"""What GRU and LSTM have in common: gates, and activations rounded to the nearest level."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from casc_seq.dense import dense
from casc_seq.layers import RecurrentLayers


def to_levels(x: Tensor, q: int | None) -> Tensor:
    """`floor(q x + 1/2)`, the nearest level of each entry; without levels, `x` as it is.

    >>> to_levels(torch.tensor([0.1, 0.4, -0.4, 1.0]), 4)
    tensor([ 0.,  2., -2.,  4.])
    """
    return x if q is None else to_levels_in_place(x * q, q)


def to_levels_in_place(levels: Tensor, q: int | None) -> Tensor:
    """The nearest whole levels, in place; without levels, as they are."""
    return levels if q is None else levels.add_(0.5).floor_()


def nearest(x: Tensor, q: int | None) -> Tensor:
    """`x`, in levels, rounded in place to the nearest, halves to the even one; without levels, as it is.

    A product of two levels lies halfway between two others often, and a state is rounded at every position: if halves were
    rounded up, states would drift.
    """
    return x if q is None else x.round_()


def before_nearest(x: Tensor, q: int) -> Tensor:
    """What `floor` takes to the level that is nearest to `x`, a multiple of 1/q; of two as near, to the even one.

    >>> before_nearest(torch.tensor([0.5, 1.5, 1.75]), 4).floor()
    tensor([0., 2., 2.])
    """
    above = x + 0.5
    return torch.where(above.floor() > x.round(), above - 0.5 / q, above)


def state_levels(state: Tensor, q: int | None, largest: int) -> Tensor:
    """An initial state in levels, no larger than `largest` units; its gradient goes straight through the rounding."""
    if q is None:
        return state
    clipped = state.clamp(-largest, largest) * q
    # Added is nothing but the gradient: the levels stay whole numbers.
    return to_levels(clipped.detach(), 1) + (clipped - clipped.detach())


class GatedLayers(RecurrentLayers):
    """Recurrent layers whose gates multiply two activations: sigmoid and tanh, with q rounded to levels."""

    @property
    def scale(self) -> int:
        """Levels for each unit of a state."""
        return 1 if self.q is None else self.q

    def as_trained(self) -> nn.Module:
        smooth = copy.deepcopy(self)
        smooth.q = None
        return smooth

    def biases(self, suffix: str) -> tuple[Tensor | None, Tensor | None]:
        """`(b_ih, b_hh)` of the cell with this suffix."""
        return (self.own("bias_ih", suffix), self.own("bias_hh", suffix)) if self.bias else (None, None)


def begin(levels: Tensor, start: Tensor, row: int, size: int, known: int, last: int, out: Tensor) -> Tensor:
    """The levels before those of a visit, the initial ones where none are known; they are written to its rows of `out`."""
    before = out[row : row + size]
    before[:known] = levels[last : last + known]
    if known < size:
        before[known:] = start[known:size]
    return before


def hidden_product(before: Tensor, weight: Tensor, bias: Tensor | None, scale: int) -> Tensor:
    """`W_h h + b_h` of a state in levels."""
    product = dense(before, weight)
    if scale != 1:
        product.div_(scale)
    return product if bias is None else product.add_(bias)
