"""What a simulation in spikes leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.recorder import Recorder
from casc_core.engine.work import Work


@dataclass(frozen=True)
class LayerSpikes:
    """One layer's activity, over the whole batch. `[T]` each.

    Attributes:
        positive, negative: how many +1 and -1 spikes it emitted at each step.
        operations: accumulates at each step of what reached it by linear maps, shortcuts or its own recurrence: one for
            each spike and synapse, with the true fan-out at borders, strides, groups and padding. Every spike counts,
            also where two cancel; a spike that goes through a sum first goes through the synapses behind it.
        multiplications: multiply-accumulates at each step: at wake steps one for each real-valued input and synapse (also
            where the simulator looks the product up in a table) and one for each bias; at any step those of currents that
            pass a second linear map.
        ann_multiplications: those of the ANN in front of this layer: one for each weight and position.
        neurons: its neurons, of all samples (and all real token positions).
        silent_at: `[batch]`, the last step at which it spiked in each sample; 0 if never.
    """

    positive: Tensor
    negative: Tensor
    operations: Tensor
    multiplications: Tensor
    ann_multiplications: float
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
        readout_operations, readout_multiplications: `[T]`, what reached the readout, counted as a layer's.
        readout_ann_multiplications: those of the ANN in front of its readout.
        T: the steps simulated.
    """

    logits: Tensor
    silent_at: Tensor
    spikes: dict[str, LayerSpikes]
    readout_operations: Tensor
    readout_multiplications: Tensor
    readout_ann_multiplications: float

    @property
    def T(self) -> int:
        return int(self.logits.shape[0])

    def __repr__(self) -> str:
        total = sum(int(layer.positive.sum() + layer.negative.sum()) for layer in self.spikes.values())
        shape = "x".join(map(str, self.logits.shape))
        last = int(self.silent_at.max()) if self.silent_at.numel() else 0
        return f"Simulation(T={self.T}, logits {shape}, {total:,} spikes in {len(self.spikes)} layers, last at step {last})"


def joined(parts: Sequence[Simulation], join: Callable[[Sequence[Tensor], int], Tensor]) -> Simulation:
    """The simulation of a batch from those of its parts, in order.

    Args:
        join: puts outputs of the parts together, before whose own dimensions stand so many.
    """
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
            _summed([layer.multiplications for layer in own], length),
            sum(layer.ann_multiplications for layer in own),
            sum(layer.neurons for layer in own),
            torch.cat([layer.silent_at for layer in own]),
        )
    return Simulation(
        join(logits, 1),
        torch.cat([part.silent_at for part in parts]),
        layers,
        _summed([part.readout_operations for part in parts], length),
        _summed([part.readout_multiplications for part in parts], length),
        sum(part.readout_ann_multiplications for part in parts),
    )


def _summed(trains: list[Tensor], length: int) -> Tensor:
    return torch.stack([fitted(train, length) for train in trains]).sum(0)


def activity(recorder: Recorder, awake: Sequence[int], steps: int) -> dict[str, LayerSpikes]:
    """What `recorder` holds, by layer, over `steps` steps, of which these are `awake` (1) or not (0)."""
    layers = {}
    for name, positive in recorder.positive.items():
        operations, multiplications, dense = worked(recorder.work.get(name, Work()), awake, steps)
        layers[name] = LayerSpikes(
            fitted(positive, steps),
            fitted(recorder.negative[name], steps),
            operations,
            multiplications,
            dense,
            recorder.neurons[name],
            recorder.last_spike[name],
        )
    return layers


def worked(work: Work, awake: Sequence[int], steps: int) -> tuple[Tensor, Tensor, float]:
    """Accumulates and multiply-accumulates at each of `steps` steps, `[steps]` each, and those of the ANN."""
    at_wake = fitted(torch.tensor(awake, dtype=torch.float64), steps) * work.awake
    return fitted(work.accumulates, steps), fitted(work.multiplies, steps) + at_wake, work.dense


def fitted(train: Tensor, steps: int) -> Tensor:
    """`train` `[...]` cut or filled with zeros to `steps`."""
    return train[:steps] if len(train) >= steps else torch.cat([train, train.new_zeros(steps - len(train))])


def equal_from(readouts: Tensor, expected: Tensor) -> Tensor:
    """`[samples]`: the first step, from 1, from which on readouts `[T, samples, ...]` are as expected; 0: not at the end.

    >>> equal_from(torch.tensor([[[1.0], [0.0]], [[2.0], [2.0]], [[2.0], [5.0]]]), torch.tensor([[2.0], [2.0]]))
    tensor([2, 0])
    """
    differs = (readouts != expected).reshape(*readouts.shape[:2], -1).any(-1)
    after_last = torch.where(differs, torch.arange(2, len(readouts) + 2)[:, None], 1).amax(0)
    return torch.where(after_last > len(readouts), 0, after_last)
