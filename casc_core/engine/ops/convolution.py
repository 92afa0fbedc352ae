"""Snapped convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.functions import check_room
from casc_core.engine.ops.affine import AffineMap, affine_tensors
from casc_core.engine.ops.declared import PADDING, OneOf, Otherwise, Several, Whole, settings
from casc_core.engine.products.deferred_sum import filtered
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry, convolve, patch_bytes
from casc_core.engine.products.input_product import ConvolutionSums
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.run import Run
from casc_core.engine.signal import LazyTrain, Signal
from casc_core.errors import InputError

_MOVE = Whole(1, 2**16)
# Of a transposed convolution it may be negative, which cuts off.
_AROUND = Whole(-PADDING.most, PADDING.most)


def _plane(settings: Mapping[str, Any], kernel: tuple[int, int], ahead: int) -> Geometry:
    """The geometry of the last two dimensions, of which the settings name `ahead` before them."""
    stride, dilation = (tuple(settings[name][ahead:]) for name in ("stride", "dilation"))
    return Geometry(kernel, stride, tuple(settings["padding"][2 * ahead :]), dilation, settings["groups"])


class Convolution(AffineMap):
    """A snapped convolution of `[batch, channels, height, width]`, or with `dims=1` of `[batch, channels, length]`.

    Its currents are left as the terms of a sum, so that the population they reach may read them from the spikes. Weights
    are `[O, C/groups, kh, kw]`; a convolution in one dimension has height 1. With `spread` it is a transposed one: so far
    apart (down, across) are the inputs moved, zeros between them; then a padding may be negative, which cuts off.
    """

    SETTINGS = settings(
        **AffineMap.SETTINGS, dims=OneOf((1, 2)), stride=Several(_MOVE, 2, 2), padding=Several(_AROUND, 4, 4),
        dilation=Several(_MOVE, 2, 2), groups=Whole(1, 2**20), spread=Otherwise(Several(_MOVE, 2, 2), [1, 1]),
    )  # fmt: skip
    TENSORS = affine_tensors("outputs", "inputs", "height", "width")

    @cached_property
    def channels(self) -> int:
        """Of its input."""
        return int(self.kernel[1]) * int(self.settings["groups"])

    @cached_property
    def geometry(self) -> Geometry:
        height, width = self.kernel[2:]
        return _plane(self.settings, (int(height), int(width)), 0)

    @cached_property
    def is_cut(self) -> bool:
        return bool(min(self.settings["padding"]) < 0)

    @cached_property
    def inner(self) -> Geometry:
        """That of what is padded or cut already."""
        return replace(self.geometry, padding=(0, 0, 0, 0)) if self.is_cut else self.geometry

    @cached_property
    def sums(self) -> ConvolutionSums:
        """The map of real-valued input, padded or cut already."""
        return ConvolutionSums(self.inner, self.settings["dims"])

    @cached_property
    def is_spread(self) -> bool:
        return self.is_cut or max(self.settings["spread"]) > 1

    def filter(self, weight: Tensor) -> Filter:
        """What spikes go through."""
        name, exponent = self.settings["name"], self.settings["exponent"]
        return self.kept(
            weight, "filter", lambda: Filter(name, weight, exponent, self.inner, self.reach, WeightCache())
        )

    def check(self) -> None:
        super().check()
        given, kernel = self.settings, self.kernel
        self.require(kernel[0] % given["groups"] == 0, f"its groups must divide its {kernel[0]} outputs")
        flat = given["dims"] == 2 or (kernel[2] == given["stride"][0] == 1 and given["padding"][:2] == [0, 0])
        self.require(flat, "in one dimension its height is 1, and nothing moves over it")

    def forward(self, run: Run, signal: Signal) -> Signal:
        dims, name = self.settings["dims"], self.settings["name"]
        if len(signal.shape) != dims + 2 or signal.shape[1] != self.channels:
            sizes = "length" if dims == 1 else "height, width"
            raise InputError(f"{name}: expected an input [batch, {self.channels}, {sizes}]; got {list(signal.shape)}")
        signal = signal.with_uniform_divisor(tuple(range(-dims - 1, 0)))
        batch, *size = signal.shape[0], *signal.shape[2:]
        height, width = self._spread_size(signal.shape)
        try:
            out = self.geometry.output_size(height, width)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        outputs = self.outputs
        shape = torch.Size([batch, outputs, *out[2 - dims :]])
        top, bottom, left, right = self.geometry.padding
        padded = (width + left + right) * (height + top + bottom)
        room = run.room + batch * max(outputs, self.channels) * math.prod(size)
        check_room(name, batch * max(outputs * math.prod(out), self.channels * max(padded, height * width)), room)
        if self.is_spread:
            signal = replace(replace(signal, divisor=None).map(self.spread), divisor=signal.divisor)
        drive = self.drive(run, signal, self.sums, shape, -1 - dims)
        currents: Tensor | LazyTrain
        if self.weight is None:
            currents, bound = torch.zeros((0, *shape), dtype=torch.int8, device=signal.device), 0.0
        elif self.settings["rounds"]:
            currents, bound = self.of_totals(run, signal, self.sums, shape)
        else:
            bound = signal.bound * self.reach
            currents = filtered(self.filter(self.weight), run.numerics, run.peak, signal, dims)
        return Signal(currents, drive, signal.divisor, bound)

    @property
    def input_dim(self) -> int:
        return -1 - int(self.settings["dims"])

    def fan_out(self, shape: torch.Size) -> Tensor:
        down, across = self.settings["spread"]
        positions = self.geometry.fan_out(*self._spread_size(shape))[::down, ::across]
        return (positions[0] if self.settings["dims"] == 1 else positions) * (self.outputs // self.geometry.groups)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train = signal.train or Train()
        outputs = self.outputs
        size = self.geometry.output_size(*self._spread_size(signal.shape))
        room = follower.room + signal.shape[0] * max(outputs, self.channels) * math.prod(signal.shape[2:])
        check_room(self.settings["name"], signal.shape[0] * outputs * math.prod(size), room)
        shape = [signal.shape[0], outputs, *size[2 - self.settings["dims"] :]]
        samples = follower.apart(signal, range(1, len(signal.shape)))
        if self.weight is None:
            return follower.signal(shape, samples, real=train.real)
        if self.settings["rounds"]:
            return follower.signal(shape, samples, train.steps, 8, train.real)
        held = signal.nbytes if train.held is None else 8 * train.steps * signal.like.numel()
        return follower.signal(shape, samples, train.steps, 8, train.real, held * math.prod(self.settings["spread"]))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        room = patch_bytes(follower.device)
        totals = self.room_for_totals(read, given) + room if self.settings["rounds"] else 0
        if not read.is_driven:
            return totals  # of spikes, a population behind it does the work
        apart: int = 8 * read.like.numel() * math.prod(self.settings["spread"])
        patches = apart * math.prod(self.geometry.kernel)
        at_once = min(patches, max(room, patches // read.shape[0]))
        return totals + apart + 24 * given.like.numel() + at_once + self.room_for_drive(follower, read, given)

    def _spread_size(self, shape: torch.Size) -> tuple[int, int]:
        """Height and width of an input of this shape, zeros between its entries."""
        size = [1, *shape[2:]] if self.settings["dims"] == 1 else shape[2:]
        height, width = ((each - 1) * by + 1 for each, by in zip(size, self.settings["spread"], strict=True))
        return height, width

    def spread(self, x: Tensor) -> Tensor:
        """`x` with zeros between its entries, and where any are cut off, padded as well."""
        dims = self.settings["dims"]
        for dim, by in zip(range(x.dim() - dims, x.dim()), self.settings["spread"][-dims:], strict=True):
            if by > 1:
                apart = F.pad(x.unsqueeze(dim + 1), [0, 0] * (x.dim() - dim - 1) + [0, by - 1])
                x = apart.flatten(dim, dim + 1).narrow(dim, 0, (x.shape[dim] - 1) * by + 1)
        if not self.is_cut:
            return x
        top, bottom, left, right = self.geometry.padding
        around = [left, right, top, bottom][: 2 * dims]
        return F.pad(F.pad(x, [max(each, 0) for each in around]), [min(each, 0) for each in around])


class Convolution3d(AffineMap):
    """A snapped convolution of `[batch, channels, depth, height, width]`: a sum of those in two dimensions.

    Weights are `[O, C/groups, kd, kh, kw]`; `padding` is (front, back, top, bottom, left, right).
    """

    SETTINGS = settings(
        **AffineMap.SETTINGS, stride=Several(_MOVE, 3, 3), padding=Several(PADDING, 6, 6), dilation=Several(_MOVE, 3, 3),
        groups=Whole(1, 2**20),
    )  # fmt: skip
    TENSORS = affine_tensors("outputs", "inputs", "depth", "height", "width")

    @cached_property
    def channels(self) -> int:
        """Of its input."""
        return int(self.kernel[1]) * int(self.settings["groups"])

    @cached_property
    def depth(self) -> Geometry:
        stride, padding, dilation = (self.settings[name] for name in ("stride", "padding", "dilation"))
        return Geometry((int(self.kernel[2]), 1), (stride[0], 1), (padding[0], padding[1], 0, 0), (dilation[0], 1))

    @cached_property
    def plane(self) -> Geometry:
        height, width = self.kernel[3:]
        return _plane(self.settings, (int(height), int(width)), 1)

    def check(self) -> None:
        super().check()
        self.require(self.outputs % self.settings["groups"] == 0, f"its groups must divide its {self.outputs} outputs")

    def forward(self, run: Run, signal: Signal) -> Signal:
        name = self.settings["name"]
        if len(signal.shape) != 5 or signal.shape[1] != self.channels:
            raise InputError(
                f"{name}: expected an input [batch, {self.channels}, depth, height, width]; got {list(signal.shape)}"
            )
        signal = signal.with_uniform_divisor((-4, -3, -2, -1))
        batch, _, depth, *plane = signal.shape
        try:
            out = self.depth.output_size(depth, 1)[0], *self.plane.output_size(plane[0], plane[1])
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        outputs = self.outputs
        shape = torch.Size([batch, outputs, *out])
        given = zip(signal.shape[2:], self.settings["padding"][::2], self.settings["padding"][1::2], strict=True)
        padded = self.channels * math.prod(size + before + after for size, before, after in given)
        room = run.room + batch * max(outputs, self.channels) * math.prod(signal.shape[2:])
        check_room(name, batch * max(padded, math.prod(shape[1:])), room)
        drive = self.drive(run, signal, self._convolve, shape, -4)
        bound = 0.0
        train: Tensor | LazyTrain = torch.zeros((0, *shape), dtype=torch.int8, device=signal.device)
        if self.settings["rounds"]:
            train, bound = self.of_totals(run, signal, self._convolve, shape)
        elif self.weight is not None:
            bound = signal.bound * self.reach
            dtype = run.numerics.dtype(bound * run.peak, self.settings["exponent"], name)
            train = torch.zeros((0, *shape), dtype=dtype, device=signal.device)
            if signal.steps:
                together = self._convolve(signal.train.flatten(0, 1).to(dtype), self.weight.to(dtype))
                train = together.unflatten(0, (signal.steps, batch))
        return Signal(train, drive, signal.divisor, bound)

    input_dim = -4

    def fan_out(self, shape: torch.Size) -> Tensor:
        depth, *plane = shape[2:]
        positions = self.depth.fan_out(depth, 1)[..., None] * self.plane.fan_out(plane[0], plane[1])
        return positions * (self.outputs // self.plane.groups)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train = signal.train or Train()
        depth, *plane = signal.shape[2:]
        shape = [signal.shape[0], self.outputs, self.depth.output_size(depth, 1)[0], *self.plane.output_size(*plane)]
        steps = 0 if self.weight is None else train.steps
        return follower.signal(shape, follower.apart(signal, range(1, 5)), steps, 8, train.real)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        steps = max(each.train.steps if each.train else 0 for each in signals) + 1
        moved = 8 * steps * (2 * read.like.numel() + 2 * given.like.numel())
        room = self.room_for_drive(follower, read, given) + self.room_for_totals(read, given)
        return moved + patch_bytes(follower.device) + room

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The sum over the taps in depth, each a convolution of the slices that it reads."""
        front, back = self.depth.padding[:2]
        slices = self.depth.output_size(x.shape[2], 1)[0]
        x, step = F.pad(x, [0, 0, 0, 0, front, back]), self.depth.stride[0]
        result: Tensor | None = None
        for tap in range(weight.shape[2]):
            first = tap * self.depth.dilation[0]
            read = x[:, :, first : first + (slices - 1) * step + 1 : step].transpose(1, 2)
            part = convolve(read.flatten(0, 1), weight[:, :, tap], self.plane)
            result = part if result is None else result + part
        assert result is not None
        summed: Tensor = result.unflatten(0, (len(x), slices)).transpose(1, 2)
        return summed
