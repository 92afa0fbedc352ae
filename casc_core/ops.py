"""The operations of a lowered network.

Each is built at conversion from plain settings (kept as JSON) and tensors (kept as buffers), and runs on `Signal`s in
spikes and in levels alike. Tensors are natural values on a power-of-two grid, so they stay exact in floating point.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.errors import ConversionError, InputError
from casc_core.functions import ATTRIBUTES, FUNCTIONS
from casc_core.numerics import INPUT_REACH, Float, Numerics, binade, on_grid
from casc_core.run import Run
from casc_core.signal import Signal, add_trains, broadcast


class Op(nn.Module):
    """One operation: called as `op(run, *values)`.

    Subclasses take their settings and tensors as keyword arguments of `__init__` and hand both to `super().__init__`;
    `kinds` finds a class by the name it is saved under.
    """

    kinds: ClassVar[dict[str, type[Op]]] = {}
    is_map: ClassVar[bool] = False
    """Whether it is a linear map, whose operations count for the layer it feeds."""
    is_layer: ClassVar[bool] = False
    """Whether it is a population of neurons."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Op.kinds[cls.__name__] = cls

    def __init__(self, settings: dict[str, Any] | None = None, tensors: dict[str, Tensor | None] | None = None) -> None:
        super().__init__()
        self.settings = settings or {}
        for name, tensor in (tensors or {}).items():
            self.register_buffer(name, tensor)

    @staticmethod
    def tensor_names(kind: str) -> list[str]:
        """Names of the tensors that operations of this kind take."""
        parameters = inspect.signature(Op.kinds[kind].__init__).parameters.values()
        return [parameter.name for parameter in parameters if "Tensor" in str(parameter.annotation)]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}


