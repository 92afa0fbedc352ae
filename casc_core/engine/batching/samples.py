"""Which sample each element of a tensor belongs to, followed through operations by shapes alone.

A tensor whose numbers are known before a run (a buffer, `torch.arange(x.shape[1])`) is followed as itself, one that comes
from the inputs as an `Abstract`: a shape, a type, and where its samples are. Whatever a rule does not understand, it says
is `Mixed`, or raises `UnprovableError`; no rule guesses.

That the samples of a batch of n do not influence one another is no fact about n alone: `x / x.shape[0]` mixes none, and
differs for each size. So a `Follower` notes, beside where the samples are, all that one sample undergoes: sizes without
the batch, arguments, the numbers it meets. Two batch sizes with equal notes treat each sample alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.batching.places import Axis, Mixed, Samples
from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.run import Run
from casc_core.engine.signal import broadcast
from casc_core.reporting.summaries import Summarised

# In the strides that label dimensions, that of the one that counts samples: no size of a new dimension.
_LABEL = 3


class UnprovableError(Exception):
    """A shape or a number is not known before a run; the message says why."""


@dataclass(frozen=True)
class Unknown:
    """A value of which nothing is known before a run, and `why`."""

    why: str


@dataclass(frozen=True)
class Train:
    """How much room a signal may take.

    Attributes:
        steps: the most that its train may have.
        unit: bytes of an entry of the train.
        real: it has a drive of its own at each element.
        held: bytes of what the train would be computed from, where it is not yet; else None.
    """

    steps: int = 0
    unit: int = 1
    real: bool = False
    held: int | None = None


@dataclass(frozen=True, repr=False)
class Abstract(Summarised):
    """A tensor that depends on the inputs, as it is known before a run.

    Attributes:
        like: an empty tensor of its shape and type, without memory.
        samples: where the samples are: along a dimension, mixed, or (None) nowhere: all share it.
        train: of a signal, the room it takes: `steps`, bytes of an entry (`unit`), and whether it has a drive (`real`);
            None: a tensor computed from the inputs.
        at_most: its shape is only the largest that it may have, and why; the samples are then mixed.
    """

    like: Tensor
    samples: Samples
    train: Train | None = None
    at_most: str | None = None

    @property
    def shape(self) -> torch.Size:
        return self.like.shape

    @property
    def nbytes(self) -> int:
        """Bytes that it takes at most."""
        if self.train is None:
            return self.like.nbytes
        entries, train = self.like.numel(), self.train
        flow = entries * train.steps * train.unit if train.held is None else train.held
        return flow + entries * 8 * train.real

    @property
    def is_driven(self) -> bool:
        """Whether it may have a drive of its own at each element, be it one that is looked up in a table."""
        return self.train is None or self.train.real or not self.train.steps


def meta(shape: Iterable[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor that takes no memory."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def as_single(value: Any) -> Any:
    """`value` with a single entry, along each dimension, in the place of each tensor: what a function makes of them tells
    the type of its result, and costs nothing. (On tensors without memory, torch would load half of its compiler.)"""

    def leaf(each: Any) -> Any:
        like = each.like if isinstance(each, Abstract) else each
        return torch.ones([1] * like.dim(), dtype=like.dtype, device="cpu") if isinstance(like, Tensor) else like

    return map_leaves(value, leaf)


def abstracts(value: Any) -> list[Abstract]:
    """The abstract tensors among the leaves of `value`."""
    return [each for each in leaves(value) if isinstance(each, Abstract)]


@dataclass
class Follower:
    """One abstract run over a batch; operations call its methods.

    Attributes:
        batch: how many samples there are.
        device: where the network is.
        run: what kind of a run it is. room: numbers that one operation may make.
        before: values by step of an abstract run over a larger batch, which this one is to be compared with; a batch of one
            sample alone does not tell where it is.
        at: what stands for the current step in messages. step: its name.
        notes: by step, what each sample undergoes.
        made: numbers that functions have made of known tensors so far.
    """

    batch: int
    device: torch.device
    run: Run
    room: int
    before: dict[str, Any] | None = None
    at: str = ""
    step: str = ""
    notes: dict[str, list[Any]] = field(default_factory=dict)
    made: int = 0

    @property
    def awake(self) -> int:
        """Steps up to the last at which drives flow."""
        return len(self.run.wake_weights())

    @property
    def compiled(self) -> bool:
        """Whether compiled kernels read convolutions' spikes."""
        exact = self.run.numerics.is_exact and self.run.kernel_neuron is not None
        return exact and kernels.instructions() is not None and self.device.type == "cpu"

    def note(self, *facts: Any) -> None:
        """What a sample meets at this step; tensors are compared by their numbers."""
        self.notes.setdefault(self.step, []).extend(facts)

    def mixed(self, what: str) -> Mixed:
        """The samples of this step's result are mixed, because it does `what`."""
        return Mixed(f"{self.at} {what}")

    def unprovable(self, why: str) -> UnprovableError:
        """The error that says that this step cannot be followed."""
        return UnprovableError(f"{self.at} {why}")

    def signal(
        self, shape: Iterable[int], samples: Samples, steps: int = 0, unit: int = 1, real: bool = False,
        held: int | None = None,
    ) -> Abstract:  # fmt: skip
        """A signal of this shape."""
        return Abstract(meta(shape), samples, Train(steps, unit, real, held))

    def apart(self, x: Abstract, dims: Iterable[int], what: str = "puts all samples together") -> Samples:
        """The samples of an operation that keeps the dimensions of `x` where they are, and mixes entries along `dims`."""
        if isinstance(x.samples, Axis) and x.samples.dim in {dim % len(x.shape) for dim in dims}:
            return self.mixed(what)
        return x.samples

    def row_of(self, known: Tensor, axis: Axis, dims: int) -> Tensor | None:
        """What one sample sees of a known tensor that broadcasts against one of `dims` dimensions with samples at `axis`.

        None: it is not the same for all of them.
        """
        dim = axis.dim - dims + known.dim()
        if dim < 0 or known.shape[dim] == 1:
            return known
        if known.shape[dim] % (axis.inner * self.batch):
            return None
        each = known.unflatten(dim, (-1, self.batch, axis.inner))
        first = each.narrow(dim + 1, 0, 1)
        return first.flatten(dim, dim + 2).clone() if bool((each == first).all()) else None

    def together(self, *operands: Any) -> tuple[torch.Size, Samples]:
        """Shape and samples of an operation entry by entry on operands that broadcast; the numbers among them are noted."""
        tensors = [each for each in operands if isinstance(each, (Abstract, Tensor))]
        self.note(*(each for each in operands if not isinstance(each, (Abstract, Tensor))))
        shape = broadcast(*(each.shape for each in tensors))
        there = abstracts(tensors)
        mixed = next((each.samples for each in there if isinstance(each.samples, Mixed)), None)
        if mixed is not None:
            return shape, mixed
        along = [each for each in there if each.samples is not None]
        if not along:
            self.note(*(each for each in tensors if isinstance(each, Tensor)))
            return shape, None
        first = along[0]
        assert isinstance(first.samples, Axis)
        axis = Axis(first.samples.dim + len(shape) - len(first.shape), first.samples.inner)
        size = first.shape[first.samples.dim]
        for each in tensors:
            dim = axis.dim - len(shape) + len(each.shape)
            if isinstance(each, Tensor):
                row = self.row_of(each, axis, len(shape))
                if row is None:
                    return shape, self.mixed("meets numbers that are not the same for all samples")
                self.note(row)
            elif each.samples is None:
                if dim >= 0 and each.shape[dim] != 1:
                    return shape, self.mixed("meets a tensor that may not be the same for all samples")
            elif each.samples != Axis(dim, axis.inner) or each.shape[dim] != size:
                return shape, self.mixed("puts entries of different samples together")
        return shape, axis if shape[axis.dim] == size else self.mixed("repeats samples")

    def reduced(self, x: Abstract, dims: Iterable[int], keepdim: bool) -> tuple[list[int], Samples]:
        """Shape and samples of a result that has `dims` no more, or of size 1, entries along them put together."""
        gone = sorted({dim % max(len(x.shape), 1) for dim in dims})
        self.note(gone, keepdim)
        shape = [1 if dim in gone else size for dim, size in enumerate(x.shape) if keepdim or dim not in gone]
        if not isinstance(x.samples, Axis):
            return shape, x.samples
        if x.samples.dim in gone:
            return shape, self.mixed("puts all samples together")
        before = 0 if keepdim else sum(dim < x.samples.dim for dim in gone)
        return shape, Axis(x.samples.dim - before, x.samples.inner)

    def reshaped(self, x: Abstract, shape: Sequence[int]) -> Samples:
        """The samples of a result of this shape that has the entries of `x` in their order."""
        if not isinstance(x.samples, Axis):
            return x.samples
        axis, sizes = x.samples, list(shape)
        # Entry n of all, counted on, belongs to sample n // span % batch.
        span = axis.inner * x.shape[axis.dim + 1 :].numel()
        behind, found = 1, []
        for dim in range(len(sizes) - 1, -1, -1):
            if span % behind == 0 and sizes[dim] % (span // behind * self.batch) == 0:
                found.append(Axis(dim, span // behind))
            behind *= sizes[dim]
        return self._chosen(found) if found else self.mixed("cuts the samples in an order that is not theirs")

    def _chosen(self, found: list[Axis]) -> Axis:
        """The one of these that the larger batch had; only a batch of one sample leaves a choice."""
        hint = None if self.before is None else self.before.get(self.step)
        wanted = hint.samples if isinstance(hint, Abstract) else None
        return next((axis for axis in found if axis == wanted), found[0])

    def viewed(self, x: Abstract, view: Callable[[Tensor], Any]) -> Any:
        """What a function gives that only moves, takes or repeats whole entries along dimensions: a tensor, or several.

        The function is applied to an empty tensor whose strides label its dimensions.
        """
        axis = x.samples if isinstance(x.samples, Axis) else None
        sizes, strides = list(x.shape), [0] * len(x.shape)
        block = 1 if axis is None else _LABEL * max(2, sizes[axis.dim])
        reach = block
        for dim in range(len(sizes) - 1, -1, -1):
            if axis is not None and dim == axis.dim:
                strides[dim] = _LABEL
            else:
                strides[dim] = reach
                reach *= max(2, sizes[dim])
        result = view(torch.empty_strided(sizes, strides, dtype=x.like.dtype, device="meta"))

        def followed(out: Any) -> Any:
            if not isinstance(out, Tensor):
                raise self.unprovable("gives what is no tensor")
            if out.numel() == 0:
                raise self.unprovable("gives an empty tensor")
            samples = x.samples if axis is None else self._moved(axis, out, block)
            ahead = 0 if axis is None else out.storage_offset() % block // _LABEL // (axis.inner * self.batch)
            dims = [0 if size == 1 else stride // block for size, stride in zip(out.shape, out.stride(), strict=True)]
            self.note(dims, ahead, out.storage_offset() // block)
            return replace(x, like=meta(out.shape, out.dtype), samples=samples)

        return map_leaves(result, followed)

    def _moved(self, axis: Axis, out: Tensor, block: int) -> Samples:
        """Where the dimension labelled `_LABEL` has gone, if all of it is there, or whole runs through the samples."""
        period = axis.inner * self.batch
        found = [
            Axis(dim, axis.inner)
            for dim, (size, stride) in enumerate(zip(out.shape, out.stride(), strict=True))
            if stride == _LABEL and size % period == 0
        ]
        if not found or out.storage_offset() % block // _LABEL % period:
            return self.mixed("takes some of the samples, or in another order")
        return self._chosen(found)

    def entry(self, known: Tensor) -> Samples:
        """The samples of a known tensor that becomes a signal: the first dimension that repeats its entries for each."""
        hint = None if self.before is None else self.before.get(self.step)
        if isinstance(hint, Abstract):
            dims = [hint.samples.dim] if isinstance(hint.samples, Axis) else []
        else:
            dims = [dim for dim, size in enumerate(known.shape) if size == self.batch > 1]
        for dim in dims:
            if dim < known.dim():
                row = self.row_of(known, Axis(dim), known.dim())
                if row is not None and known.shape[dim] == self.batch:
                    self.note(row)
                    return Axis(dim)
        self.note(known)
        return None
