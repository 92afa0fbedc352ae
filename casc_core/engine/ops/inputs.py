"""Operations on the inputs of a network, and on how they enter it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.batching.places import Samples
from casc_core.engine.batching.samples import Abstract, Follower
from casc_core.engine.float64 import in_float64
from casc_core.engine.functions import ATTRIBUTES, DTYPES, FUNCTIONS, call, count_made, followed
from casc_core.engine.ops.declared import EXPONENT, NAME, Numbers, OneOf, OrNone, Whole, settings, tensors
from casc_core.engine.ops.op import Op
from casc_core.engine.ops.reduction import finite_reach
from casc_core.engine.recording.provenance import Connection, Provenance
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.signal import LazyDrive, Signal, TableRows
from casc_core.errors import InputError
from casc_core.numerics import largest


class Call(Op):
    """A function of the inputs alone (tokens, lengths, masks, shapes), executed as it is."""

    SETTINGS = settings(function=OneOf(FUNCTIONS))

    def forward(self, run: Run, *args: Any, **kwargs: Any) -> Any:
        with in_float64() if run.numerics.is_float64 else nullcontext():
            result = call(self.settings["function"], run.room, args, kwargs)
        run.made = count_made(run.made, result, run.room)
        return result

    def follow(self, follower: Follower, *args: Any, **kwargs: Any) -> Any:
        return followed(follower, self.settings["function"], args, kwargs)


class Constant(Op):
    """A parameter or buffer that the model's forward reads directly."""

    TENSORS = tensors(value=Numbers(types=frozenset(DTYPES.values()), finite=False))
    value: Tensor

    def forward(self, run: Run) -> Any:
        return self.value

    def follow(self, follower: Follower) -> Tensor:
        return self.value


class Attribute(Op):
    """Shape, device or number of dimensions of a signal."""

    SETTINGS = settings(name=OneOf(ATTRIBUTES))

    def forward(self, run: Run, signal: Signal) -> Any:
        known = {"shape": signal.shape, "device": signal.device, "ndim": len(signal.shape)}
        return known.get(self.settings["name"], torch.float32)

    def follow(self, follower: Follower, signal: Abstract) -> Any:
        known = {"shape": signal.shape, "device": follower.device, "ndim": len(signal.shape)}
        return known.get(self.settings["name"], torch.float32)


class Encode(Op):
    """A real-valued input becomes a drive: as it is, or rounded once to a fixed grid."""

    SETTINGS = settings(exponent=OrNone(EXPONENT))

    def forward(self, run: Run, value: Tensor | float) -> Signal:
        drive = run.numerics.drive(_there(value, run.device), self.settings["exponent"])
        reach = largest(drive)
        if not math.isfinite(reach):
            raise InputError(
                f"real-valued inputs must be finite, and one is {reach:g}: find it with torch.isfinite(x), in the data or "
                "in what prepares the data, such as a division by zero"
            )
        most = run.numerics.input_reach
        if not reach < most:
            raise InputError(
                f"real-valued inputs must be below {most:g} in magnitude; the largest is {reach:g}. Scale them, and "
                "the first layer's weights the other way"
            )
        return driven(drive, drive.shape, drive.device)

    def follow(self, follower: Follower, value: Abstract | Tensor | float) -> Abstract:
        value = value if isinstance(value, Abstract) else _there(value, follower.device)
        return follower.signal(value.shape, _samples(follower, value), real=True)


class Round(Op):
    """A signal whose drive is rounded to a grid, where something other than neurons is about to make a train of it."""

    SETTINGS = settings(exponent=EXPONENT)
    connection = Connection.MOVES
    takes_fills = True

    def forward(self, run: Run, signal: Signal) -> Signal:
        exponent, drive = self.settings["exponent"], signal.drive
        if drive is None:
            return signal
        run.sum_dtype(run.total + 1, 0.0, finite_reach(drive), exponent, "a maximum or a product of inputs")
        return replace(signal, lazy_drive=run.numerics.snap(drive, exponent))

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        return signal


class Silence(Op):
    """Zeros become a signal without spikes and without a drive."""

    def forward(self, run: Run, value: Tensor) -> Signal:
        value = _there(value, run.device)
        return driven(None, value.shape, value.device)

    def follow(self, follower: Follower, value: Abstract | Tensor) -> Abstract:
        return follower.signal(value.shape, _samples(follower, value))


class Embed(Op):
    """A table of real-valued vectors, looked up by token id.

    `multiplies` and `biases` count what it spares for each row: those of the linear map that has been folded into it.
    """

    SETTINGS = settings(name=NAME, multiplies=Whole(0, 2**53), biases=Whole(0, 2**53))
    TENSORS = tensors(table=Numbers((("rows", "width"),)))
    table: Tensor

    def forward(self, run: Run, tokens: Tensor) -> Signal:
        rows, table = self.table.shape[0], self.table
        if tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
            raise InputError(f"{self.settings['name']}: token ids must be integers; got {tokens.dtype}")
        if tokens.numel() == 0:
            raise InputError(f"{self.settings['name']}: the batch is empty: token ids of shape {list(tokens.shape)}")
        low, high = torch.stack(torch.aminmax(tokens)).tolist()
        if low < 0 or high >= rows:
            raise InputError(
                f"{self.settings['name']}: token id {low if low < 0 else high} is out of range; the table has rows "
                f"0..{rows - 1}"
            )
        shape = torch.Size([*tokens.shape, table.shape[1]])
        return driven(TableRows(table, tokens.long()), shape, table.device)

    def provenance(self, run: Run, result: Signal, tokens: Tensor) -> Provenance:
        return Provenance(result, run.peak, is_current=self.settings["multiplies"] > 0)

    def work(self, result: Provenance, tokens: Tensor) -> Work:
        multiplies, biases = (float(self.settings[key] * tokens.numel()) for key in ("multiplies", "biases"))
        return Work(awake=multiplies + biases, dense=multiplies)

    def follow(self, follower: Follower, tokens: Abstract | Tensor) -> Abstract:
        shape = [*tokens.shape, self.table.shape[1]]
        return follower.signal(shape, _samples(follower, tokens))


def _there(value: Tensor | float, device: torch.device | None) -> Tensor:
    """A tensor as it is; a number, which torch takes from any device, where the network is, and with all of its bits."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float64, device=device)
    return value if value.dim() or device is None else value.to(device)


def _samples(follower: Follower, value: Abstract | Tensor) -> Samples:
    """Where the samples are in what becomes a signal."""
    return follower.entry(value) if isinstance(value, Tensor) else value.samples


def driven(drive: Tensor | LazyDrive | None, shape: torch.Size, device: torch.device) -> Signal:
    """A signal of this shape without spikes."""
    return Signal(torch.zeros((0, *shape), dtype=torch.int8, device=device), drive, None, 0.0)
