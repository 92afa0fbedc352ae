"""Rearranging, picking and joining signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casc_core.function_rules import follow_join, followed
from casc_core.functions import FUNCTIONS
from casc_core.ops.op import Op
from casc_core.recorder import spikes_per_step
from casc_core.run import Run
from casc_core.samples import Abstract, Follower
from casc_core.signal import Signal, add_trains, joined, padded

_BY_SAMPLE = {"F.interpolate", "F.pixel_shuffle", "F.pixel_unshuffle", "F.channel_shuffle"}


class Layout(Op):
    """A rearrangement of elements: the user's own call, applied to every step."""

    def __init__(self, function: str) -> None:
        super().__init__({"function": function})
        self.function = FUNCTIONS[function]

    def forward(self, run: Run, signal: Signal, *args: Any, **kwargs: Any) -> Any:
        def call(x: Tensor) -> Any:
            return self.function(x, *args, **kwargs)

        sample = call(torch.empty(signal.shape, device="meta")) if self._splits else None
        if sample is None:
            return signal.map(call, by_sample=self.settings["function"] in _BY_SAMPLE)
        return tuple(signal.map(partial(_part, call, index)) for index in range(len(sample)))

    def follow(self, follower: Follower, signal: Abstract, *args: Any, **kwargs: Any) -> Any:
        return followed(follower, self.settings["function"], (signal, *args), kwargs)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return max(each.nbytes for each in signals)

    @property
    def _splits(self) -> bool:
        return self.settings["function"].rsplit(".", 1)[-1] in ("chunk", "split", "unbind")


def _part(split: Callable[[Tensor], Sequence[Tensor]], index: int, x: Tensor) -> Tensor:
    return split(x)[index]


class Pick(Op):
    """One element of a tuple of signals."""

    def __init__(self, index: int) -> None:
        super().__init__({"index": index})

    def forward(self, run: Run, values: Sequence[Signal]) -> Signal:
        part: Signal = values[self.settings["index"]]
        return part

    def follow(self, follower: Follower, values: Sequence[Abstract]) -> Abstract:
        part: Abstract = values[self.settings["index"]]
        return part


class Join(Op):
    """Concatenation (`torch.cat`) or `torch.stack` of signals of one scale."""

    def __init__(self, stack: bool) -> None:
        super().__init__({"stack": stack})
        self.join: Callable[..., Tensor] = torch.stack if stack else joined

    def forward(self, run: Run, signals: Sequence[Signal], dim: int = 0) -> Signal:
        common = list(signals)
        for index in range(1, len(common)):
            common[0], common[index] = common[0].with_common_divisor(common[index])
        common = [signal.with_common_divisor(common[0])[0] for signal in common]
        dim = dim - len(common[0].shape) - self.settings["stack"] if dim >= 0 else dim
        divisor = common[0].divisor
        if divisor is not None and divisor.dim() > 0:
            divisor = self.join([divisor.expand(signal.shape) for signal in common], dim)
        steps = max(signal.steps for signal in common)
        drives = [signal.drive for signal in common]
        drive = None
        if any(part is not None for part in drives):
            drive = self.join(
                [
                    signal.train.new_zeros(signal.shape, dtype=torch.float64) if drive is None else drive
                    for signal, drive in zip(common, drives, strict=True)
                ],
                dim,
            )

        def per_step() -> Tensor:
            total = spikes_per_step(signals[0], run.peak > 1)
            for signal in signals[1:]:
                total = add_trains(total, spikes_per_step(signal, run.peak > 1))
            return total

        def merged() -> Tensor:
            return self.join([padded(signal.traffic(), steps) for signal in signals], dim)

        return Signal(
            self.join([padded(signal.train, steps) for signal in common], dim),
            drive,
            divisor,
            max(signal.bound for signal in common),
            all(signal.is_raw for signal in signals),
            None if all(signal.merged is None for signal in signals) else merged,
            per_step,
        )

    def follow(self, follower: Follower, signals: Sequence[Abstract], dim: int = 0) -> Abstract:
        shape, samples = follow_join(follower, signals, dim, self.settings["stack"])
        trains = [each.train for each in signals if each.train is not None]
        steps, unit = max(train.steps for train in trains), max(train.unit for train in trains)
        return follower.signal(shape, samples, steps, unit, any(train.real for train in trains))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return signals[-1].nbytes  # its parts, made equally long
