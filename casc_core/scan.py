"""The neuron's loop over time for torch, fused: in place, spikes stored as int8. Equal to `Neuron.run` bit for bit."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from casc_core.neuron import CIF, IF, Neuron, NeuronState


class Scan(Protocol):
    """A population advancing step by step."""

    def step(self, current: Tensor, cap: int) -> Tensor:
        """Integrate `current` and return the spikes, int8."""


class _GenericScan:
    """Any neuron, by its pure step."""

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Tensor | float) -> None:
        self.neuron, self.threshold = neuron, threshold
        self.state: NeuronState = neuron.initial(like)

    def step(self, current: Tensor, cap: int) -> Tensor:
        spikes, self.state = self.neuron.step(self.state, current, cap, self.threshold)
        small: Tensor = spikes.to(torch.int8)
        return small


class _FusedScan:
    """IF and CIF in place: no temporary but the two comparisons."""

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Tensor | float) -> None:
        self.signed, self.threshold = isinstance(neuron, CIF), threshold
        self.v = torch.zeros_like(like)
        self.count = torch.zeros_like(like, dtype=torch.int16)

    def step(self, current: Tensor, cap: int) -> Tensor:
        self.v += current
        spikes = (self.v >= self.threshold).logical_and_(self.count < cap).view(torch.int8)
        if self.signed:
            spikes -= (self.v < 0).logical_and_(self.count > 0).view(torch.int8)
        self.count += spikes
        if isinstance(self.threshold, Tensor):
            self.v -= spikes * self.threshold
        else:
            self.v.sub_(spikes, alpha=self.threshold)
        return spikes


def scan(neuron: Neuron, like: Tensor, threshold: Tensor | float) -> Scan:
    """The fastest scan for this neuron; `like` gives the population's shape and the type of its potential."""
    kind = _FusedScan if type(neuron) in (IF, CIF) else _GenericScan
    return kind(neuron, like, threshold)
