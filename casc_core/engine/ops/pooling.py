"""Pooling over windows: maxima as running differences, averages as sums of whole numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.batching.samples import Abstract, Follower, Train, abstracts
from casc_core.engine.functions import check_room
from casc_core.engine.ops.declared import GRIDS, NAME, PADDING, WINDOW, Flag, OrNone, Several, settings
from casc_core.engine.ops.op import Op, room_for_drive
from casc_core.engine.ops.reduction import follow_maximum, room_for_maximum, rounded_mean, running_maximum
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.exact_sums import whole_sums
from casc_core.engine.products.pooling_windows import Window, adaptive, each_reads, maxima, per_dimension, sums
from casc_core.engine.products.term import with_plane, without_plane
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.run import Run
from casc_core.engine.signal import LazyTrain, Signal
from casc_core.errors import InputError
from casc_core.numerics import whole_type

_INT8 = 127
# Sizes of inputs for which a pool keeps what its sums are divided by.
_MOST_SIZES = 16


def _require_dims(name: str, signal: Signal, dims: int) -> None:
    if len(signal.shape) not in (dims + 1, dims + 2):
        wanted = ("length", "height, width", "depth, height, width")[dims - 1]
        raise InputError(f"{name}: expected an input [batch, (channels,) {wanted}]; got {list(signal.shape)}")


def _require_room(name: str, windows: Sequence[Window], size: Sequence[int]) -> None:
    for window, each in zip(windows, size, strict=True):
        try:
            window.outputs(each)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


_WINDOWS, _AROUND = Several(WINDOW, 1, 3), Several(PADDING, 1, 3)
_OUTPUTS = Several(OrNone(WINDOW), 1, 3)


def _check_windows(op: Op, *names: str) -> None:
    """As torch has it: one size for each dimension, and padding of half a window at most."""
    sizes = [op.settings[name] for name in names]
    op.require(len({len(size) for size in sizes}) == 1, f"{', '.join(names)} must be of the same dimensions")
    halves = zip(op.settings["kernel"], op.settings["padding"], strict=True)
    op.require(all(2 * around <= kernel for kernel, around in halves), "padding must be at most half of kernel")


def _check_padded(name: str, run: Run, signal: Signal, windows: Sequence[Window]) -> None:
    """Refuse padding that takes far more room than what is padded."""
    outer, sizes = signal.shape[: -len(windows)], signal.shape[-len(windows) :]
    padded = math.prod(size + 2 * window.padding for window, size in zip(windows, sizes, strict=True))
    check_room(name, math.prod(outer) * padded, run.room + signal.shape.numel())


def _check_outputs(name: str, run: Run, signal: Signal, outputs: Sequence[int | None]) -> None:
    """Refuse far more parts than there are entries."""
    outer, sizes = signal.shape[: -len(outputs)], signal.shape[-len(outputs) :]
    parts = math.prod(count or size for count, size in zip(outputs, sizes, strict=True))
    check_room(name, math.prod(outer) * parts, run.room + signal.shape.numel())


class MaxPool(Op):
    """The largest total of each window, as `torch.nn.MaxPool2d` and its like slide it."""

    SETTINGS = settings(
        name=NAME, kernel=_WINDOWS, stride=_WINDOWS, padding=_AROUND, dilation=_WINDOWS, ceil_mode=Flag()
    )
    takes_fills = True

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        given = self.settings
        sizes = zip(given["kernel"], given["stride"], given["padding"], given["dilation"], strict=True)
        return tuple(Window(*each, given["ceil_mode"]) for each in sizes)

    def check(self) -> None:
        _check_windows(self, "kernel", "stride", "padding", "dilation")

    def forward(self, run: Run, signal: Signal) -> Signal:
        dims = len(self.windows)
        _require_dims(self.settings["name"], signal, dims)
        sizes = signal.shape[-dims:]
        _check_padded(self.settings["name"], run, signal, self.windows)
        _require_room(self.settings["name"], self.windows, sizes)
        for window, size in zip(self.windows, sizes, strict=True):
            if not each_reads(window, size):
                raise InputError(f"{self.settings['name']}: a window of its maximum lies in the padding alone")
        signal = signal.with_uniform_divisor(tuple(range(-dims, 0)))
        return running_maximum(run, signal, lambda x: maxima(x, self.windows), self._of_spikes)

    def _of_spikes(self, train: Tensor, reach: float) -> Tensor | None:
        """By the compiled kernel, over one dimension or two."""
        dims = len(self.windows)
        if dims > 2 or not kernels.ready(train):
            return None
        batched = train if train.dim() == dims + 3 else train.unsqueeze(1)
        windows = (Window(1, 1), *self.windows)[-2:]
        result = without_plane(kernels.maxima(with_plane(batched, dims), windows, reach), dims)
        return result if batched is train else result.squeeze(1)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        size = [window.outputs(each) for window, each in zip(self.windows, signal.shape[2:], strict=True)]
        return _follow_maximum(follower, signal, size)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return room_for_maximum(signals)


class AdaptiveMaxPool(Op):
    """The largest total of each part, as `torch.nn.AdaptiveMaxPool2d` cuts the input; a size of None is left as it is.

    Sizes that the inputs decide come with the call.
    """

    takes_fills = True

    SETTINGS = settings(name=NAME, outputs=_OUTPUTS)

    def forward(self, run: Run, signal: Signal, outputs: Any = None) -> Signal:
        if outputs is not None:
            given = AdaptiveMaxPool(self.settings["name"], per_dimension(outputs, len(self.settings["outputs"])))
            result: Signal = given(run, signal)
            return result
        outputs = self.settings["outputs"]
        _require_dims(self.settings["name"], signal, len(outputs))
        _check_outputs(self.settings["name"], run, signal, outputs)
        signal = signal.with_uniform_divisor(tuple(range(-len(outputs), 0)))

        def largest(x: Tensor) -> Tensor:
            return _parts(x, outputs, lambda part, dim: part.amax(dim, keepdim=True))

        return running_maximum(run, signal, largest)

    def follow(self, follower: Follower, signal: Abstract, outputs: Any = None) -> Abstract:
        if abstracts(outputs):
            raise follower.unprovable("has parts whose number is read from values")
        outputs = self.settings["outputs"] if outputs is None else per_dimension(outputs, len(self.settings["outputs"]))
        follower.note(outputs)
        size = [count or each for count, each in zip(outputs, signal.shape[2:], strict=True)]
        return _follow_maximum(follower, signal, size)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return room_for_maximum(signals)


def _follow_maximum(follower: Follower, signal: Abstract, size: Sequence[int]) -> Abstract:
    """What is known of maxima over windows of all dimensions but the first two."""
    samples = follower.apart(signal, range(2, len(signal.shape)))
    return follow_maximum(follower, signal, [*signal.shape[:2], *size], samples)


def _parts(x: Tensor, outputs: Sequence[int | None], reduced: Callable[[Tensor, int], Tensor]) -> Tensor:
    for dim, count in enumerate(outputs, -len(outputs)):
        if count is not None and count != x.shape[dim]:
            spans = adaptive(x.shape[dim], count)
            x = torch.cat([reduced(x.narrow(dim, first, last - first), dim) for first, last in spans], dim)
    return x


class Average(Op, abstract=True):
    """Sums over windows; their mean is that over the number of entries, which becomes the divisor where it differs."""

    def forward(self, run: Run, signal: Signal) -> Signal:
        dims = self.dims
        _require_dims(self.settings["name"], signal, dims)
        self.check_room(run, signal)
        signal = signal.with_uniform_divisor(tuple(range(-dims, 0)))
        size = tuple(signal.shape[-dims:])
        if self.settings["grids"] is not None:
            counts = self.counts(size).to(signal.device)
            return rounded_mean(run, signal, self._sums_of_each, counts, self.settings["grids"])
        common, factor, most = self._division(size)
        lazy, drive = signal.lazy_train, signal.drive

        def summed(train: Tensor, bound: float) -> Tensor:
            kind = torch.float64
            if not train.dtype.is_floating_point:
                reach = bound * run.peak * most
                kind = torch.int8 if reach <= _INT8 else whole_type(reach)
            sums: Tensor = self.sums(train.to(kind).flatten(0, 1)).unflatten(0, train.shape[:2])
            return sums if factor is None else sums * factor.to(train.device, kind)

        sums: Tensor | LazyTrain | None = lazy.pooled(summed, most) if isinstance(lazy, DeferredSum) else None
        summed_drive = None if drive is None else whole_sums(run.numerics, drive, self.sums, by_row=True)
        divisor = signal.divisor
        if self.divides:
            by = torch.tensor(float(common), dtype=torch.float64, device=signal.device)
            divisor = by if divisor is None else divisor * by
        if factor is not None and summed_drive is not None:
            summed_drive = summed_drive * factor.to(signal.device)
        return Signal(
            summed(signal.train, signal.bound) if sums is None else sums, summed_drive, divisor, signal.bound * most
        )

    def _division(self, size: tuple[int, ...]) -> tuple[int, Tensor | None, float]:
        """What sums over the windows of an input of this size are divided by in common, what each is multiplied by first
        where windows are of unequal size, and the largest sum of ones then."""
        known = self.divisions.get(size)
        if known is None:
            counts = self.counts(size)
            common = math.lcm(*counts.unique().tolist()) if self.divides else 1
            factor = common // counts if self.divides else torch.ones_like(counts)
            known = common, factor if bool((factor != 1).any()) else None, float((counts * factor).max())
            if len(self.divisions) >= _MOST_SIZES:
                self.divisions.clear()
            self.divisions[size] = known
        return known

    @cached_property
    def divisions(self) -> dict[tuple[int, ...], tuple[int, Tensor | None, float]]:
        """By the size of an input, what its sums are divided by."""
        return {}

    def _sums_of_each(self, x: Tensor) -> Tensor:
        """Sums over the windows, whatever dimensions there are in front of the batch."""
        front = x.shape[: -self.dims - 1]
        summed: Tensor = self.sums(x.flatten(0, len(front) - 1)).unflatten(0, front)
        return summed

    def provenance(self, run: Run, result: Signal, signal: Provenance) -> Provenance:
        def sums(counts: Tensor) -> Tensor:
            summed: Tensor = self.sums(counts.flatten(0, 1)).unflatten(0, counts.shape[:2])
            return summed

        return signal.put_together(result, sums)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train = signal.train or Train()
        size = self.outputs(signal.shape[2:])
        samples = follower.apart(signal, range(2, len(signal.shape)))
        return follower.signal([*signal.shape[:2], *size], samples, train.steps, 8, train.real)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return super().working(follower, signals) + room_for_drive(follower, signals[0], signals[-1])

    @property
    @abstractmethod
    def dims(self) -> int:
        """Over how many dimensions the windows go."""

    @property
    @abstractmethod
    def divides(self) -> bool:
        """Whether it divides by the number of entries itself; if not, a constant does."""

    @abstractmethod
    def check_room(self, run: Run, signal: Signal) -> None:
        """Refuse windows that take far more room than what they slide over."""

    @abstractmethod
    def outputs(self, size: Sequence[int]) -> list[int]:
        """How many windows there are along each dimension, for an input of this size."""

    @abstractmethod
    def counts(self, size: tuple[int, ...]) -> Tensor:
        """`[*outputs]`: how many entries each window averages over, for an input of this size."""

    @abstractmethod
    def sums(self, x: Tensor) -> Tensor:
        """Sums over the windows of the last dimensions."""


class AveragePool(Average):
    """As `torch.nn.AvgPool2d` and its like slide it; without `divides` it gives the sums."""

    SETTINGS = settings(
        name=NAME,
        kernel=_WINDOWS,
        stride=_WINDOWS,
        padding=_AROUND,
        ceil_mode=Flag(),
        count_include_pad=Flag(),
        divides=Flag(),
        grids=GRIDS,
    )

    @property
    def dims(self) -> int:
        return len(self.settings["kernel"])

    @property
    def divides(self) -> bool:
        return bool(self.settings["divides"])

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        given = self.settings
        sizes = zip(given["kernel"], given["stride"], given["padding"], strict=True)
        return tuple(Window(*each, 1, given["ceil_mode"]) for each in sizes)

    def check(self) -> None:
        _check_windows(self, "kernel", "stride", "padding")

    def check_room(self, run: Run, signal: Signal) -> None:
        _check_padded(self.settings["name"], run, signal, self.windows)

    def outputs(self, size: Sequence[int]) -> list[int]:
        return [window.outputs(each) for window, each in zip(self.windows, size, strict=True)]

    def counts(self, size: tuple[int, ...]) -> Tensor:
        _require_room(self.settings["name"], self.windows, size)
        with_padding = self.settings["count_include_pad"]
        return _outer([window.counts(each, with_padding) for window, each in zip(self.windows, size, strict=True)])

    def sums(self, x: Tensor) -> Tensor:
        return sums(x, self.windows)


class AdaptiveAveragePool(Average):
    """As `torch.nn.AdaptiveAvgPool2d` cuts the input; a size of None is left as it is.

    Sizes that the inputs decide come with the call.
    """

    SETTINGS = settings(name=NAME, outputs=_OUTPUTS, grids=GRIDS)

    @property
    def divides(self) -> bool:
        return True

    @property
    def dims(self) -> int:
        return len(self.settings["outputs"])

    def forward(self, run: Run, signal: Signal, outputs: Any = None) -> Signal:
        if outputs is None:
            return super().forward(run, signal)
        result: Signal = self._into(outputs)(run, signal)
        return result

    def provenance(self, run: Run, result: Signal, signal: Provenance, outputs: Any = None) -> Provenance:
        own = self if outputs is None else self._into(outputs)
        return super(AdaptiveAveragePool, own).provenance(run, result, signal)

    def follow(self, follower: Follower, signal: Abstract, outputs: Any = None) -> Abstract:
        if abstracts(outputs):
            raise follower.unprovable("has parts whose number is read from values")
        if outputs is None:
            return super().follow(follower, signal)
        follower.note(per_dimension(outputs, self.dims))
        return self._into(outputs).follow(follower, signal)

    def _into(self, outputs: Any) -> AdaptiveAveragePool:
        """The same pool into this many parts."""
        return AdaptiveAveragePool(self.settings["name"], per_dimension(outputs, self.dims), self.settings["grids"])

    def check_room(self, run: Run, signal: Signal) -> None:
        _check_outputs(self.settings["name"], run, signal, self.settings["outputs"])

    def outputs(self, size: Sequence[int]) -> list[int]:
        return [count or each for count, each in zip(self.settings["outputs"], size, strict=True)]

    def counts(self, size: tuple[int, ...]) -> Tensor:
        spans = [adaptive(each, count or each) for each, count in zip(size, self.settings["outputs"], strict=True)]
        return _outer([torch.tensor([last - first for first, last in each]) for each in spans])

    def sums(self, x: Tensor) -> Tensor:
        return _parts(x, self.settings["outputs"], lambda part, dim: part.sum(dim, keepdim=True, dtype=x.dtype))


class PoolAt(Op):
    """A pool whose window the inputs decide, as in `F.avg_pool2d(x, x.size()[2:])`: a maximum, or an average."""

    SETTINGS = settings(
        name=NAME, maximum=Flag(), padding=_AROUND, dilation=_WINDOWS, ceil_mode=Flag(), count_include_pad=Flag()
    )

    def forward(self, run: Run, signal: Signal, kernel: Any, stride: Any = None) -> Signal:
        result: Signal = self.pool(kernel, stride)(run, signal)
        return result

    def provenance(self, run: Run, result: Signal, signal: Provenance, kernel: Any, stride: Any = None) -> Provenance:
        own: Provenance = self.pool(kernel, stride).provenance(run, result, signal)
        return own

    def follow(self, follower: Follower, signal: Abstract, kernel: Any, stride: Any = None) -> Abstract:
        if abstracts((kernel, stride)):
            raise follower.unprovable("has windows whose size is read from values")
        follower.note(kernel, stride)
        result: Abstract = self.pool(kernel, stride).follow(follower, signal)
        return result

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        return max(room_for_maximum(signals), super().working(follower, signals)) + room_for_drive(
            follower, signals[0], signals[-1]
        )

    def pool(self, kernel: Any, stride: Any = None) -> MaxPool | AveragePool:
        """The pool over windows of this size."""
        settings, dims = self.settings, len(self.settings["padding"])
        kernel = per_dimension(kernel, dims)
        around = {name: settings[name] for name in ("name", "padding", "ceil_mode")}
        around |= {"kernel": kernel, "stride": kernel if stride in (None, []) else per_dimension(stride, dims)}
        if settings["maximum"]:
            return MaxPool(dilation=settings["dilation"], **around)
        return AveragePool(count_include_pad=settings["count_include_pad"], divides=True, **around)


def _outer(factors: Sequence[Tensor]) -> Tensor:
    result = factors[0]
    for factor in factors[1:]:
        result = result[..., None] * factor
    return result
