"""One evaluation of a lowered network, whatever its neurons make of their input: `spiking_run`, `level_run`.

Both run the same program on the same operations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.neuron_loop import Threshold
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.signal import without_repeats
from casc_core.errors import ConfigError, ExactnessError, InputError
from casc_core.numerics import FLOAT64_UNITS, AsTrained, Numerics, largest
from casc_core.schedule import LARGEST_STEPS

# What every narrow type of a run rests on: a count, and the sum of any neuron's spikes, fits int16; a step's spikes int8.
LARGEST_TOTAL = 2**15 - 1
LEAST_ROOM = 2**24

RunT = TypeVar("RunT", bound="Run")


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
        device: where the network is; None: it holds no tensors.
        reads_result_once: whether one operation alone reads the result of the one that is called.
        row_counts: by layer, how many spikes of each sign a kernel counted in each row of its train while it fired; None:
            they are not asked for.
        potentials: where they are recorded, the membrane potentials `[steps, *shape]` of each population that has fired
            and whose operation has not taken them yet; None: they are not.
    """

    total: int
    peak: int
    warm_up: int = 0
    steps_at_once: int = 1
    reads_result_once: bool = False
    kernel_neuron: KernelNeuron | None

    def __init__(self, numerics: Numerics, recorder: Recorder | None) -> None:
        self.numerics, self.recorder = numerics, recorder
        self.room = LEAST_ROOM
        self.made = 0
        self.device: torch.device | None = None
        self.row_counts: dict[str, tuple[Tensor, Tensor]] | None = None
        self.potentials: list[Tensor] | None = None
        if recorder is not None and recorder.keep_activity:
            self.row_counts = {}
        if recorder is not None and recorder.keep_potentials:
            self.potentials = []

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

    def binned(self: RunT, steps: int) -> RunT:
        """The same in bins of so many steps."""
        binned = copy(self)
        binned.steps_at_once = self.steps_at_once * steps
        binned.peak = min(self.peak * steps, 2 * self.total)
        return binned

    @property
    def neurons(self) -> tuple[object, ...]:
        """What of it decides which spikes a population fires from which currents."""
        return self.numerics, self.kernel_neuron, self.peak

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

    def taken_potential(self) -> Tensor | None:
        """The membrane potential after each step `[steps, *shape]` of the population that fired last; None: no record."""
        return self.potentials.pop() if self.potentials else None

    def taken_potentials(self) -> list[Tensor]:
        """The same of all populations that have fired since the last were taken, in their order."""
        taken = list(self.potentials or ())
        if self.potentials is not None:
            self.potentials.clear()
        return taken

    def initial_potential(
        self, own: Tensor | None, threshold: Threshold, exponent: int, device: torch.device
    ) -> Tensor | None:
        """The membrane potential before the first step, float64, which broadcasts against the population; None: zero.

        Args:
            own: what the layer itself begins with, such as the half step of its activation.
            exponent: of the grid it is put on.
            device: where the population is.
        """
        return own

    def most_held(self, reach: float, begins: float, exponent: int) -> float | None:
        """Within how much `held` holds a drive; None: it does not."""
        if not isinstance(self.numerics, AsTrained):
            return None
        unit = math.ldexp(1.0, exponent)
        return math.ceil(((self.total + 2) * reach + begins) / unit) * unit

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
        most = self.most_held(reach, begins, exponent)
        if most is None:
            return drive
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
                f"largest is {drive:.3g}. Scale the inputs, and the first layer's weights the other way; and where a mask "
                "is added as a large negative number, write x.masked_fill(mask, float('-inf'))"
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
