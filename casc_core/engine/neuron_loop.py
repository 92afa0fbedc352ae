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

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Tensor | float, potential: Tensor | None) -> None:
        self.neuron, self.threshold, self.steps = neuron, threshold, 0
        self.state: NeuronState = neuron.initial(torch.zeros_like(like), threshold)
        if potential is not None:
            self.state = self.state._replace(v=potential.expand(like.shape).clone())
        self.start = self.state

    def step(self, current: Tensor, cap: int) -> Tensor:
        if self.steps == self.neuron.restarts_after:
            self.state = self.neuron.restarted(self.state, self.start)
        self.steps += 1
        spikes, self.state = self.neuron.step(self.state, current, cap, self.threshold)
        small: Tensor = spikes.to(torch.int8)
        return small


class _FusedScan:
    """IF and CIF in place: no temporary but the two comparisons."""

    def __init__(self, neuron: Neuron, like: Tensor, threshold: Tensor | float, potential: Tensor | None) -> None:
        self.signed, self.threshold = isinstance(neuron, CIF), threshold
        self.v = torch.zeros_like(like)
        if potential is not None:
            self.v += potential
        elif neuron.initial_potential:
            self.v += neuron.initial_potential * threshold
        self.count = torch.zeros_like(like, dtype=torch.int16)  # no cap is larger than `run.LARGEST_TOTAL`

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


def scan(neuron: Neuron, like: Tensor, threshold: Tensor | float, potential: Tensor | None = None) -> Scan:
    """The fastest scan for this neuron; `like` gives the population's shape and the type of its potential.

    Args:
        potential: membrane potential before the first step, broadcasts against `like`; None: the neuron's own.
    """
    kind = _FusedScan if type(neuron) in (IF, CIF) else _GenericScan
    return kind(neuron, like, threshold, potential)
