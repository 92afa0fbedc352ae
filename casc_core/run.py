"""The two ways to evaluate a lowered network: step by step in spikes, or at once in levels.

Both run the same program on the same operations; only what a neuron does with its input differs. In levels, time is
collapsed to a single step whose drive weighs as much as all wake steps together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from casc_core import kernels
from casc_core.errors import ConfigError
from casc_core.kernels import KernelNeuron
from casc_core.neuron import Neuron
from casc_core.numerics import Numerics
from casc_core.scan import scan
from casc_core.schedule import Schedule
from casc_core.signal import Signal, add_trains, memory_order

# Steps that a population usually spikes after its input has ended; more cost a second try.
_TAIL = 4
LARGEST_TOTAL = 2**15 - 1


@dataclass
class Recorder:
    """What a run keeps beside its output, by layer.

    `counts`: every neuron's spike count, if `keep_counts`. `positive`, `negative`, `operations`: how many spikes of each
    sign, and accumulate operations, at each step; `neurons`; `last_spike`: `[samples]`, the last step (from 1) at which
    the layer spiked in each sample; these if `keep_activity`.
    """

    keep_counts: bool = False
    keep_activity: bool = False
    counts: dict[str, Tensor] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    positive: dict[str, Tensor] = field(default_factory=dict)
    negative: dict[str, Tensor] = field(default_factory=dict)
    operations: dict[str, Tensor] = field(default_factory=dict)
    last_spike: dict[str, Tensor] = field(default_factory=dict)

    def spikes(
        self,
        name: str,
        spikes: Signal,
        samples: int,
        neurons: int | None = None,
        tallied: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Record a layer's spikes.

        Args:
            neurons: how many there are, if some of the tensor's elements are padding.
            tallied: `tally` of the train, if it is known.
        """
        self.neurons[name] = spikes.shape.numel() if neurons is None else neurons
        if self.keep_activity:
            train, owner = spikes.train, spikes.owner()
            order = memory_order(train) if tallied is None else None
            if order is not None and order[0] == 0:  # rows of neighbours in memory are counted fastest
                train, owner = train.permute(order), owner.permute([dim - 1 for dim in order[1:]])
            positive, negative = tally(train) if tallied is None else tallied
            self.positive[name], self.negative[name] = over_rows(positive).cpu(), over_rows(negative).cpu()
            if owner.dim() and torch.equal(owner[..., 0], owner[..., -1]):  # a row of the tensor is of one sample
                spiking, owner = positive + negative, owner[..., 0]
            else:
                spiking = train
            self.last_spike[name] = last_spike(spiking, owner, samples).cpu()
            self.operations.setdefault(name, torch.zeros(0, dtype=torch.float64))
        if self.keep_counts:
            self.counts[name] = spikes.train.sum(0, dtype=torch.int16)

    def arriving(self, name: str, train: Tensor, fan_out: int) -> None:
        """Record the accumulate operations that the spikes of `train` cause in layer `name`, step by step."""
        if not self.keep_activity:
            return
        self.made(name, arrivals(train), fan_out)

    def made(self, name: str, spikes: Tensor, fan_out: int) -> None:
        """The same, given how many spikes arrive, `[steps, ...]`."""
        if self.keep_activity:
            made = over_rows(spikes).cpu() * fan_out
            self.operations[name] = add_trains(self.operations.get(name, made[:0]), made)

    def credit(self, name: str, maps: frozenset[str]) -> None:
        """Count the operations of these linear maps as those of the layer `name` that they feed."""
        for source in maps - {name}:
            made = self.operations.pop(source, None)
            if made is not None:
                self.operations[name] = add_trains(self.operations.get(name, made[:0]), made)


def last_spike(train: Tensor, owner: Tensor, samples: int) -> Tensor:
    """`[samples]`: the last step, from 1, at which any element of each sample is not zero; 0 where there is none."""
    result = torch.zeros(samples, dtype=torch.int64, device=train.device)
    if train.numel() == 0:
        return result
    spiking = train != 0
    step = torch.arange(1, train.shape[0] + 1, device=train.device).reshape(-1, *[1] * owner.dim())
    last = (spiking * step).amax(0)
    return result.scatter_reduce_(0, owner.reshape(-1), last.reshape(-1), "amax")


def tally(train: Tensor) -> tuple[Tensor, Tensor]:
    """How many entries of each row, the last dimension, of a train `[steps, ..., n]` are positive, how many negative."""
    if train.dim() == 1:
        return (train > 0).int(), (train < 0).int()
    if train.dtype == torch.int8 and kernels.ready(train):
        return kernels.tally(train)
    return (train > 0).sum(-1, dtype=torch.int32), (train < 0).sum(-1, dtype=torch.int32)


def arrivals(train: Tensor) -> Tensor:
    """How many spikes each row, the last dimension, of a train brings.

    Whole numbers are spikes that have been put together; a number that is none has a factor in it, and counts once.
    """
    if train.dtype == torch.int8 and train.dim() > 1:
        positive, negative = tally(train)
        return positive + negative
    return (train != 0).sum(-1) if train.dtype.is_floating_point else train.abs().sum(-1)


def over_rows(counts: Tensor) -> Tensor:
    """`[steps]`: the sum of each step, float64, which is exact for counts."""
    return counts.reshape(len(counts), math.prod(counts.shape[1:])).sum(1, dtype=torch.float64)


