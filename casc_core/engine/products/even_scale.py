"""Powers of two by which a population's channels get about the same reach, so that one grid is fine for each of them.

A population may multiply all that a neuron receives, and its threshold, by the same power of two: nothing changes. Channels
that hardly ever spike often have weights many times their threshold; without this, they decide how coarsely the others'
weights are rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The sum that reaches a neuron is seldom smaller than this part of what its weights could make it.
_USUAL = 2.0**-5


@dataclass(frozen=True)
class EvenScale:
    """By what the numbers of each channel are multiplied.

    Attributes:
        factors: `[channels]` float64, powers of two, at most 1.
        finer: the powers of two are at least `2**-finer`.
        narrows: by which power of two the largest reach gets smaller.
        size: the smallest sum, or threshold, that matters to a neuron, once multiplied.
    """

    factors: Tensor
    finer: int
    narrows: int
    size: float

    @property
    def key(self) -> bytes:
        """What tells it from others."""
        return self.factors.numpy().tobytes()


def even_scale(currents: Tensor, begins: Tensor | None, thresholds: Tensor, most: int) -> EvenScale:
    """Of a population's channels.

    Args:
        currents: `[channels]`, the most that its terms could send to each at once.
        begins: `[channels]`, the largest drive and potential; None: not known by channel, so all channels stay as they are.
        thresholds: `[channels]`.
        most: the largest `finer` that there may be.

    >>> even_scale(torch.tensor([1.0, 6.0]), torch.zeros(2), torch.tensor([1.0, 2.0]), most=10)
    EvenScale(factors=tensor([1.0000, 0.2500]), finer=2, narrows=2, size=0.5)
    """
    factors, finer, narrows = torch.ones_like(thresholds), 0, 0
    if begins is not None and most > 0:
        reach = currents + begins + thresholds
        powers = torch.frexp(reach).exponent
        powers = (powers - powers.min()).clamp_(max=most)
        factors, finer = torch.ldexp(factors, -powers), int(powers.max())
        narrows = math.frexp(float(reach.max() / (reach * factors).max()))[1] - 1
    size = float(torch.maximum(thresholds, currents * _USUAL).mul(factors).min())
    return EvenScale(factors, finer, narrows, size)
