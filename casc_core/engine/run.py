"""The two ways to evaluate a lowered network: step by step in spikes, or at once in levels.

Both run the same program on the same operations; only what a neuron does with its input differs. In levels, time is
collapsed to a single step whose drive weighs as much as all wake steps together.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.neuron_loop import Threshold, scan
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.signal import without_repeats
from casc_core.errors import ConfigError, ExactnessError, InputError
from casc_core.neuron import LevelThresholds, Neuron, next_step
from casc_core.numerics import FLOAT64_UNITS, AsTrained, Numerics, largest
from casc_core.schedule import LARGEST_STEPS, Schedule, WakeSleep

# Steps that a population usually spikes after its input has ended; more cost a second try.
_TAIL = 4
# What every narrow type of a run rests on: a count, and the sum of any neuron's spikes, fits int16; a step's spikes int8.
LARGEST_TOTAL = 2**15 - 1
LEAST_ROOM = 2**24
# Maps in a row are computed so many times while a cycle of the schedule is awake, and as often afterwards.
BINS_AWAKE = 2


class Run(ABC):
    """One evaluation of a program.

    Attributes:
        total: largest spike count a neuron can reach.
        peak: largest change of a spike count within one step.
        warm_up: steps that count no more once they are over: then readout and running maxima begin with nothing.
        steps_at_once: how many steps each step of a signal is of.
        kernel_neuron: what the compiled kernels make of the neurons; None: they are neither IF nor CIF.
        room: numbers that one operation may make more than it is given, where its weights do not say how many.
        made: numbers that functions of the inputs have made so far.
        row_counts: by layer, the `signed_counts` that a kernel took of its train while it fired; None: they are not asked
            for.
    """

    total: int
    peak: int
    warm_up: int = 0
    steps_at_once: int = 1
    kernel_neuron: KernelNeuron | None

    def __init__(self, numerics: Numerics, recorder: Recorder | None) -> None:
        self.numerics, self.recorder = numerics, recorder
        self.room = LEAST_ROOM
        self.made = 0
        self.row_counts: dict[str, tuple[Tensor, Tensor]] | None = None
        if recorder is not None and recorder.keep_activity:
            self.row_counts = {}

    @abstractmethod
    def wake_weights(self, steps: int | None = None) -> list[int]:
        """How often the drive is received at each of the first `steps` steps (None: up to the last wake step)."""

    @abstractmethod
    def longest(self, arriving: int, levels: int | None = None) -> int:
        """The most steps that a population's train has, its input's having this many.

        `levels` are those of its counts; None: as many as there are wake steps.
        """

    @abstractmethod
    def steps_of_bin(self, at_end: bool) -> int:
        """How many steps maps in a row compute at a time; `at_end`: only the readout follows."""

    @property
    def last_step(self) -> int | None:
        """The step at which it is cut; None: it is not."""
        return None

    def binned(self, steps: int) -> Run:
        """The same in bins of so many steps."""
        binned = copy(self)
        binned.steps_at_once = self.steps_at_once * steps
        binned.peak = min(self.peak * steps, 2 * self.total)
        return binned

    @property
    @abstractmethod
    def kind(self) -> tuple[Any, ...]:
        """What decides how long trains may be."""

    @abstractmethod
    def fire(
        self,
        train: Tensor,
        drive: Tensor | None,
        threshold: Threshold,
        dtype: torch.dtype,
        potential: Tensor | None = None,
    ) -> Tensor:
        """Spikes `[steps, *shape]` (in levels: counts `[1, *shape]`) of a population that receives these currents.

        `dtype` is what `potential_dtype` gives, `potential` what `initial_potential` does; the train of spikes is cut
        where it ends. Thresholds by level are exact in that type, as their products with their scale are.
        """

    def initial_potential(self, own: Tensor | None, threshold: Threshold, exponent: int) -> Tensor | None:
        """The membrane potential before the first step, float64, which broadcasts against the population; None: zero.

        Args:
            own: what the layer itself begins with, such as the half step of its activation.
            exponent: of the grid it is put on.
        """
        return own

    def held(self, drive: Tensor, reach: float, begins: float, exponent: int) -> Tensor:
        """A drive on the grid `2**exponent`, held where it is so large that nothing else can change what its neurons do.

        Whatever arrives in spikes, and whatever they have fired, they fire whenever they may, or never. So no input is too
        large for the sums. The spikes are those of the drive as it is.

        Args:
            reach: largest current for each spike, and the largest threshold. begins: the largest potential before the first
                step.

        Raises:
            InputError: it is not finite.
        """
        if not isinstance(self.numerics, AsTrained):
            return drive
        unit = math.ldexp(1.0, exponent)
        most = math.ceil(((self.total + 2) * reach + begins) / unit) * unit
        each = without_repeats(drive)
        strongest = largest(each)
        if not math.isfinite(strongest):
            raise InputError(
                f"currents that real-valued inputs cause must be finite; one is {strongest:g}. Scale the inputs, and the "
                "first layer's weights the other way"
            )
        return each.clamp(-most, most).expand(drive.shape) if strongest > most else drive

    def potential_dtype(self, bound: float, drive: float, threshold: float, exponent: int, what: str) -> torch.dtype:
        """Type in which a population's potential is exact, spikes and drive being bounded so per wake step."""
        return self.sum_dtype(self.total + 1, bound + threshold, drive, exponent, what)

    def sum_dtype(self, steps: int, bound: float, drive: float, exponent: int, what: str) -> torch.dtype:
        """Type in which a sum over so many steps is exact, of currents bounded by `bound` and a drive by `drive`.

        Raises:
            InputError: there is none for this drive, which comes from the inputs.
            ExactnessError: there is none for spikes alone.
        """
        try:
            return self.numerics.dtype(steps * (bound + drive), exponent, what)
        except ExactnessError as error:
            self.numerics.dtype(steps * bound, exponent, what)
            most = math.ldexp(FLOAT64_UNITS, exponent) / steps - bound
            raise InputError(
                f"{what}: currents that real-valued inputs cause must be below {most:.3g}, or sums might round; the "
                f"largest is {drive:.3g}. Scale the inputs, and the first layer's weights the other way"
            ) from error


