"""What is counted of a layer's spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.batching.places import Axis, Samples


@dataclass(frozen=True)
class LayerTrain:
    """The spikes of a population, as it emitted them in a run.

    Attributes:
        layer: its name.
        train: `[steps, *shape]`.
        position_axis: the dimension of `shape` that counts tokens, in a recurrent layer; None: it is none.
        lengths: of the texts, `[batch]`; None: all are full.
        potential: the membrane potential after each step `[steps, *shape]`; None: it is not recorded.
    """

    layer: str
    train: Tensor
    position_axis: int | None = None
    lengths: Tensor | None = None
    potential: Tensor | None = None

    @property
    def neurons(self) -> int:
        """How many there are, padded positions left out."""
        shape = self.train.shape[1:]
        if self.lengths is None or self.position_axis is None:
            return shape.numel()
        return int(self.lengths.sum()) * shape.numel() // (len(self.lengths) * shape[self.position_axis])

    @property
    def share(self) -> float:
        """Of all entries, those that are no padding."""
        return self.neurons / self.train.shape[1:].numel()


class Rows(NamedTuple):
    """How many spikes each row of a train has: `counts` `[steps, ...]`, summed over `dim`, counted from the end."""

    counts: Tensor
    dim: int


def last_spike(train: Tensor, where: Samples, samples: int) -> Tensor:
    """`[samples]`: the last step, from 1, at which any element of each sample is not zero; 0 where there is none.

    Where an element is not known to be of one sample, it is of all.

    >>> last_spike(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0]]), Axis(0), 3)
    tensor([1, 0, 2])
    """
    spiking = train != 0
    if isinstance(where, Axis):
        others = [dim for dim in range(1, train.dim()) if dim != where.dim + 1]
        active = spiking.any(others) if others else spiking
        active = active.unflatten(1, (-1, samples, where.inner)).any((1, 3))
    else:
        active = spiking.flatten(1).any(1, keepdim=True).expand(-1, samples) if train.dim() > 1 else spiking[:, None]
    step = torch.arange(1, len(train) + 1, device=train.device)[:, None]
    return (active * step).amax(0) if len(train) else step.new_zeros(samples)


class SignedCounts(NamedTuple):
    """How many spikes of each sign each block of a train has, and of both signs each row, its last dimension; int32."""

    positive: Tensor
    negative: Tensor
    in_rows: Tensor


def signed_counts(train: Tensor, peak: int, dims: int = 1) -> SignedCounts:
    """Those of a train, in blocks of its last `dims` dimensions; each entry of what has no others is one.

    Args:
        peak: the most spikes in one entry.

    >>> signed_counts(torch.tensor([[1, 0, 1], [-1, 1, 0]], dtype=torch.int8), peak=1)[:2]
    (tensor([2, 1], dtype=torch.int32), tensor([0, 1], dtype=torch.int32))
    """
    if train.dim() == 1:
        positive, negative = train.clamp(min=0).int(), (-train).clamp_(min=0).int()
        return SignedCounts(positive, negative, positive + negative)
    if peak == 1 and train.dtype == torch.int8 and kernels.ready(train):
        return SignedCounts(*kernels.tally(train, dims))
    # int32 holds them for rows of up to 2**24 neurons of 127 spikes each
    summed = (train.clamp(min=0), (-train).clamp_(min=0)) if peak > 1 else (train > 0, train < 0)
    positive, negative = (each.sum(-1, dtype=torch.int32) for each in summed)
    in_blocks = (
        each.flatten(1 - dims).sum(-1, dtype=torch.int32) if dims > 1 else each for each in (positive, negative)
    )
    return SignedCounts(next(in_blocks), next(in_blocks), positive + negative)


def by_step(counts: Tensor) -> Tensor:
    """`[steps]`: the sum of each step, float64, which is exact for counts, on the CPU."""
    return counts.reshape(len(counts), math.prod(counts.shape[1:])).sum(1, dtype=torch.float64).cpu()
