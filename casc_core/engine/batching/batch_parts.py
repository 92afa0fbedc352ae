"""Splitting a batch so that a run stays under a memory limit."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from casc_core.engine import kernels
from casc_core.engine.batching.following import Dims, Followed, follow
from casc_core.engine.batching.places import Axis
from casc_core.engine.ops import Op, device_of
from casc_core.engine.program import Program
from casc_core.engine.run import Run
from casc_core.errors import InputError
from casc_core.reporting.series import last_repeated

DEFAULT_LIMIT = 2 * 2**30
# So many abstract runs are kept: of batches of the same shapes, the next is followed no more.
_MOST_FOLLOWED = 64
# A batch of this many samples, which no side of a tensor is likely to be as long as.
_NO_SIDE = 10_007


class Inputs(dict[str, Any]):
    """Inputs by name; in a part of a batch, the dimensions that count its samples are those of the whole batch.

    Attributes:
        dims: these dimensions; None: they are not settled.
    """

    def __init__(self, values: Mapping[str, Any], dims: Dims | None = None) -> None:
        super().__init__(values)
        self.dims = dims


@dataclass(frozen=True)
class Parts:
    """A batch in parts of about equal size, whose runs each stay under a limit; each is cut when it is asked for.

    Attributes:
        values: the inputs of the whole batch, by name.
        whole: what is known of its run.
        count: how many parts there are.
    """

    values: Inputs
    whole: Followed
    count: int

    @property
    def samples(self) -> int:
        """How many samples a record of the runs is of."""
        return self.whole.recorded

    @property
    def sizes(self) -> list[int]:
        """How many samples each part has."""
        ends = [self.whole.samples * number // self.count for number in range(self.count + 1)]
        return [end - start for start, end in itertools.pairwise(ends)]

    def __iter__(self) -> Iterator[Inputs]:
        if self.count == 1:
            yield self.values
            return
        start = 0
        for size in self.sizes:
            part = {}
            for name, value in self.values.items():
                dim = self.whole.dims[name]
                part[name] = value if dim is None else value.narrow(dim, start, size)
            yield Inputs(part, self.whole.dims)
            start += size

    def join(self, parts: Iterable[Sequence[Any]], over_time: bool = False) -> list[Any]:
        """The outputs of the batch from those of its parts, each put into its place as it comes.

        Args:
            parts: the outputs of each, in order.
            over_time: dimension 0 of what neurons compute counts time steps; a part that has fewer than others was silent,
                and stays as it was.
        """
        if self.count == 1:
            (whole,) = parts
            return list(whole)
        joined = [
            _Joined(self.whole.axis(number), self.whole.samples, over_time and self.whole.is_read_out(number))
            for number in range(len(self.whole.outputs))
        ]
        for outputs, size in zip(parts, self.sizes, strict=True):
            for each, output in zip(joined, outputs, strict=True):
                each.add(output, size)
        return [each.value for each in joined]


class _Joined:
    """One output of a batch, put together from its parts.

    Attributes:
        axis: where its samples are; None: all share it, and so do the parts.
        samples: of the batch.
        over_time: whether dimension 0 counts time steps.
    """

    def __init__(self, axis: Axis | None, samples: int, over_time: bool) -> None:
        self.axis, self.samples, self.over_time = axis, samples, over_time
        self._whole: Any = None
        self._start = 0

    def add(self, output: Any, size: int) -> None:
        """Put that of the next part, of this many samples, into its place."""
        if self.axis is None:
            self._whole = output
            return
        dim = self.axis.dim + self.over_time
        part = output.unflatten(dim, (-1, size, self.axis.inner))
        if not self._start:
            self._whole = part.new_empty((*part.shape[: dim + 1], self.samples, *part.shape[dim + 2 :]))
        if self.over_time:
            self._whole = last_repeated(self._whole, max(len(self._whole), len(part)))
            part = last_repeated(part, len(self._whole))
        self._whole.narrow(dim + 1, self._start, size).copy_(part)
        self._start += size

    @property
    def value(self) -> Any:
        """The output, once all parts are there."""
        if self.axis is None:
            return self._whole
        dim = self.axis.dim + self.over_time
        return self._whole.flatten(dim, dim + 2)


class Splitter:
    """What is known before a run of the batches of one program, and how they are split."""

    def __init__(self, program: Program, ops: Sequence[Op]) -> None:
        self.program, self.ops = program, ops
        self._followed: dict[object, Followed] = {}
        self._warned: set[str] = set()

    def followed(self, values: Inputs, run: Run) -> Followed:
        """The abstract run of a whole batch.

        The first dimension of the inputs counts the samples; or the second, as `torch.nn.RNN` takes `[L, B, ...]`, where
        the program keeps the samples apart along that one and not along the first.

        Raises:
            InputError: no input has a dimension that could count samples.
        """
        settled = None if values.dims is None else tuple(values.dims.items())
        seen = tuple(op.seen for op in self.ops)
        key = (_shapes(values), settled, run.kind, device_of(self.ops), kernels.instructions(), seen)
        found = self._followed.get(key)
        if found is None:
            found = self._followed[key] = self._settled(values, run)
            while len(self._followed) > _MOST_FOLLOWED:
                self._followed.pop(next(iter(self._followed)), None)
        return found

    def parts(self, values: Inputs, run: Run, limit: int, in_rows: bool = False) -> Parts:
        """The batch in parts whose runs each stay under a limit of this many bytes, or whole if it cannot be split.

        Args:
            in_rows: the outputs of the parts, one behind another, are to be the output of the batch.
        """
        whole = self.followed(values, run)
        if whole.bytes <= limit or whole.samples == 1:
            return Parts(values, whole, 1)
        count, why = self._count(values, run, whole, limit)
        if in_rows and why is None and not whole.in_rows:
            count, why = 1, "the rows of an output are not those of one sample after those of another"
        if why is not None and why not in self._warned:
            self._warned.add(why)
            warnings.warn(
                f"this batch may take more than the memory limit of {limit / 2**20:,.3g} MiB, and it cannot be split: "
                f"{why}",
                stacklevel=4,
            )
        return Parts(values, whole, count)

    def _count(self, values: Inputs, run: Run, whole: Followed, limit: int) -> tuple[int, str | None]:
        """Into how many parts a batch is to be split; or why it cannot be."""
        if whole.why_not is not None:
            return 1, whole.why_not
        count, taken = 1, whole.bytes
        while True:
            count = min(whole.samples, max(count + 1, -(-count * taken // limit)))
            sizes = {-(-whole.samples // count), whole.samples // count}
            taken = 0
            for size in sizes:
                part = follow(self.program, self.ops, _resized(values, whole.dims, size), whole.dims, run, whole)
                taken = max(taken, part.bytes)
                if not whole.treats_as(part):
                    return 1, part.why_not or "what it does to a sample depends on the size of the batch"
            if taken <= limit or count == whole.samples:
                return count, None

    def _settled(self, values: Inputs, run: Run) -> Followed:
        """The abstract run with the samples where they are."""
        found: list[tuple[Followed, Followed]] = []
        for dims in _candidates(values) if values.dims is None else [values.dims]:
            found.append(self._on(values, dims, run))
            if _settles(found[0][0], found[-1][0]):
                return found[-1][1]
        if not found:
            raise InputError(
                f"no input has a dimension that counts samples: {_described(values)}; give a batch, if only of one sample"
            )
        # Where they are mixed, they are still not the positions of a recurrent layer.
        return next((whole for telling, whole in found if not telling.recurs), found[0][1])

    def _on(self, values: Inputs, dims: Dims, run: Run) -> tuple[Followed, Followed]:
        """The abstract run with the samples along these dimensions, behind one that tells where they are: the same, or, as
        a single sample might be anywhere, that of two."""
        size = next(values[name].shape[dim] for name, dim in dims.items() if dim is not None)
        telling = follow(self.program, self.ops, _resized(values, dims, max(2, size)), dims, run)
        if telling.is_mixed:  # or a side of something else is as long as the batch: as one that no side is, it tells
            apart = follow(self.program, self.ops, _resized(values, dims, _NO_SIDE), dims, run)
            telling = follow(self.program, self.ops, _resized(values, dims, max(2, size)), dims, run, apart)
        if size > 1:
            return telling, telling
        return telling, follow(self.program, self.ops, _resized(values, dims, 1), dims, run, telling)


def _settles(first: Followed, found: Followed) -> bool:
    """Whether the samples are where an abstract run has them: they are kept apart, and not where they usually are, in
    which the first such run had them, because a recurrent layer goes along there, or because the rows of the output are
    elsewhere."""
    if found.why_not is not None:
        return False
    usual = all(dim is None or first.dims[name] in (None, dim) for name, dim in found.dims.items())
    return usual or first.recurs or found.begins_rows


def _shapes(values: Inputs) -> tuple[Any, ...]:
    return tuple((name, value.shape, value.dtype) for name, value in values.items())


def _resized(values: Inputs, dims: Dims, samples: int) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shapes and types of the inputs, with this many samples along `dims`."""
    shapes = {}
    for name, value in values.items():
        shape, dim = list(value.shape), dims.get(name)
        if dim is not None:
            shape[dim] = samples
        shapes[name] = torch.Size(shape), value.dtype
    return shapes


def _candidates(values: Inputs) -> list[dict[str, int | None]]:
    """Dimensions that may count the samples: the first of an input, and of the others those as large; then the second.

    Those in which an input has none, and all samples share it, come last.
    """
    found = []
    for first in (0, 1):
        for size in dict.fromkeys(value.shape[first] for value in values.values() if value.dim() > first):
            choices: list[list[int | None]] = [
                [*(dim for dim in (first, 1 - first) if value.dim() > dim and value.shape[dim] == size), None]
                for value in values.values()
            ]
            for chosen in itertools.islice(itertools.product(*choices), 32):
                if any(dim is not None for dim in chosen):
                    found.append(dict(zip(values, chosen, strict=True)))
    return sorted(found, key=lambda dims: sum(dim is None for dim in dims.values()))


def _described(values: Inputs) -> str:
    return ", ".join(f"{name!r} {list(value.shape)}" for name, value in values.items())
