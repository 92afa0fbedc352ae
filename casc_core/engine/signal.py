"""The tensors of a run, between one population of neurons and the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.leaves import leaves
from casc_core.errors import InputError
from casc_core.numerics import Numerics, largest
from casc_core.reporting.series import zero_padded
from casc_core.reporting.summaries import Summarised


class LazyDrive(Protocol):
    """A drive that is computed where it is read."""

    def values(self) -> Tensor:
        """`[*shape]` float64."""

    def on_grid(self, numerics: Numerics, exponent: int) -> Tensor:
        """The values, put on the grid `2**exponent` by these numerics."""


@dataclass(frozen=True)
class TableRows:
    """Rows of a table `[rows, width]` by `index` `[*shape]`, looked up where they are needed."""

    table: Tensor
    index: Tensor

    def values(self) -> Tensor:
        """`[*shape, width]` float64."""
        return F.embedding(self.index, self.table).double()

    def on_grid(self, numerics: Numerics, exponent: int) -> Tensor:
        """The values, put on the grid `2**exponent` by these numerics."""
        return numerics.snap(self.values(), exponent)


class LazyTrain(Protocol):
    """A train that is computed only where it is read: a population may take its parts and never write it down."""

    @property
    def shape(self) -> torch.Size: ...
    @property
    def size(self) -> torch.Size:
        """Its shape at each step."""

    @property
    def device(self) -> torch.device: ...
    @property
    def nbytes(self) -> int: ...
    def tensor(self) -> Tensor:
        """The train; computed once."""

    def total(self) -> Tensor:
        """Its sum over all steps, float64."""

    def running(self, steps: int) -> Tensor:
        """Its sum until each of the first `steps` steps, float64."""

    def times(self, factor: Tensor) -> LazyTrain | None:
        """Multiplied by what broadcasts against a step, not computed either; None: it must be."""

    def moved(self, function: Callable[[Tensor], Tensor], by_sample: bool) -> LazyTrain | None:
        """What `over_steps` makes of it where the function moves, takes or repeats entries; None: it must be computed."""

    def unweighed(self) -> Tensor | None:
        """The spikes, in int8, that it is once each channel has been multiplied by a factor; None: it is something else."""

    def summed(self, dims: tuple[int, ...]) -> Tensor | None:
        """Each step summed over these dimensions, from the end, int32, where that need not be written down first."""


@dataclass(frozen=True, repr=False)
class Signal(Summarised):
    """A tensor of the user's network as a run sees it.

    At step t (from 1) its value, up to a constant factor known at conversion, is
    `(train[t] + (drive if step t is awake)) / divisor`. The drive is what does not come from spikes: real-valued inputs
    and biases. A `shape` below is the shape of the tensor in the user's network.

    Attributes:
        lazy_train: the train `[steps, *shape]`, or what computes it; after its last step it is zero.
        lazy_drive: the drive `[*shape]` float64, or what computes it; None for zero.
        divisor: positive integers that broadcast against `shape` (a mean over each text's own length), or None for 1.
            It is carried along, never divided by before a threshold.
        bound: largest magnitude of `train` per unit of spike count.
        period: each entry of the train is of so many steps (see `casc_core.engine.ops.bins`).
        potential: of a population's spikes, where it is recorded: its membrane potential after each step
            `[steps or more, *shape]`; after the last it stays as it is.
    """

    lazy_train: Tensor | LazyTrain
    lazy_drive: Tensor | LazyDrive | None
    divisor: Tensor | None
    bound: float
    period: int = 1
    potential: Tensor | None = None

    @property
    def train(self) -> Tensor:
        """The train `[steps, *shape]`."""
        return self.lazy_train if isinstance(self.lazy_train, Tensor) else self.lazy_train.tensor()

    @property
    def total(self) -> Tensor:
        """The sum of the train over all steps `[*shape]`, float64."""
        train = self.lazy_train
        return train.sum(0, dtype=torch.float64) if isinstance(train, Tensor) else train.total()

    def running(self, steps: int) -> Tensor:
        """The sum of the train until each of the first `steps` steps `[steps, *shape]`, float64."""
        train = self.lazy_train
        return running_total(train, steps) if isinstance(train, Tensor) else train.running(steps)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.lazy_train.device

    @cached_property
    def shape(self) -> torch.Size:
        """Shape of the tensor in the user's network."""
        return self.lazy_train.shape[1:] if isinstance(self.lazy_train, Tensor) else self.lazy_train.size

    @property
    def nbytes(self) -> int:
        """Bytes of the train and the drive."""
        drive = self.lazy_drive
        return self.lazy_train.nbytes + (without_repeats(drive).nbytes if isinstance(drive, Tensor) else 0)

    @property
    def drive(self) -> Tensor | None:
        """The drive `[*shape]` float64, or None for zero."""
        drive = self.lazy_drive
        return drive if drive is None or isinstance(drive, Tensor) else drive.values()

    @property
    def steps(self) -> int:
        """Length of the train."""
        return self.lazy_train.shape[0]

    @cached_property
    def drive_reach(self) -> float:
        """Largest magnitude of the drive."""
        drive = self.drive
        return 0.0 if drive is None else largest(without_repeats(drive))

    def drive_on_grid(self, numerics: Numerics, exponent: int) -> Tensor | None:
        """The drive `[*shape]` on the grid `2**exponent`, on which the numerics put it; None for zero."""
        drive = self.lazy_drive
        if drive is None:
            return None
        if isinstance(drive, Tensor):
            return numerics.snap(without_repeats(drive), exponent).expand(self.shape)
        return drive.on_grid(numerics, exponent)

    def constant(self, value: Tensor) -> Tensor:
        """`[*shape]`: what the drive grows by when `value` is added at each wake step."""
        return (value if self.divisor is None else value * self.divisor).expand(self.shape)

    def map(self, function: Callable[[Tensor], Tensor], by_sample: bool = False) -> Signal:
        """The signal under a map that only moves, takes or repeats elements: the `bound` stays as it is.

        What adds or weighs elements needs a wider train and a larger bound first, as by `times`.

        Args:
            by_sample: it treats each entry of dimension 0 alike.
        """
        divisor, drive = self.divisor, self.drive
        if divisor is not None and divisor.dim() > 0:
            divisor = function(divisor.expand(self.shape))
            divisor = torch.where(divisor == 0, 1.0, divisor)  # entries that the function adds or fills are not divided
        lazy = self.lazy_train
        moved = None if isinstance(lazy, Tensor) else lazy.moved(function, by_sample)
        return Signal(
            over_steps(function, self.train, by_sample) if moved is None else moved,
            None if drive is None else function(drive),
            divisor,
            self.bound,
        )

    def with_common_divisor(self, other: Signal) -> tuple[Signal, Signal]:
        """Both signals over one divisor: each multiplied by the other's, exactly."""
        if self.divisor is other.divisor:
            return self, other
        if self.divisor is not None and other.divisor is not None and torch.equal(self.divisor, other.divisor):
            return self, replace(other, divisor=self.divisor)
        common: Tensor | None = None
        for divisor in (self.divisor, other.divisor):
            if divisor is not None:
                common = divisor if common is None else common * divisor
        one, two = (
            signal if by is None else signal.times(by) for signal, by in ((self, other.divisor), (other, self.divisor))
        )
        return replace(one, divisor=common), replace(two, divisor=common)

    def times(self, factor: Tensor) -> Signal:
        """Its numbers multiplied by positive integers that broadcast against its shape."""
        drive = self.drive
        if bool((factor == 1).all()):
            return self
        if factor.dim() > len(self.shape):  # or its dimensions would meet the steps
            shape = broadcast(self.shape, factor.shape)
            return self.map(lambda x: x.expand(shape)).times(factor)
        lazy = self.lazy_train
        product: Tensor | LazyTrain | None = None if isinstance(lazy, Tensor) else lazy.times(factor)
        if product is None:
            product = self.train.double() * factor  # beside a tensor, a factor without dimensions would not widen it
        return replace(
            self,
            lazy_train=product,
            lazy_drive=None if drive is None else drive * factor,
            bound=self.bound * float(factor.max()),
        )

    def with_uniform_divisor(self, dims: tuple[int, ...]) -> Signal:
        """The signal with a divisor of size 1 along `dims`, along which a sum is about to be taken."""
        divisor = self.divisor
        if divisor is None or divisor.dim() == 0:
            return self
        divisor = divisor.expand(self.shape)
        for dim in dims:
            first = divisor.narrow(dim, 0, 1)
            if not bool((divisor == first).all()):
                raise InputError(
                    f"a sum over dimension {dim} of values divided by numbers that differ along it cannot be exact; "
                    "divide after the sum"
                )
            divisor = first
        return replace(self, divisor=divisor)


@dataclass(frozen=True, eq=False)
class Rearrangement:
    """A function that only moves, takes or repeats elements, with its arguments: the same object is the same call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, x: Tensor) -> Any:
        return self.function(x, *self.args, **self.kwargs)


def longest_period(values: Any) -> int:
    """The period of the signals among the leaves of `values`; those without a train have any."""
    if isinstance(values, Signal):
        return values.period
    return max((leaf.period for leaf in leaves(values) if isinstance(leaf, Signal)), default=1)


def running_total(train: Tensor, steps: int) -> Tensor:
    """The sum of a train until each of the first `steps` steps, float64; after its last step it is zero."""
    return zero_padded(train, steps).cumsum(0, dtype=torch.float64)


def without_repeats(x: Tensor, only: int | None = None) -> Tensor:
    """`x` with size 1 along each dimension (or `only` that one) that only repeats one entry, as `expand` leaves it.

    >>> without_repeats(torch.zeros(3, 1).expand(3, 1000)).shape
    torch.Size([3, 1])
    """
    for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if size > 1 and stride == 0 and only in (None, dim, dim - x.dim()):
            x = x.narrow(dim, 0, 1)
    return x


def along(values: Tensor | float, shape: torch.Size, dim: int) -> Tensor | None:
    """`[shape[dim]]` float64: values that broadcast against `shape` and differ along `dim` alone; None: elsewhere as well.

    >>> along(torch.tensor([[1.0], [2.0]]), torch.Size([5, 2, 3]), 1)
    tensor([1., 2.], dtype=torch.float64)
    >>> along(torch.ones(2, 3), torch.Size([5, 2, 3]), 1) is None
    True
    """
    if not isinstance(values, Tensor):
        return torch.full((shape[dim],), values, dtype=torch.float64)
    values = without_repeats(values.detach()).double()
    sizes = [1] * (len(shape) - values.dim()) + list(values.shape)
    dim %= len(shape)
    if len(sizes) != len(shape) or any(size != 1 for each, size in enumerate(sizes) if each != dim):
        return None
    return values.reshape(-1).expand(shape[dim]).contiguous()


def memory_order(x: Tensor) -> tuple[int, ...] | None:
    """The order of dimensions in which `x` lies in memory without gaps; None: there is none.

    >>> memory_order(torch.zeros(2, 3, 4, 5).permute(0, 3, 1, 2))
    (0, 2, 3, 1)
    """
    strides: tuple[int, ...] = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))
    return order if x.permute(order).is_contiguous() else None


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `order`.

    >>> inverse((0, 2, 3, 1))
    (0, 3, 1, 2)
    """
    return tuple(order.index(dim) for dim in range(len(order)))


def stacked(steps: Sequence[Tensor]) -> Tensor:
    """`torch.stack`, each tensor's dimensions in memory as they were."""
    order = memory_order(steps[0])
    if order is None:
        return torch.stack(list(steps))
    together = torch.stack([step.permute(order) for step in steps])
    return together.permute(0, *(dim + 1 for dim in inverse(order)))


def concatenated(parts: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.cat`, the dimensions in memory as those of the first part."""
    order = memory_order(parts[0])
    if order is None:
        return torch.cat(list(parts), dim)
    together = torch.cat([part.permute(order) for part in parts], order.index(dim % parts[0].dim()))
    return together.permute(inverse(order))


def over_steps(function: Callable[[Tensor], Tensor], train: Tensor, by_sample: bool = False) -> Tensor:
    """`function` applied to every step of `train`; `by_sample`: it treats each entry of a step's dimension 0 alike."""
    if train.shape[0] == 0:
        result = function(train.new_zeros(train.shape[1:]))
        return result.new_zeros((0, *result.shape))
    if train.shape[0] == 1:
        return function(train[0]).unsqueeze(0)
    if by_sample:
        together = function(train.flatten(0, 1))
        return together.reshape(*train.shape[:2], *together.shape[1:])
    mapped: Tensor = torch.vmap(function)(train)
    return mapped


def add_trains(a: Tensor, b: Tensor) -> Tensor:
    """`a + b` for shapes that broadcast, the shorter train followed by zeros."""
    shape = broadcast(a.shape[1:], b.shape[1:])
    total = a.new_zeros((max(a.shape[0], b.shape[0]), *shape), dtype=torch.promote_types(a.dtype, b.dtype))
    for train in (a, b):
        missing = len(shape) - (train.dim() - 1)
        total[: train.shape[0]] += train.reshape(train.shape[0], *[1] * missing, *train.shape[1:])
    return total


def broadcast(*shapes: torch.Size) -> torch.Size:
    """The shape to which all broadcast. (`torch.broadcast_shapes` loads a computer algebra system for it.)

    Raises:
        InputError: there is none.

    >>> broadcast(torch.Size([3, 1]), torch.Size([2, 1, 4]))
    torch.Size([2, 3, 4])
    """
    sizes = [1] * max(map(len, shapes))
    for shape in shapes:
        for dim, size in enumerate(shape, len(sizes) - len(shape)):
            if size != 1 and sizes[dim] not in (1, size):
                raise InputError(f"shapes do not broadcast: {', '.join(str(list(each)) for each in shapes)}")
            sizes[dim] = size if size != 1 else sizes[dim]
    return torch.Size(sizes)