def checked_total(total: int) -> int:
    """`total`, if the counts of a run, int16, can reach it.

    Raises:
        ConfigError: they cannot.
    """
    if total > LARGEST_TOTAL:
        raise ConfigError(
            f"a neuron may spike {total:,} times; more than {LARGEST_TOTAL:,} levels or wake steps cannot be run"
        )
    return total


def checked_steps(steps: int) -> int:
    """`steps`, if a run can take this many.

    Raises:
        ConfigError: it cannot.
    """
    if steps > LARGEST_STEPS:
        raise ConfigError(
            f"{steps:,} time steps cannot be run; at most {LARGEST_STEPS:,} can: lower T, or the schedule"
        )
    return steps


class LevelRun(Run):
    """In levels: a neuron's count is `clip(floor(total current / threshold), 0, levels)`, in a single step."""

    def __init__(self, numerics: Numerics, levels: int, recorder: Recorder | None = None) -> None:
        super().__init__(numerics, recorder)
        self.total = self.peak = checked_total(levels)
        self.kernel_neuron = KernelNeuron.levels(levels) if levels <= kernels.LARGEST_COUNT else None

    def wake_weights(self, steps: int | None = None) -> list[int]:
        return [self.total]

    def longest(self, arriving: int, levels: int | None = None) -> int:
        return 1

    def steps_of_bin(self, at_end: bool) -> int:
        return 1

    @property
    def kind(self) -> tuple[Any, ...]:
        return ("levels",)

    def fire(
        self,
        train: Tensor,
        drive: Tensor | None,
        threshold: Threshold,
        dtype: torch.dtype,
        potential: Tensor | None = None,
    ) -> Tensor:
        train, drive = train.to(dtype), None if drive is None else drive.to(dtype)
        current = train[0] if train.shape[0] else None
        if potential is not None:
            potential = potential.to(dtype).expand(train.shape[1:])
            current = potential if current is None else current + potential
        if isinstance(threshold, LevelThresholds):
            return self._levels(train, current, drive, threshold)
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

    def _levels(
        self, train: Tensor, current: Tensor | None, drive: Tensor | None, thresholds: LevelThresholds
    ) -> Tensor:
        """The levels that are reached of those that have a threshold each."""
        if drive is not None:
            current = drive * self.total if current is None else current + drive * self.total
        current = train.new_zeros(train.shape[1:]) if current is None else current
        values = thresholds.values.to(current.dtype)
        if not isinstance(thresholds.scale, Tensor):
            reached = torch.bucketize(current.contiguous(), values * thresholds.scale, out_int32=True, right=True)
            return (reached + thresholds.lowest).to(torch.int16).unsqueeze(0)
        count = torch.full(current.shape, thresholds.lowest, dtype=torch.int16, device=current.device)
        for value in values:
            count += current >= value * thresholds.scale
        return count.unsqueeze(0)


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
        self.kernel_neuron = KernelNeuron.spiking(neuron, self.awake, steps)

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
    def kind(self) -> tuple[Any, ...]:
        return "spikes", len(self.awake), self.total, self.steps, self.only_final

    def initial_potential(self, own: Tensor | None, threshold: Threshold, exponent: int) -> Tensor | None:
        share = self.neuron.initial_potential
        if share == 0.0:
            return own
        if isinstance(threshold, LevelThresholds):
            threshold = next_step(threshold, threshold.values.new_zeros(()))
        device = own.device if own is not None else threshold.device if isinstance(threshold, Tensor) else None
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
            return train.to(torch.int8)
        if self.kernel_neuron is not None and kernels.scans(self.kernel_neuron, train, drive):
            return kernels.scan(train, drive, threshold, dtype, self.kernel_neuron, arriving + _TAIL, potential)
        train, drive = train.to(dtype), None if drive is None else drive.to(dtype)
        like = train[0] if train.shape[0] else train.new_zeros(train.shape[1:]) if drive is None else drive
        population = scan(self.neuron, like, threshold, None if potential is None else potential.to(dtype))
        nothing = torch.zeros((), dtype=like.dtype, device=like.device)
        spikes: list[Tensor] = []
        levels = threshold.highest - threshold.lowest if isinstance(threshold, LevelThresholds) else None
        for step in range(self.longest(arriving, levels)):
            current = train[step] if step < train.shape[0] else nothing
            if drive is not None and step < len(self.awake) and self.awake[step]:
                current = current + drive if step < train.shape[0] else drive
            cap = self.caps[min(step, len(self.caps) - 1)]
            fired = population.step(current, threshold.highest if isinstance(threshold, LevelThresholds) else cap)
            if step >= arriving and step >= len(self.awake) and not fired.any():
                break
            spikes.append(fired)
        while spikes and not spikes[-1].any():
            spikes.pop()
        return torch.stack(spikes) if spikes else train.new_zeros((0, *like.shape), dtype=torch.int8)