class Call(Op):
    """A function of the inputs alone (tokens, lengths, masks, shapes), executed as it is."""

    def __init__(self, function: str) -> None:
        super().__init__({"function": function})
        self.function = FUNCTIONS[function]

    def forward(self, run: Run, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Constant(Op):
    """A parameter or buffer that the model's forward reads directly."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__(tensors={"value": value})

    def forward(self, run: Run) -> Any:
        return self.value


class Attribute(Op):
    """Shape, device or number of dimensions of a signal."""

    def __init__(self, name: str) -> None:
        super().__init__({"name": name})
        if name not in ATTRIBUTES:
            raise ConversionError(f"attribute {name!r} of a spiking tensor is not known at conversion")

    def forward(self, run: Run, signal: Signal) -> Any:
        known = {"shape": signal.shape, "device": signal.train.device, "ndim": len(signal.shape)}
        return known.get(self.settings["name"], torch.float32)


class Encode(Op):
    """A real-valued input becomes a drive, rounded once to a fixed grid."""

    def __init__(self, exponent: int) -> None:
        super().__init__({"exponent": exponent})

    def forward(self, run: Run, value: Tensor) -> Signal:
        drive = run.numerics.snap(value, self.settings["exponent"])
        largest = float(drive.abs().max()) if drive.numel() else 0.0
        if not largest < INPUT_REACH:
            raise InputError(
                f"real-valued inputs must be finite and below {INPUT_REACH:g} in magnitude; the largest is {largest:g}. "
                "Scale them, and the first layer's weights the other way"
            )
        return driven(drive)


class Embed(Op):
    """A table of real-valued vectors, looked up by token id."""

    table: Tensor

    def __init__(self, name: str, table: Tensor) -> None:
        super().__init__({"name": name}, {"table": table})

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
        return driven(F.embedding(tokens, table).double())


def driven(drive: Tensor) -> Signal:
    """A signal without spikes, its first dimension the batch."""
    return Signal(drive.new_zeros((0, *drive.shape), dtype=torch.int8), drive, None, 0.0, batch_owner(drive, 0))


def batch_owner(like: Tensor, axis: int) -> Callable[[], Tensor]:
    """Owner of a tensor shaped `like` whose dimension `axis` counts the samples."""

    def owner() -> Tensor:
        if like.dim() == 0:
            return torch.zeros((), dtype=torch.int64, device=like.device)
        sample = torch.arange(like.shape[axis], device=like.device)
        return sample.reshape([-1 if dim == axis else 1 for dim in range(like.dim())]).expand(like.shape)

    return owner


class Linear(Op):
    """A snapped linear map of the last dimension, with a bias that flows while awake.

    The spikes go through `weight`, on the grid that the neurons' potential will be on; real-valued input through `fine`,
    the same weights on a finer grid, after which the current is rounded once.
    """

    is_map = True
    weight: Tensor | None
    fine: Tensor | None
    bias: Tensor | None

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
    ) -> None:
        super().__init__(
            {
                "name": name,
                "exponent": exponent,
                "input_exponent": input_exponent,
                "fine_exponent": fine_exponent,
                "drive_exponent": drive_exponent,
            },
            {"weight": weight, "fine": fine, "bias": bias},
        )
        self.reach = 0.0 if weight is None else _largest_row(weight)

    def forward(self, run: Run, signal: Signal) -> Signal:
        signal = signal.with_uniform_divisor((-1,))
        drive = self._drive(run, signal)
        if self.weight is None:
            assert drive is not None
            train, bound = drive.new_zeros((0, *drive.shape), dtype=torch.int8), 0.0
        else:
            bound = signal.bound * self.reach
            dtype = run.numerics.dtype(bound * run.peak, self.settings["exponent"], self.settings["name"])
            train = F.linear(signal.train.to(dtype), self.weight.to(dtype))
            if run.recorder is not None:
                run.recorder.arriving(self.settings["name"], signal.train, self.weight.shape[0])
        shape = train.shape[1:]
        return Signal(train, drive, signal.divisor, bound, lambda: signal.owner()[..., :1].expand(shape))

    def _drive(self, run: Run, signal: Signal) -> Tensor | None:
        drive = None
        if signal.drive is not None:
            assert self.fine is not None
            exponents = self.settings["input_exponent"], self.settings["fine_exponent"]
            drive = exact_product(run.numerics, signal.drive, self.fine, *exponents, self.settings["name"])
            drive = run.numerics.snap(drive, self.settings["drive_exponent"])
        if self.bias is None:
            return drive
        bias = self.bias if signal.divisor is None else self.bias * signal.divisor
        shape = (*signal.shape[:-1], self.bias.shape[0])
        return bias.expand(shape) if drive is None else drive + bias


def exact_product(
    numerics: Numerics, x: Tensor, weight: Tensor, exponent: int, weight_exponent: int, name: str
) -> Tensor:
    """`x @ weight.T` in float64, the same bits in whatever order it is summed; `x` and `weight` are on these grids.

    Where one product could round, the weights are split into two limbs. Each limb's product is exact; only their sum,
    one addition for each result, is rounded.
    """
    weight, grid = weight.double(), exponent + weight_exponent
    reach = float(x.abs().max()) if x.numel() else 0.0
    excess = binade(reach * _largest_row(weight)) - grid - 52
    if excess <= 0 or isinstance(numerics, Float):
        return F.linear(x, weight)
    high = on_grid(weight, weight_exponent + excess)
    low = weight - high
    numerics.dtype(reach * _largest_row(high), grid + excess, name)
    numerics.dtype(reach * _largest_row(low), grid, name)
    return F.linear(x, high) + F.linear(x, low)


def _largest_row(weight: Tensor) -> float:
    return float(weight.double().abs().flatten(1).sum(1).max())


class Scale(Op):
    """Multiplication by snapped numbers, one for all or one for each channel (dimension 1), and a shift while awake.

    The train is multiplied by `factor`; real-valued input by `fine`, the same on a finer grid, and then rounded once.
    """

    factor: Tensor
    fine: Tensor
    shift: Tensor | None

    def __init__(self, factor: Tensor, fine: Tensor, shift: Tensor | None, drive_exponent: int) -> None:
        super().__init__({"drive_exponent": drive_exponent}, {"factor": factor, "fine": fine, "shift": shift})
        self.largest = float(factor.abs().max())

    def forward(self, run: Run, signal: Signal) -> Signal:
        factor, fine, shift = (_by_channel(value, signal.shape) for value in (self.factor, self.fine, self.shift))
        assert factor is not None
        assert fine is not None
        train = signal.train if bool((factor == 1.0).all()) else signal.train.double() * factor
        drive = None
        if signal.drive is not None:  # rounded once; every step, and the reference, use this one number
            drive = run.numerics.snap(signal.drive * fine, self.settings["drive_exponent"])
        if shift is not None:
            flowing = (shift if signal.divisor is None else shift * signal.divisor).expand(signal.shape)
            drive = flowing if drive is None else drive + flowing
        return replace(signal, train=train, drive=drive, bound=signal.bound * self.largest)


def _by_channel(value: Tensor | None, shape: torch.Size) -> Tensor | None:
    """A number, or one for each channel, shaped to be multiplied with a tensor of this shape."""
    return value if value is None or value.dim() == 0 else value.reshape([-1] + [1] * (len(shape) - 2))


class Fire(Op):
    """A population of spiking neurons, one for each element of its input."""

    is_layer = True

    def __init__(self, name: str, threshold: float, exponent: int) -> None:
        super().__init__({"name": name, "threshold": threshold, "exponent": exponent})

    def forward(self, run: Run, signal: Signal) -> Signal:
        exponent, threshold = self.settings["exponent"], self.settings["threshold"]
        drive = None if signal.drive is None else run.numerics.snap(signal.drive, exponent)
        signal = replace(signal, drive=drive)
        scaled = threshold if signal.divisor is None else threshold * signal.divisor
        largest = float(scaled.max()) if isinstance(scaled, Tensor) else scaled
        dtype = run.potential_dtype(signal.bound + signal.drive_reach, largest, exponent, self.settings["name"])
        if isinstance(scaled, Tensor):
            scaled = scaled.to(dtype)
        train = run.fire(signal.train.to(dtype), None if drive is None else drive.to(dtype), scaled)
        spikes = Signal(train, None, None, 1.0, signal.owner)
        if run.recorder is not None:
            run.recorder.spikes(self.settings["name"], spikes, run.samples)
        return spikes


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
            return signal.map(call)
        return tuple(signal.map(partial(_part, call, index)) for index in range(len(sample)))

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


def dims_of(shape: torch.Size, dim: int | Sequence[int] | None) -> tuple[int, ...]:
    """`dim` as a tuple of dimensions counted from the end; None: all."""
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    return tuple(d - len(shape) if d >= 0 else d for d in dims)


class Sum(Op):
    """Sum or mean over dimensions; a mean's count becomes the divisor."""

    def __init__(self, mean: bool) -> None:
        super().__init__({"mean": mean})

    def forward(
        self, run: Run, signal: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Signal:
        dims = dims_of(signal.shape, dim)
        signal = signal.with_uniform_divisor(dims)
        size = math.prod(signal.shape[d] for d in dims)
        divisor = signal.divisor
        if divisor is not None and divisor.dim() > 0:
            divisor = divisor.amax(dims, keepdim=keepdim)
        if self.settings["mean"]:
            count = torch.tensor(float(size), dtype=torch.float64, device=signal.train.device)
            divisor = count if divisor is None else divisor * count
        owner = signal.owner
        train = signal.train
        kind = torch.int32 if not train.dtype.is_floating_point else torch.float64
        return Signal(
            train.sum(dims, keepdim=keepdim, dtype=kind),
            None if signal.drive is None else signal.drive.sum(dims, keepdim=keepdim),
            divisor,
            signal.bound * size,
            lambda: owner().amax(dims, keepdim=keepdim),
        )


class TimesInput(Op):
    """Multiplication by a tensor of integers computed from the inputs, such as a mask."""

    def forward(self, run: Run, signal: Signal, factor: Tensor) -> Signal:
        factor = as_integers(factor, "multiplied", signal)
        shape = broadcast(signal.shape, factor.shape)
        largest = float(factor.abs().max())
        # A mask leaves the train's type; what is larger may need more room than that type was proven to have.
        train = signal.train * factor.to(torch.int8) if largest <= 1 else signal.train.double() * factor
        owner = signal.owner
        return replace(
            signal,
            train=train.reshape(signal.steps, *shape),
            drive=None if signal.drive is None else signal.drive * factor,
            bound=signal.bound * largest,
            owner=lambda: owner().expand(shape),
        )


class DividedByInput(Op):
    """Division by positive integers computed from the inputs, such as each text's length: carried as the divisor."""

    def forward(self, run: Run, signal: Signal, divisor: Tensor) -> Signal:
        divisor = as_integers(divisor, "divided", signal)
        if not bool((divisor > 0).all()):
            raise InputError(f"a spiking tensor is divided by {float(divisor.min()):g}; lengths must be at least 1")
        # Shaped like the signal from here on, so that every later rearrangement can be applied to it.
        if divisor.dim() > 0:
            divisor = divisor.reshape([1] * (len(signal.shape) - divisor.dim()) + [*divisor.shape])
        return replace(signal, divisor=divisor if signal.divisor is None else signal.divisor * divisor)


NOT_INTEGERS = (
    "values that are not integers, which cannot be exact; multiply by masks and divide by lengths, or move real-valued "
    "weights into a Linear layer"
)


def as_integers(value: Any, verb: str, signal: Signal) -> Tensor:
    """`value` in float64 if it is integers, else an error."""
    tensor = torch.as_tensor(value, device=signal.train.device).double()
    if not bool((tensor == tensor.round()).all()):
        raise InputError(f"a spiking tensor is {verb} by {NOT_INTEGERS}")
    return tensor


class Add(Op):
    """Sum of two signals of one scale."""

    def forward(self, run: Run, a: Signal, b: Signal) -> Signal:
        a, b = a.with_common_divisor(b)
        shape = broadcast(a.shape, b.shape)
        drives = [drive for drive in (a.drive, b.drive) if drive is not None]
        train = add_trains(_widened(a.train), _widened(b.train))
        owners = (a.owner, b.owner)
        owner = owners[0] if a.shape == shape else owners[1]
        drive = sum(drives[1:], drives[0]).expand(shape) if drives else None
        return Signal(train, drive, a.divisor, a.bound + b.bound, lambda: owner().expand(shape))


def _widened(train: Tensor) -> Tensor:
    return train.to(torch.int32) if not train.dtype.is_floating_point else train.double()


class Join(Op):
    """Concatenation (`torch.cat`) or `torch.stack` of signals of one scale."""

    def __init__(self, stack: bool) -> None:
        super().__init__({"stack": stack})
        self.join: Callable[..., Tensor] = torch.stack if stack else torch.cat

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
        drive = None
        if any(signal.drive is not None for signal in common):
            drive = self.join(
                [
                    signal.train.new_zeros(signal.shape, dtype=torch.float64) if signal.drive is None else signal.drive
                    for signal in common
                ],
                dim,
            )
        return Signal(
            self.join([_padded(signal.train, steps) for signal in common], dim),
            drive,
            divisor,
            max(signal.bound for signal in common),
            lambda: self.join([signal.owner() for signal in signals], dim),
        )


def _padded(train: Tensor, steps: int) -> Tensor:
    missing = train.new_zeros((steps - train.shape[0], *train.shape[1:]))
    return torch.cat([train, missing]) if len(missing) else train


class Max(Op):
    """Maximum as a running difference: `pool(S_t) - pool(S_{t-1})`, S the running total of its input. Exact."""

    def forward(
        self, run: Run, signal: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False
    ) -> Signal:
        dims = dims_of(signal.shape, dim)
        signal = signal.with_uniform_divisor(dims)
        divisor, owner = signal.divisor, signal.owner
        if divisor is not None and divisor.dim() > 0:
            divisor = divisor.amax(dims, keepdim=keepdim)

        def pool(x: Tensor) -> Tensor:
            return x.amax(dims, keepdim=keepdim)

        spikes = signal.train.dtype == torch.int8 and signal.drive is None
        if signal.drive is None:
            exact = torch.float64 if signal.train.dtype.is_floating_point else torch.int32
            totals = signal.train.cumsum(0, dtype=torch.int16 if spikes else exact)
            bound = signal.bound
        else:
            totals, bound = self._totals(run, signal)
        pooled = pool(totals)
        if pooled.dtype.is_floating_point and not bool(torch.isfinite(pooled).all()):
            raise InputError("a maximum over positions that are all masked: every text needs at least one real token")
        train = pooled.clone()
        train[1:] -= pooled[:-1]
        if spikes:
            train = train.to(torch.int8)
        return Signal(train, None, divisor, bound, lambda: owner().amax(dims, keepdim=keepdim))

    def _totals(self, run: Run, signal: Signal) -> tuple[Tensor, float]:
        assert signal.drive is not None
        wake = run.wake_weights()
        steps = max(signal.steps, len(wake))
        awake = torch.tensor(run.wake_weights(steps), dtype=torch.float64, device=signal.train.device).cumsum(0)
        totals = _padded(signal.train.double(), steps).cumsum(0)
        weights = awake.reshape(-1, *[1] * signal.drive.dim())
        finite = signal.drive[torch.isfinite(signal.drive)]
        reach = float(finite.abs().max()) if finite.numel() else 0.0
        return totals + weights * signal.drive, signal.bound + reach


class MaskedFill(Op):
    """`masked_fill` with a constant (minus infinity only on the way to a maximum)."""

    def __init__(self, value: float) -> None:
        super().__init__({"value": "-inf" if value == -math.inf else value})

    def forward(self, run: Run, signal: Signal, mask: Tensor) -> Signal:
        value = float(self.settings["value"])
        filled = replace(signal.map(lambda x: x.masked_fill(mask, 0)))
        if value == 0.0:
            return filled
        drive = filled.drive
        if drive is None:
            drive = torch.zeros(signal.shape, dtype=torch.float64, device=mask.device)
        scaled = torch.tensor(value, dtype=torch.float64, device=mask.device)
        if signal.divisor is not None:
            scaled = scaled * signal.divisor
        return replace(filled, drive=torch.where(mask.expand(signal.shape), scaled, drive))
