"""Operations on the inputs of a network, and on how they enter it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.float64 import in_float64
from casc_core.functions import ATTRIBUTES, DTYPES, FUNCTIONS, call
from casc_core.numerics import INPUT_REACH, largest
from casc_core.ops.declared import EXPONENT, NAME, Numbers, OneOf, Whole, settings, tensors
from casc_core.ops.op import Op
from casc_core.run import Run
from casc_core.signal import Signal, TableRows


class Call(Op):
    """A function of the inputs alone (tokens, lengths, masks, shapes), executed as it is."""

    SETTINGS = settings(function=OneOf(FUNCTIONS))

    def __init__(self, function: str) -> None:
        super().__init__({"function": function})

    def forward(self, run: Run, *args: Any, **kwargs: Any) -> Any:
        with in_float64() if run.numerics.is_float64 else nullcontext():
            return call(self.settings["function"], run.room, args, kwargs)


class Constant(Op):
    """A parameter or buffer that the model's forward reads directly."""

    TENSORS = tensors(value=Numbers(types=frozenset(DTYPES.values()), finite=False))
    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__(tensors={"value": value})

    def forward(self, run: Run) -> Any:
        return self.value


class Attribute(Op):
    """Shape, device or number of dimensions of a signal."""

    SETTINGS = settings(name=OneOf(ATTRIBUTES))

    def __init__(self, name: str) -> None:
        super().__init__({"name": name})

    def forward(self, run: Run, signal: Signal) -> Any:
        known = {"shape": signal.shape, "device": signal.device, "ndim": len(signal.shape)}
        return known.get(self.settings["name"], torch.float32)


class Encode(Op):
    """A real-valued input becomes a drive, rounded once to a fixed grid."""

    SETTINGS = settings(exponent=EXPONENT)

    def __init__(self, exponent: int) -> None:
        super().__init__({"exponent": exponent})

    def forward(self, run: Run, value: Tensor | float) -> Signal:
        drive = run.numerics.snap(torch.as_tensor(value), self.settings["exponent"])
        reach = largest(drive)
        if not reach < INPUT_REACH:
            raise InputError(
                f"real-valued inputs must be finite and below {INPUT_REACH:g} in magnitude; the largest is {reach:g}. "
                "Scale them, and the first layer's weights the other way"
            )
        return driven(drive, drive.shape, drive.device)


class Embed(Op):
    """A table of real-valued vectors, looked up by token id.

    `multiplies` and `biases` count what it spares for each row: those of the linear map that has been folded into it.
    """

    SETTINGS = settings(name=NAME, multiplies=Whole(0, 2**53), biases=Whole(0, 2**53))
    TENSORS = tensors(table=Numbers((("rows", "width"),)))
    table: Tensor

    def __init__(self, name: str, table: Tensor, multiplies: int = 0, biases: int = 0) -> None:
        super().__init__({"name": name, "multiplies": multiplies, "biases": biases}, {"table": table})

    def forward(self, run: Run, tokens: Tensor) -> Signal:
        rows, table = self.table.shape[0], self.table
        if tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
            raise InputError(f"{self.settings['name']}: token ids must be integers; got {tokens.dtype}")
        if tokens.numel() == 0:
            raise InputError(f"{self.settings['name']}: the batch is empty: token ids of shape {list(tokens.shape)}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= rows:
            raise InputError(
                f"{self.settings['name']}: token id {low if low < 0 else high} is out of range; the table has rows "
                f"0..{rows - 1}"
            )
        multiplies, biases = (float(self.settings[key] * tokens.numel()) for key in ("multiplies", "biases"))
        if run.recorder is not None:
            run.recorder.multiplied(multiplies, real=multiplies, biases=biases)
        shape = torch.Size([*tokens.shape, table.shape[1]])
        return driven(TableRows(table, tokens.long()), shape, table.device, is_raw=not multiplies)


def driven(drive: Tensor | TableRows, shape: torch.Size, device: torch.device, is_raw: bool = True) -> Signal:
    """A signal without spikes, its first dimension the batch."""
    train = torch.zeros((0, *shape), dtype=torch.int8, device=device)
    return Signal(train, drive, None, 0.0, batch_owner(shape, 0, device), is_raw)


def batch_owner(shape: torch.Size, axis: int, device: torch.device) -> Callable[[], Tensor]:
    """Owner of a tensor of this shape whose dimension `axis` counts the samples."""

    def owner() -> Tensor:
        if not shape:
            return torch.zeros((), dtype=torch.int64, device=device)
        sample = torch.arange(shape[axis], device=device)
        return sample.reshape([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)

    return owner
