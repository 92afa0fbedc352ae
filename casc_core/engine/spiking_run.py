"""A lowered network evaluated in spikes, under a schedule, step by step until it is silent."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.neuron_loop import Threshold, scan
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.run import Run, checked_steps, checked_total
from casc_core.errors import ConfigError
from casc_core.neuron import LevelThresholds, Neuron, next_step
from casc_core.numerics import Numerics
from casc_core.schedule import LARGEST_STEPS, Schedule, WakeSleep

# Maps in a row are computed so many times while a cycle of the schedule is awake, and as often afterwards.
BINS_AWAKE = 2
# Steps that a population usually spikes after its input has ended; more cost a second try.
_TAIL = 4


class SpikingRun(Run):
    """In spikes, under a schedule; `steps` cuts it there, None lets it run until it is silent.

    With `only_final`, nothing is asked for but the readout at the end.
    """

    def __init__(
        self,
        numerics: Numerics,
        neuron: Neuron,
        schedule: Schedule,
        steps: int | None,
        recorder: Recorder | None = None,
        only_final: bool = False,
    ) -> None:
        super().__init__(numerics, recorder)
        self.neuron, self.schedule, self.steps, self.only_final = neuron, schedule, steps, only_final
        self.peak, self.warm_up = neuron.peak, neuron.warm_up
        if self.warm_up and schedule.last_wake is not None:
            raise ConfigError(f"{neuron} begins anew after {self.warm_up} steps, which needs Continuous() input")
        last_wake = schedule.last_wake if steps is None else min(schedule.last_wake or steps, steps)
        if last_wake is None:
            raise ConfigError(f"under {schedule} the network never falls silent: use simulate(..., T=...)")
        checked_steps(max(last_wake, steps or 0))
        if self.peak > kernels.LARGEST_COUNT:
            raise ConfigError(
                f"{neuron} may spike {self.peak:,} times in one step; a train, in bytes, holds {kernels.LARGEST_COUNT}"
            )
        self.awake = schedule.awake(last_wake)
        self.caps = list(itertools.accumulate(int(step) for step in self.awake))
        self.total = checked_total(neuron.rate * self.caps[-1])
        # Kernels give spikes alone; where potentials are recorded, populations go through their steps one by one.
        stepwise = self.potentials is not None
        self.kernel_neuron = None if stepwise else KernelNeuron.spiking(neuron, tuple(self.awake), steps)

    def wake_weights(self, steps: int | None = None) -> list[int]:
        awake = [int(step) for step in self.awake]
        if self.steps_at_once > 1:
            awake = [
                sum(awake[start : start + self.steps_at_once]) for start in range(0, len(awake), self.steps_at_once)
            ]
        return awake if steps is None else (awake + [0] * steps)[:steps]

    def steps_of_bin(self, at_end: bool) -> int:
        if self.warm_up or not isinstance(self.schedule, WakeSleep):
            return 1
        if at_end:
            return LARGEST_STEPS if self.only_final else 1
        return -(-self.schedule.levels // (BINS_AWAKE * self.schedule.cycles))

    @property
    def last_step(self) -> int | None:
        return self.steps

    def longest(self, arriving: int, levels: int | None = None) -> int:
        # Once the input has ended, a neuron emits at most so many further spikes as there are levels.
        steps = max(arriving, len(self.awake)) + (self.total if levels is None else levels)
        return steps if self.steps is None else min(steps, self.steps)

    @property
    def neurons(self) -> tuple[object, ...]:
        return *super().neurons, self.neuron

    @property
    def kind(self) -> tuple[Any, ...]:
        return "spikes", len(self.awake), self.total, self.steps, self.only_final

    def initial_potential(
        self, own: Tensor | None, threshold: Threshold, exponent: int, device: torch.device
    ) -> Tensor | None:
        share = self.neuron.initial_potential
        if share == 0.0:
            return own
        if isinstance(threshold, LevelThresholds):
            threshold = next_step(threshold, threshold.values.new_zeros(()))
        given = share * torch.as_tensor(threshold, dtype=torch.float64, device=device)
        return self.numerics.snap(given if own is None else given + own, exponent)

    def fire(
        self,
        train: Tensor,
        drive: Tensor | None,
        threshold: Threshold,
        dtype: torch.dtype,
        potential: Tensor | None = None,
    ) -> Tensor:
        arriving = max(train.shape[0], len(self.awake) if drive is not None else 0)
        by_level = isinstance(threshold, LevelThresholds)
        if by_level and not self.neuron.takes_levels:
            raise ConfigError(
                f"{self.neuron} takes one threshold, and there are neurons with one for each level (of a sigmoid or tanh): "
                "use CIF() or IF()"
            )
        if arriving == 0 and potential is None and not by_level:
            if self.potentials is not None:
                self.potentials.append(torch.zeros((1, *train.shape[1:]), dtype=torch.float64, device=train.device))
            return train.to(torch.int8)
        if self.kernel_neuron is not None and kernels.scans(self.kernel_neuron, train, drive):
            return kernels.scan(train, drive, threshold, dtype, self.kernel_neuron, arriving + _TAIL, potential)
        train, drive = train.to(dtype), None if drive is None else drive.to(dtype)
        like = train[0] if train.shape[0] else train.new_zeros(train.shape[1:]) if drive is None else drive
        population = scan(self.neuron, like, threshold, None if potential is None else potential.to(dtype))
        nothing = torch.zeros((), dtype=like.dtype, device=like.device)
        spikes: list[Tensor] = []
        after: list[Tensor] = []
        levels = threshold.highest - threshold.lowest if isinstance(threshold, LevelThresholds) else None
        for step in range(self.longest(arriving, levels)):
            current = train[step] if step < train.shape[0] else nothing
            if drive is not None and step < len(self.awake) and self.awake[step]:
                current = current + drive if step < train.shape[0] else drive
            cap = self.caps[min(step, len(self.caps) - 1)]
            fired = population.step(current, threshold.highest if isinstance(threshold, LevelThresholds) else cap)
            if self.potentials is not None:
                after.append(population.state.v.double().clone())
            if step >= arriving and step >= len(self.awake) and not fired.any():
                break
            spikes.append(fired)
        if self.potentials is not None:
            self.potentials.append(torch.stack(after))
        while spikes and not spikes[-1].any():
            spikes.pop()
        return torch.stack(spikes) if spikes else train.new_zeros((0, *like.shape), dtype=torch.int8)
