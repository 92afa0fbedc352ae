"""What a run keeps beside its output, layer by layer: spikes, operations, and how far counts are from the reference's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.agreement import Agreement
from casc_core.engine.batching.places import Axis, Samples
from casc_core.engine.signal import Signal, add_trains, memory_order


@dataclass
class Work:
    """What linear maps do for all samples of a batch.

    Attributes:
        accumulates: `[steps]` float64, one for each spike and synapse.
        multiplies: `[steps]` float64, multiply-accumulates of currents that go through a second linear map before they
            reach neurons.
        awake: multiply-accumulates at each wake step: of real-valued inputs, and one for each bias.
        dense: multiply-accumulates of the ANN.
    """

    accumulates: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    multiplies: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    awake: float = 0.0
    dense: float = 0.0

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(
            add_trains(self.accumulates, other.accumulates),
            add_trains(self.multiplies, other.multiplies),
            self.awake + other.awake,
            self.dense + other.dense,
        )

    def times(self, share: float) -> Work:
        """The same with a share of what does not depend on spikes: that of real positions among padded ones."""
        return Work(self.accumulates, self.multiplies, self.awake * share, self.dense * share)


@dataclass
class Recorder:
    """What a run keeps beside its output, by layer.

    `counts`: every neuron's spike count, if `keep_counts`. `positive`, `negative`: how many spikes of each sign at each
    step; `work`; `neurons`; `last_spike`: `[samples]`, the last step (from 1) at which the layer spiked in each sample;
    these if `keep_activity`. `trains`, if `keep_trains`.

    Attributes:
        bursts: neurons may emit several spikes in one step.
        samples, whose: how many samples there are, and where they are in each layer, by the step that gives it.
        at: the step of the program that runs, under whose name operations are noted until a layer or the readout is
            reached, to which they are credited.
    """

    keep_counts: bool = False
    keep_activity: bool = False
    keep_trains: bool = False
    agreement_with: Agreement | None = None
    bursts: bool = False
    samples: int = 1
    whose: Mapping[str, Samples] = field(default_factory=dict)
    at: str = ""
    share: float = 1.0
    counts: dict[str, Tensor] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    positive: dict[str, Tensor] = field(default_factory=dict)
    negative: dict[str, Tensor] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    last_spike: dict[str, Tensor] = field(default_factory=dict)
    trains: dict[str, Tensor] = field(default_factory=dict)

    def spikes(
        self,
        name: str,
        spikes: Signal,
        neurons: int | None = None,
        tallied: tuple[Tensor, Tensor] | None = None,
        position_axis: int | None = None,
        lengths: Tensor | None = None,
    ) -> Signal:
        """Record a layer's spikes. Returns them, with their number in each step if it is known now.

        Args:
            neurons: how many there are, if some of the tensor's elements are padding.
            tallied: `tally` of the train, if it is known.
            position_axis: the dimension that counts tokens, in a recurrent layer. lengths: of the texts; None: all full.
        """
        self.neurons[name] = spikes.shape.numel() if neurons is None else neurons
        if self.agreement_with is not None:
            self.agreement_with.layer(name, spikes.train)
            if position_axis is not None:
                tallied = tally(spikes.train, self.bursts) if tallied is None else tallied
                spiking = tallied[0] + tallied[1]
                self.agreement_with.by_position(name, spikes.train, spiking, position_axis, lengths)
        if self.keep_activity:
            self._activity(name, spikes.train, tallied)
        if self.keep_counts:
            self.counts[name] = spikes.train.sum(0, dtype=self._count_type(spikes.train))
        if self.keep_trains:
            self.trains[name] = spikes.train
        if not self.keep_activity:
            return spikes
        return replace(spikes, per_step=lambda: self.positive[name] + self.negative[name])

    def _count_type(self, train: Tensor) -> torch.dtype:
        """int16 if that holds the spikes of a whole train: a level is one entry, and no larger."""
        most = len(train) * (torch.iinfo(train.dtype).max if self.bursts else 1)
        return torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32

    def _activity(self, name: str, train: Tensor, tallied: tuple[Tensor, Tensor] | None) -> None:
        where = self.whose.get(self.at)
        order = memory_order(train) if tallied is None else None
        if order is not None and order[0] == 0:  # rows of neighbours in memory are counted fastest
            train = train.permute(order)
            where = replace(where, dim=order.index(where.dim + 1) - 1) if isinstance(where, Axis) else where
        positive, negative = tally(train, self.bursts) if tallied is None else tallied
        self.positive[name], self.negative[name] = over_rows(positive).cpu(), over_rows(negative).cpu()
        in_rows = isinstance(where, Axis) and where.dim == train.dim() - 2  # a row is not of one sample
        self.last_spike[name] = last_spike(train if in_rows else positive + negative, where, self.samples).cpu()

    def arriving(self, signal: Signal, fan_out: int) -> None:
        """Note what the train of a signal causes in a map that takes every entry to so many outputs."""
        if not self.keep_activity:
            return
        if signal.is_raw:
            self.made(spikes_per_step(signal, self.bursts), fan_out)
        else:
            self.multiplied_by_step((signal.train != 0).sum(-1), fan_out)

    def multiplied_by_step(self, currents: Tensor, fan_out: int) -> None:
        """Note multiply-accumulates of currents, given how many of them go through a map, `[steps, ...]`."""
        self._note(Work(multiplies=over_rows(currents).cpu() * fan_out))

    def made(self, spikes: Tensor, fan_out: int) -> None:
        """Note accumulates, given how many spikes arrive, `[steps, ...]`."""
        if self.keep_activity:
            self._note(Work(accumulates=over_rows(spikes).cpu() * fan_out))

    def multiplied(self, dense: float, real: float = 0.0, biases: float = 0.0) -> None:
        """Note what does not depend on spikes.

        Args:
            dense: weights that the ANN multiplies. real: those of real-valued inputs. biases: outputs that have one.
        """
        if self.keep_activity:
            self._note(Work(awake=real + biases, dense=dense))

    def passed(self, signal: Signal) -> None:
        """Note what reaches neurons, or currents, without a linear map: each spike and each real value by one synapse."""
        if self.keep_activity and signal.is_raw:
            if signal.steps:
                self.made(spikes_per_step(signal, self.bursts), 1)
            if signal.source is not None:
                self.multiplied(0.0, real=float(signal.shape.numel()))

    def credit(self, name: str, noted: frozenset[str]) -> None:
        """Count what was noted at these steps as the work of the layer `name`, which they feed."""
        total = self.work.get(name, Work())
        for step in noted - {name}:
            total = total.plus(self.work.pop(step, Work()).times(self.share))
        self.work[name] = total
        self.share = 1.0

    def _note(self, work: Work) -> None:
        self.work[self.at] = self.work.get(self.at, Work()).plus(work)


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


def tally(train: Tensor, bursts: bool = False) -> tuple[Tensor, Tensor]:
    """Spikes of each sign in each row, the last dimension, of a train; an entry may be several of them if `bursts`.

    int32 holds them for rows of up to 2**24 neurons of 127 spikes each.
    """
    if bursts:
        summed = (train.clamp(min=0), (-train).clamp_(min=0))
        positive, negative = (each if each.dim() == 1 else each.sum(-1, dtype=torch.int32) for each in summed)
        return positive.int(), negative.int()
    if train.dim() == 1:
        return (train > 0).int(), (train < 0).int()
    if train.dtype == torch.int8 and kernels.ready(train):
        return kernels.tally(train)
    return (train > 0).sum(-1, dtype=torch.int32), (train < 0).sum(-1, dtype=torch.int32)


def arrivals(signal: Signal, bursts: bool) -> Tensor:
    """How many spikes each row, the last dimension, of a signal brings, those that have been put together apart."""
    train = signal.train
    if signal.merged is None and not bursts and train.dtype == torch.int8 and train.dim() > 1:
        positive, negative = tally(train)
        return positive + negative
    return signal.traffic().sum(-1)


def spikes_per_step(signal: Signal, bursts: bool) -> Tensor:
    """`[steps]`: how many spikes a signal brings in each step, those that have been put together apart."""
    return over_rows(arrivals(signal, bursts)) if signal.per_step is None else signal.per_step()


def over_rows(counts: Tensor) -> Tensor:
    """`[steps]`: the sum of each step, float64, which is exact for counts."""
    return counts.reshape(len(counts), math.prod(counts.shape[1:])).sum(1, dtype=torch.float64)