class Run(ABC):
    """One evaluation of a program.

    Attributes:
        total: largest spike count a neuron can reach.
        peak: largest change of a spike count within one step.
        kernel_neuron: what the compiled kernels make of the neurons; None: they do not know them.
        samples: size of the batch.
        bytes: the most memory that signals took at one time.
    """

    total: int
    peak: int
    kernel_neuron: KernelNeuron | None

    def __init__(self, numerics: Numerics, recorder: Recorder | None) -> None:
        self.numerics, self.recorder = numerics, recorder
        self.samples = self.bytes = 0

    @abstractmethod
    def wake_weights(self, steps: int | None = None) -> list[int]:
        """How often the drive is received at each of the first `steps` steps (None: up to the last wake step)."""

    @abstractmethod
    def fire(self, train: Tensor, drive: Tensor | None, threshold: Tensor | float, dtype: torch.dtype) -> Tensor:
        """Spikes `[steps, *shape]` (in levels: counts `[1, *shape]`) of a population that receives these currents.

        `dtype` is what `potential_dtype` gives; the train of spikes is cut where it ends.
        """

    def potential_dtype(self, bound: float, threshold: float, exponent: int, what: str) -> torch.dtype:
        """Type in which a population's potential is exact, its currents being bounded by `bound` per wake step."""
        return self.numerics.dtype((self.total + 1) * (bound + threshold), exponent, what)


def checked_total(total: int) -> int:
    """`total`, if the counts of a run, int16, can reach it."""
    if total > LARGEST_TOTAL:
        raise ConfigError(
            f"a neuron may spike {total:,} times; more than {LARGEST_TOTAL:,} levels or wake steps cannot be run"
        )
    return total


class LevelRun(Run):
    """In levels: a neuron's count is `clip(floor(total current / threshold), 0, levels)`, in a single step."""

    def __init__(self, numerics: Numerics, levels: int, recorder: Recorder | None = None) -> None:
        super().__init__(numerics, recorder)
        self.total = self.peak = checked_total(levels)
        self.kernel_neuron = KernelNeuron.levels(levels) if levels <= kernels.LARGEST_COUNT else None

    def wake_weights(self, steps: int | None = None) -> list[int]:
        return [self.total]

    def fire(self, train: Tensor, drive: Tensor | None, threshold: Tensor | float, dtype: torch.dtype) -> Tensor:
        train, drive = train.to(dtype), None if drive is None else drive.to(dtype)
        current = train[0] if train.shape[0] else None
        if self.kernel_neuron is not None and kernels.ready(train, drive):
            if current is None and drive is None:
                return train.to(torch.int8)
            return kernels.levels(current, drive, threshold, self.total).unsqueeze(0)
        if drive is not None:
            current = drive * self.total if current is None else current + drive * self.total
        if current is None:
            return train.to(torch.int16)
        count = torch.floor(current / threshold).clamp_(0, self.total)
        # The quotient is rounded; the product of a count and a threshold is exact, so it decides.
        count -= ((count * threshold > current) & (count > 0)).to(count.dtype)
        count += (((count + 1) * threshold <= current) & (count < self.total)).to(count.dtype)
        return count.to(torch.int16).unsqueeze(0)


class SpikingRun(Run):
    """In spikes, under a schedule; `steps` cuts it there, None lets it run until it is silent."""

    peak = 1

    def __init__(
        self,
        numerics: Numerics,
        neuron: Neuron,
        schedule: Schedule,
        steps: int | None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(numerics, recorder)
        self.neuron, self.schedule, self.steps = neuron, schedule, steps
        last_wake = schedule.last_wake if steps is None else min(schedule.last_wake or steps, steps)
        if last_wake is None:
            raise ConfigError(f"under {schedule} the network never falls silent: use simulate(..., T=...)")
        self.awake = schedule.awake(last_wake)
        self.total = checked_total(sum(self.awake))
        self.caps: list[int] = [sum(self.awake[: step + 1]) for step in range(last_wake)]
        self.kernel_neuron = KernelNeuron.spiking(neuron, self.awake, steps)

    def wake_weights(self, steps: int | None = None) -> list[int]:
        awake = [int(step) for step in self.awake]
        return awake if steps is None else (awake + [0] * steps)[:steps]

    def fire(self, train: Tensor, drive: Tensor | None, threshold: Tensor | float, dtype: torch.dtype) -> Tensor:
        arriving = max(train.shape[0], len(self.awake) if drive is not None else 0)
        if arriving == 0:
            return train.to(torch.int8)
        if self.kernel_neuron is not None and kernels.scans(train, drive):
            return kernels.scan(train, drive, threshold, dtype, self.kernel_neuron, arriving + _TAIL)
        train, drive = train.to(dtype), None if drive is None else drive.to(dtype)
        like = train[0] if train.shape[0] else drive
        assert like is not None
        population = scan(self.neuron, like, threshold)
        nothing = torch.zeros((), dtype=like.dtype, device=like.device)
        # Once the input has ended, a neuron emits at most `total` further spikes.
        limit = max(arriving, len(self.awake)) + self.total
        spikes: list[Tensor] = []
        for step in range(limit if self.steps is None else min(limit, self.steps)):
            current = train[step] if step < train.shape[0] else nothing
            if drive is not None and step < len(self.awake) and self.awake[step]:
                current = current + drive if step < train.shape[0] else drive
            fired = population.step(current, self.caps[step] if step < len(self.caps) else self.total)
            if step >= arriving and step >= len(self.awake) and not fired.any():
                break
            spikes.append(fired)
        while spikes and not spikes[-1].any():
            spikes.pop()
        return torch.stack(spikes) if spikes else train.new_zeros((0, *like.shape), dtype=torch.int8)
