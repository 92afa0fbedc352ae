"""Snapped convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from casc_core.currents import Currents, Filter, Term
from casc_core.errors import InputError
from casc_core.functions import check_room
from casc_core.geometry import PATCH_BYTES, Geometry, convolve
from casc_core.kept import Kept
from casc_core.ops.affine import AffineMap, affine_tensors
from casc_core.ops.declared import PADDING, OneOf, Several, Whole, settings
from casc_core.recorder import arrivals
from casc_core.run import Run
from casc_core.samples import Abstract, Follower, Train
from casc_core.signal import Signal

_MOVE = Whole(1, 2**16)


class Convolution(AffineMap):
    """A snapped convolution of `[batch, channels, height, width]`, or with `dims=1` of `[batch, channels, length]`.

    Its currents are left as the terms of a sum, so that the population they reach may read them from the spikes. Weights
    are `[O, C/groups, kh, kw]`; a convolution in one dimension has height 1.
    """

    SETTINGS = settings(
        **AffineMap.SETTINGS, dims=OneOf((1, 2)), stride=Several(_MOVE, 2, 2), padding=Several(PADDING, 4, 4),
        dilation=Several(_MOVE, 2, 2), groups=Whole(1, 2**20),
    )  # fmt: skip
    TENSORS = affine_tensors("outputs", "inputs", "height", "width")

    def __init__(
        self,
        name: str,
        weight: Tensor | None,
        fine: Tensor | None,
        bias: Tensor | None,
        exponent: int,
        input_exponent: int,
        fine_exponent: int,
        drive_exponent: int,
        dims: int,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        train_exponent: int | None = None,
    ) -> None:
        super().__init__(
            name, weight, fine, bias, exponent, input_exponent, fine_exponent, drive_exponent, train_exponent,
            dims=dims, stride=list(stride), padding=list(padding), dilation=list(dilation), groups=groups,
        )  # fmt: skip
        kernel = next(w for w in (weight, fine) if w is not None).shape
        self.channels = int(kernel[1]) * groups
        top, bottom, left, right = padding
        self.geometry = Geometry(
            (int(kernel[2]), int(kernel[3])), (stride[0], stride[1]), (top, bottom, left, right),
            (dilation[0], dilation[1]), groups,
        )  # fmt: skip
        self.kept = Kept()

    def check(self) -> None:
        super().check()
        given, kernel = self.settings, next(w for w in (self.weight, self.fine) if w is not None).shape
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
        try:
            out = self.geometry.output_size(*([1, *size] if dims == 1 else size))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        outputs = next(w for w in (self.weight, self.fine) if w is not None).shape[0]
        shape = torch.Size([batch, outputs, *out[2 - dims :]])
        top, bottom, left, right = self.geometry.padding
        padded = (size[-1] + left + right) * (1 if dims == 1 else size[0] + top + bottom)
        room = run.room + batch * max(outputs, self.channels) * math.prod(size)
        check_room(name, batch * max(outputs * math.prod(out), self.channels * padded), room)
        drive = self.drive(run, signal, self._convolve, -1 - dims)
        drive = None if drive is None else drive.expand(shape)
        flow: Tensor | Currents
        if self.weight is None:
            assert drive is not None
            flow, bound = drive.new_zeros((0, *shape), dtype=torch.int8), 0.0
        else:
            bound = signal.bound * self.reach
            train = signal.train.unsqueeze(-2) if dims == 1 else signal.train
            own = Filter(name, self.weight, self.settings["exponent"], self.geometry, self.reach, self.kept)
            flow = Currents((Term(own, train, signal.bound),), dims, run.numerics, run.peak)
            self._arriving(run, signal, train)
        if run.recorder is not None:
            height = 1 if dims == 1 else size[0]
            fan_out = float(self.geometry.fan_out(height, size[-1]).sum())
            pairs = batch * self.channels * (outputs // self.geometry.groups) * fan_out
            self.note(run.recorder, pairs, signal, shape)
        return Signal(flow, drive, signal.divisor, bound, is_raw=False)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        dims, train = self.settings["dims"], signal.train or Train()
        batch, *size = signal.shape[0], *signal.shape[2:]
        out = self.geometry.output_size(*([1, *size] if dims == 1 else size))
        outputs = next(w for w in (self.weight, self.fine) if w is not None).shape[0]
        samples = follower.apart(signal, range(1, len(signal.shape)))
        if self.weight is None:
            return follower.signal([batch, outputs, *out[2 - dims :]], samples, real=train.real)
        held = signal.nbytes if train.held is None else 8 * train.steps * signal.like.numel()
        return follower.signal([batch, outputs, *out[2 - dims :]], samples, train.steps, 8, train.real, held)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        if read.train is None or not read.train.real:
            return 0  # a population behind it does the work
        patches = 8 * read.like.numel() * math.prod(self.geometry.kernel)
        return 8 * read.like.numel() + 24 * given.like.numel() + min(patches, PATCH_BYTES)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        same = x.dim() > 0 and x.stride(0) == 0 and len(x) > 1  # the same for all samples
        some = x[:1] if same else x
        some = some.unsqueeze(-2) if self.settings["dims"] == 1 else some
        result = convolve(some, weight, self.geometry)
        result = result.squeeze(-2) if self.settings["dims"] == 1 else result
        return result.expand(len(x), *result.shape[1:])

    def _arriving(self, run: Run, signal: Signal, train: Tensor) -> None:
        recorder = run.recorder
        if recorder is None or not recorder.keep_activity or self.weight is None:
            return
        fan_out = self.geometry.fan_out(*train.shape[3:]).to(train.device)
        each = len(self.weight) // self.geometry.groups
        if not signal.is_raw:
            recorder.multiplied_by_step((train != 0).sum(2) * fan_out, each)
            return
        traffic = signal.merged
        merged = None if traffic is None else traffic().reshape(train.shape).permute(0, 1, 3, 4, 2)
        by_position = replace(
            signal, flow=train.permute(0, 1, 3, 4, 2), merged=None if merged is None else lambda: merged
        )
        recorder.made(arrivals(by_position, recorder.bursts) * fan_out, each)
