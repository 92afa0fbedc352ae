"""What a simulation in spikes leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.run import Recorder


@dataclass(frozen=True)
class LayerSpikes:
    """One layer's activity, over the whole batch. `[T]` each.

    Attributes:
        positive, negative: how many +1 and -1 spikes it emitted at each step.
        operations: accumulate operations of the spikes that reached it at each step, by linear maps or its own
            recurrence: one for each spike and synapse. Spikes that a sum over tokens merged before count as their sum.
        neurons: its neurons, of all samples (and all real token positions).
        silent_at: `[batch]`, the last step at which it spiked in each sample; 0 if never.
    """

    positive: Tensor
    negative: Tensor
    operations: Tensor
    neurons: int
    silent_at: Tensor


@dataclass(frozen=True)
class Simulation:
    """A run in spikes.

    Attributes:
        logits: `[T, batch, classes]`, the readout after each step: the output layer's currents summed over all steps so
            far, over the wake steps so far.
        silent_at: `[batch]`, the last step at which anything spiked in that sample; 0 if nothing ever did.
        spikes: by layer.
        readout_operations: `[T]`, accumulate operations of the spikes that reached the readout.
        T: the steps simulated.
    """

    logits: Tensor
    silent_at: Tensor
    spikes: dict[str, LayerSpikes]
    readout_operations: Tensor

    @property
    def T(self) -> int:
        return int(self.logits.shape[0])

    def __repr__(self) -> str:
        total = sum(int(layer.positive.sum() + layer.negative.sum()) for layer in self.spikes.values())
        shape = "x".join(map(str, self.logits.shape))
        last = int(self.silent_at.max()) if self.silent_at.numel() else 0
        return f"Simulation(T={self.T}, logits {shape}, {total:,} spikes in {len(self.spikes)} layers, last at step {last})"


def joined(parts: Sequence[Simulation]) -> Simulation:
    """The simulation of a batch from those of its parts, in order."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.T for part in parts)
    # A part that was silent earlier stays as it was.
    last = [part.logits[-1:].expand(length - part.T, *part.logits.shape[1:]) for part in parts]
    logits = [torch.cat([part.logits, rest]) for part, rest in zip(parts, last, strict=True)]
    layers = {}
    for name in parts[0].spikes:
        own = [part.spikes[name] for part in parts]
        layers[name] = LayerSpikes(
            _summed([layer.positive for layer in own], length),
            _summed([layer.negative for layer in own], length),
            _summed([layer.operations for layer in own], length),
            sum(layer.neurons for layer in own),
            torch.cat([layer.silent_at for layer in own]),
        )
    at_readout = _summed([part.readout_operations for part in parts], length)
    return Simulation(torch.cat(logits, 1), torch.cat([part.silent_at for part in parts]), layers, at_readout)


def _summed(trains: list[Tensor], length: int) -> Tensor:
    return torch.stack([fitted(train, length) for train in trains]).sum(0)


def activity(recorder: Recorder, steps: int) -> dict[str, LayerSpikes]:
    """What `recorder` holds, by layer, over `steps` steps."""
    return {
        name: LayerSpikes(
            fitted(positive, steps),
            fitted(recorder.negative[name], steps),
            fitted(recorder.operations[name], steps),
            recorder.neurons[name],
            recorder.last_spike[name],
        )
        for name, positive in recorder.positive.items()
    }


def fitted(train: Tensor, steps: int) -> Tensor:
    """`train` `[...]` cut or filled with zeros to `steps`."""
    return train[:steps] if len(train) >= steps else torch.cat([train, train.new_zeros(steps - len(train))])
