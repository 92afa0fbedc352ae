"""Rearranging, picking and joining signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower
from casc_core.engine.conditions import expect_parts
from casc_core.engine.functions import FUNCTIONS, REARRANGING, Function, check_room, follow_join, followed, foreseen
from casc_core.engine.leaves import leaves
from casc_core.engine.ops.declared import Flag, OneOf, OrNone, Text, Whole, settings
from casc_core.engine.ops.op import Op
from casc_core.engine.products.deferred_sum import DeferredSum, deferred, joined
from casc_core.engine.recording.provenance import Connection, Provenance
from casc_core.engine.run import Run
from casc_core.engine.signal import LazyTrain, Rearrangement, Signal, concatenated, without_repeats
from casc_core.reporting.series import zero_padded

SPLITS = ("chunk", "split", "split_with_sizes", "unbind")
# Signals are multiplied to a common divisor no larger than this.
LARGEST_COMMON_DIVISOR = 2**20
# So many of a call's arguments are known again, such as those for several sizes of images.
_KEPT = 16
# Functions that treat each entry of dimension 0 alike, whatever their arguments.
_BY_SAMPLE = {"F.interpolate", "F.pixel_shuffle", "F.pixel_unshuffle", "F.channel_shuffle"}


class Layout(Op):
    """A rearrangement of elements: the user's own call, applied to every step."""

    SETTINGS = settings(function=OneOf(REARRANGING))
    connection = Connection.MOVES
    takes_fills = True

    @cached_property
    def function(self) -> Function:
        return FUNCTIONS[self.settings["function"]]

    def forward(self, run: Run, signal: Signal, *args: Any, **kwargs: Any) -> Any:
        foreseen(self.settings["function"], run.room, signal.shape, args, kwargs)

        call = self._rearrangement(args, kwargs)
        sample = call(torch.empty(signal.shape, device="meta")) if self._splits else None
        if sample is None:
            return signal.map(call, by_sample=self._is_by_sample(len(signal.shape), *args, **kwargs))
        return tuple(signal.map(partial(_part, call, index)) for index in range(len(sample)))

    def follow(self, follower: Follower, signal: Abstract, *args: Any, **kwargs: Any) -> Any:
        return followed(follower, self.settings["function"], (signal, *args), kwargs)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return max(each.nbytes for each in signals)

    @cached_property
    def rearrangements(self) -> dict[str, Rearrangement]:
        """Those of plain arguments, by these: what is known of them is kept."""
        return {}

    def _rearrangement(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rearrangement:
        """The call with these arguments."""
        made = Rearrangement(self.function, args, kwargs)
        if not all(each is None or isinstance(each, (int, float, str)) for each in leaves((args, kwargs))):
            return made
        if len(self.rearrangements) > _KEPT:
            self.rearrangements.clear()
        return self.rearrangements.setdefault(repr((args, kwargs)), made)

    def _is_by_sample(self, dims: int, *args: Any, **kwargs: Any) -> bool:
        """Whether a call with these arguments treats each entry of dimension 0 alike, of so many."""
        name = self.settings["function"]
        if name == "F.pad":
            return len(args[0] if args else kwargs["pad"]) < 2 * dims
        if name.endswith(".flatten"):
            first = args[0] if args else kwargs.get("start_dim", 0)
            return isinstance(first, int) and first > 0
        return name in _BY_SAMPLE

    @property
    def _splits(self) -> bool:
        return self.settings["function"].rsplit(".", 1)[-1] in SPLITS


def _part(split: Callable[[Tensor], Sequence[Tensor]], index: int, x: Tensor) -> Tensor:
    return split(x)[index]


class Pick(Op):
    """One element of a tuple of signals, which are `count` (None: however many)."""

    SETTINGS = settings(index=Whole(-(2**16), 2**16), count=OrNone(Whole(0, 2**16)), line=Text())
    connection = Connection.MOVES
    takes_fills = True

    def forward(self, run: Run, values: Sequence[Signal]) -> Signal:
        index, count = self.settings["index"], self.settings["count"]
        part: Signal = (values if count is None else expect_parts(values, count, self.settings["line"]))[index]
        return part

    def follow(self, follower: Follower, values: Sequence[Abstract]) -> Abstract:
        part: Abstract = values[self.settings["index"]]
        return part


class Join(Op):
    """Concatenation (`torch.cat`) or `torch.stack` of signals of one scale."""

    SETTINGS = settings(stack=Flag())
    connection = Connection.MOVES
    takes_fills = True

    @cached_property
    def join(self) -> Callable[..., Tensor]:
        return torch.stack if self.settings["stack"] else concatenated

    def forward(self, run: Run, signals: Sequence[Signal], dim: int = 0) -> Signal:
        check_room("a concatenation", sum(signal.shape.numel() for signal in signals), run.room)
        dim = dim - len(signals[0].shape) - self.settings["stack"] if dim >= 0 else dim
        common, divisor = self._over_one_divisor(signals, dim)
        steps = max(signal.steps for signal in common)
        drives = [signal.drive for signal in common]
        drive = None
        if any(part is not None for part in drives):
            drive = self.join(
                [
                    torch.zeros(signal.shape, dtype=torch.float64, device=signal.device) if drive is None else drive
                    for signal, drive in zip(common, drives, strict=True)
                ],
                dim,
            )
        train: Tensor | LazyTrain | None = self._deferred(run, common, dim)
        if train is None:
            train = self.join([zero_padded(signal.train, steps) for signal in common], dim)
        return Signal(train, drive, divisor, max(signal.bound for signal in common))

    def _deferred(self, run: Run, signals: Sequence[Signal], dim: int) -> DeferredSum | None:
        """The train as a sum of filters, where some are and they are joined along the channels."""
        along = dim == 1 - len(signals[0].shape) and not self.settings["stack"]
        if not along or not any(isinstance(signal.lazy_train, DeferredSum) for signal in signals):
            return None
        return joined([deferred(run.numerics, run.peak, signal.lazy_train, signal.bound) for signal in signals])

    def provenance(self, run: Run, result: Signal, signals: Sequence[Provenance], dim: int = 0) -> Provenance:
        joint: Provenance = super().provenance(run, result, signals, dim)
        return joint.of_all(signals)

    def follow(self, follower: Follower, signals: Sequence[Abstract], dim: int = 0) -> Abstract:
        shape, samples = follow_join(follower, signals, dim, self.settings["stack"])
        trains = [each.train for each in signals if each.train is not None]
        steps, unit = max(train.steps for train in trains), max(train.unit for train in trains)
        return follower.signal(shape, samples, steps, unit, any(train.real for train in trains))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return signals[-1].nbytes  # its parts, made equally long

    def _over_one_divisor(self, signals: Sequence[Signal], dim: int) -> tuple[Sequence[Signal], Tensor | None]:
        """The signals multiplied so that all have one divisor along the dimension that joins them, and the joint divisor.

        That is what a sum along it needs. Where the least such number is large (texts of many lengths, one behind the
        other), each keeps its own: there, no sum along it could be exact.
        """
        first = signals[0].divisor
        if all(signal.divisor is first for signal in signals) and (first is None or first.dim() == 0):
            return signals, first
        own = [_divisor(signal).expand(signal.shape).long() for signal in signals]
        along = [divisor.unsqueeze(dim) for divisor in own] if self.settings["stack"] else own
        least = [reduce(torch.lcm, without_repeats(divisor, dim).unbind(dim)) for divisor in along]
        common = reduce(torch.lcm, least)
        if int(common.max()) <= LARGEST_COMMON_DIVISOR and bool((common > 0).all()):
            whole = common if self.settings["stack"] else common.unsqueeze(dim)
            signals = [signal.times(whole // divisor) for signal, divisor in zip(signals, own, strict=True)]
            own = [whole.expand(signal.shape) for signal in signals]
        return signals, self.join([divisor.double() for divisor in own], dim)


def _divisor(signal: Signal) -> Tensor:
    """The divisor of a signal, 1 where it has none."""
    return torch.ones((), dtype=torch.float64, device=signal.device) if signal.divisor is None else signal.divisor
