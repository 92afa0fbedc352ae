"""A lowered network evaluated in levels: time is one step, whose drive weighs as much as all wake steps together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.neuron_loop import Threshold
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.run import Run, checked_total
from casc_core.neuron import LevelThresholds
from casc_core.numerics import Numerics


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
