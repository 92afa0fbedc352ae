"""The result of a simulation in spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.program import READOUT, Program, Readout, Ref
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.work import Work
from casc_core.engine.spiking_run import SpikingRun
from casc_core.engine.structure import holding
from casc_core.reporting.series import last_repeated, zero_padded
from casc_core.reporting.summaries import Summarised


@dataclass(frozen=True, repr=False)
class LayerSpikes(Summarised):
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
        train: `[T, batch, ...]` int8, the spikes of each neuron at each step, +1 and -1; None: they are not recorded.
        potentials: `[T, batch, ...]` float64, the membrane potential of each neuron after each step, in the unit of the
            threshold; None: they are not recorded. Where a mean over each sample's own length drives neurons, potential and
            threshold are times that length; where each level has a threshold of its own, it is what has been received less
            the threshold of the count (`LevelThresholds`).
    """

    positive: Tensor
    negative: Tensor
    operations: Tensor
    multiplications: Tensor
    ann_multiplications: float
    neurons: int
    silent_at: Tensor
    train: Tensor | None = None
    potentials: Tensor | None = None


@dataclass(frozen=True, repr=False)
class Simulation:
    """A run in spikes.

    Attributes:
        outputs: the readout after each step `[T, batch, ...]`: the output layer's currents summed over all steps so far,
            over the wake steps so far. Of a network with several outputs, each in its place in what the model's forward
            returns; one that the inputs alone decide is the same at each step.
        silent_at: `[batch]`, the last step at which anything spiked in that sample; 0 if nothing ever did.
        spikes: by layer.
        readout_operations, readout_multiplications: `[T]`, what reached the readouts, counted as a layer's.
        readout_ann_multiplications: those of the ANN in front of its readouts.
        T: the steps simulated.
    """

    outputs: Any
    silent_at: Tensor
    spikes: dict[str, LayerSpikes]
    readout_operations: Tensor
    readout_multiplications: Tensor
    readout_ann_multiplications: float

    @property
    def T(self) -> int:
        return len(self.readout_operations)

    @property
    def logits(self) -> Tensor:
        """The outputs; of a network that returns one tensor, `[T, batch, classes]`."""
        logits: Tensor = self.outputs
        return logits

    def __repr__(self) -> str:
        total = sum(int(layer.positive.sum() + layer.negative.sum()) for layer in self.spikes.values())
        single = isinstance(self.outputs, Tensor)
        said = (
            f"logits {'x'.join(map(str, self.outputs.shape))}"
            if single
            else f"outputs in a {type(self.outputs).__name__}"
        )
        last = int(self.silent_at.max()) if self.silent_at.numel() else 0
        return f"Simulation(T={self.T}, {said}, {total:,} spikes in {len(self.spikes)} layers, last at step {last})"


def join_simulations(parts: Iterable[Simulation], join: Callable[[Iterable[Any]], Any]) -> Simulation:
    """The simulation of a batch from those of its parts, in order.

    Args:
        parts: made one by one, so that a large result is held once: the outputs of each are let go in their place.
        join: puts outputs of the parts together.
    """
    small: list[Simulation] = []

    def outputs_of_parts() -> Iterator[Any]:
        for part in parts:
            small.append(replace(part, outputs=None))
            yield part.outputs

    outputs = join(outputs_of_parts())
    if len(small) == 1:
        return replace(small[0], outputs=outputs)
    steps = max(part.T for part in small)
    return Simulation(
        outputs,
        torch.cat([part.silent_at for part in small]),
        {name: _join_layers([part.spikes[name] for part in small], steps) for name in small[0].spikes},
        _summed([part.readout_operations for part in small], steps),
        _summed([part.readout_multiplications for part in small], steps),
        sum(part.readout_ann_multiplications for part in small),
    )


def _join_layers(parts: Sequence[LayerSpikes], steps: int) -> LayerSpikes:
    return LayerSpikes(
        _summed([part.positive for part in parts], steps),
        _summed([part.negative for part in parts], steps),
        _summed([part.operations for part in parts], steps),
        _summed([part.multiplications for part in parts], steps),
        sum(part.ann_multiplications for part in parts),
        sum(part.neurons for part in parts),
        torch.cat([part.silent_at for part in parts]),
    )


def _summed(counts: Sequence[Tensor], steps: int) -> Tensor:
    return torch.stack([zero_padded(each, steps) for each in counts]).sum(0)


def simulation_of(run: SpikingRun, recorder: Recorder, program: Program, outputs: Sequence[Any]) -> Simulation:
    """What a recorded run gave; its outputs are a list, by number.

    Args:
        outputs: of the program; of readouts, what they say after each step until they stay as they are.
    """
    silent = torch.zeros(recorder.samples, dtype=torch.int64)
    for last in recorder.last_spike.values():
        silent = torch.maximum(silent, last)
    length = run.steps or max(len(run.awake), int(silent.max()))
    over_time = [
        last_repeated(output, length) if isinstance(readout, Readout) else output
        for output, readout in zip(outputs, program.outputs, strict=True)
    ]
    awake = run.wake_weights(length)
    at_readout = operations_by_step(recorder.work.get(READOUT, Work()), awake, length)
    return Simulation(over_time, silent, layer_spikes(recorder, awake, length), *at_readout)


def in_structure(program: Program, simulation: Simulation) -> Simulation:
    """A simulation whose outputs stand where the model's forward has them; those that the inputs decide, at each step."""
    outputs = [
        output.expand(simulation.T, *output.shape)
        if isinstance(readout, Ref) and isinstance(output, Tensor)
        else output
        for output, readout in zip(simulation.outputs, program.outputs, strict=True)
    ]
    return replace(simulation, outputs=holding(program.structure, outputs))


def layer_spikes(recorder: Recorder, awake: Sequence[int], steps: int) -> dict[str, LayerSpikes]:
    """What `recorder` holds, by layer, over `steps` steps, of which these are `awake` (1) or not (0)."""
    layers = {}
    for name, positive in recorder.positive.items():
        operations, multiplications, dense = operations_by_step(recorder.work.get(name, Work()), awake, steps)
        layers[name] = LayerSpikes(
            zero_padded(positive, steps),
            zero_padded(recorder.negative[name], steps),
            operations,
            multiplications,
            dense,
            recorder.neurons[name],
            recorder.last_spike[name],
            zero_padded(recorder.trains[name], steps).to(torch.int8) if recorder.keep_trains else None,
            last_repeated(recorder.potentials[name], steps) if recorder.keep_potentials else None,
        )
    return layers


def operations_by_step(work: Work, awake: Sequence[int], steps: int) -> tuple[Tensor, Tensor, float]:
    """Accumulates and multiply-accumulates at each of `steps` steps, `[steps]` each, and those of the ANN."""
    at_wake = zero_padded(torch.tensor(awake, dtype=torch.float64), steps) * work.awake
    return zero_padded(work.accumulates, steps), zero_padded(work.multiplies, steps) + at_wake, work.dense
