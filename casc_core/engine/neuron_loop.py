"""The loop over time of a population of any neuron, in torch. Equal to `Neuron.run` bit for bit."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from casc_core.neuron import CIF, IF, LevelThresholds, Neuron, NeuronState, reset

Threshold = Tensor | float | LevelThresholds


class Scan(Protocol):
    """A population advancing step by step."""

    state: NeuronState

    def step(self, current: Tensor, cap: int) -> Tensor:
        """Integrate `current` and return the spikes, int8."""


class _PlainScan:
    """A neuron with a step of its own."""

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Threshold, potential: Tensor | None) -> None:
        self.neuron, self.threshold = neuron, threshold
        self.state = neuron.initial(torch.zeros_like(like), threshold, potential)

    def step(self, current: Tensor, cap: int) -> Tensor:
        spikes, self.state = self.neuron.step(self.state, current, cap, self.threshold)
        return _small(spikes)


class _InPlaceScan:
    """A neuron that says when it spikes, and no more: `Neuron.step` with the state changed in place."""

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Threshold, potential: Tensor | None) -> None:
        self.neuron, self.threshold = neuron, threshold
        # No count is larger than `run.LARGEST_TOTAL`; another neuron may add to it.
        kind = torch.int16 if type(neuron) in (IF, CIF) else torch.int32
        count = torch.zeros_like(like, dtype=kind)
        self.state = NeuronState(neuron.initial(torch.zeros_like(like), threshold, potential).v, count)

    def step(self, current: Tensor, cap: int) -> Tensor:
        v, count, _ = self.state
        v += current
        up, down = self.neuron.fire(self.state, cap, self.threshold)
        spikes = _small(up) if down is None else _small(up) - _small(down)
        if isinstance(self.threshold, float):
            v.sub_(spikes, alpha=self.threshold)
        else:
            v -= reset(self.threshold, count, spikes)
        count += spikes
        return spikes


def _small(spikes: Tensor) -> Tensor:
    return spikes.view(torch.int8) if spikes.dtype == torch.bool else spikes.to(torch.int8)


def scan(neuron: Neuron, like: Tensor, threshold: Threshold, potential: Tensor | None = None) -> Scan:
    """The fastest scan for this neuron; `like` gives the population's shape and the type of its potential.

    Args:
        threshold: a number, one for each neuron, or one for each level, of the type of the potential.
        potential: membrane potential before the first step, broadcasts against `like`; None: the neuron's own.
    """
    kind = type(neuron)
    as_written = kind.step is Neuron.step and kind.initial is Neuron.initial
    return (_InPlaceScan if as_written else _PlainScan)(neuron, like, threshold, potential)
