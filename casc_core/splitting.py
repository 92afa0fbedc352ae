"""Splitting a batch so that a run stays under a memory limit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DEFAULT_LIMIT = 2 * 2**30
# Of a batch that may be too large, so many samples are run first to see what they take.
_TRIED = 32

Inputs = Mapping[str, Any]
Axes = Mapping[str, "int | None"]
Evaluate = Callable[[Inputs], "tuple[Tensor, int]"]


@dataclass
class Splitter:
    """How the batches of one program are split.

    What a run takes is kept for the next; whether samples are independent is asked of each batch anew, since one batch
    (a single sample, texts of one length) may not show what another does.

    Attributes:
        taken: bytes for each entry of the inputs that the runs of each kind took.
    """

    taken: dict[object, float] = field(default_factory=dict)

    def learn(self, kind: object, values: Inputs, taken: int) -> None:
        """A run of this kind on these inputs took so many bytes."""
        self.taken[kind] = max(self.taken.get(kind, 0.0), taken / _entries(values))

    def parts(self, kind: object, values: Inputs, limit: int, prior: float, evaluate: Evaluate) -> list[Inputs]:
        """`values`, or parts of the batch whose runs each stay under a limit.

        Args:
            kind: of the run.
            values: inputs by name.
            limit: bytes.
            prior: bytes for each entry of the inputs that no first run of this kind is expected to exceed.
            evaluate: a run of this kind: it reports to `learn`, and returns the output and how many samples it saw.
        """
        entries = _entries(values)
        if self.taken.get(kind, prior) * entries <= limit or all(
            _samples(values, axes) == 1 for axes in _candidates(values)
        ):
            return [values]
        axes = _independent(values, evaluate)
        if axes is not None:
            samples = _samples(values, axes)
            if kind not in self.taken:
                evaluate(_taken(values, axes, list(range(min(_TRIED, samples)))))
            size = max(1, int(samples * limit / (self.taken[kind] * entries)))
            indices = torch.arange(samples).split(size)
            return [values] if len(indices) == 1 else [_taken(values, axes, index.tolist()) for index in indices]
        warnings.warn(
            f"this batch may take more than the memory limit of {limit / 2**20:,.0f} MiB, and it cannot be split: its "
            "samples influence one another, or the output has no row for each",
            stacklevel=4,
        )
        return [values]


def _entries(values: Inputs) -> int:
    return sum(value.numel() for value in values.values() if isinstance(value, Tensor))


def _samples(values: Inputs, axes: Axes) -> int:
    return next(int(values[name].shape[axis]) for name, axis in axes.items() if axis is not None)


def _taken(values: Inputs, axes: Axes, samples: list[int]) -> Inputs:
    """The inputs of these samples."""
    part = dict(values)
    for name, axis in axes.items():
        if axis is not None:
            part[name] = values[name].index_select(axis, torch.tensor(samples, device=values[name].device))
    return part


def _independent(values: Inputs, evaluate: Evaluate) -> Axes | None:
    """The dimension of each input that counts samples, if these can be run one by one: found by doing so with a few."""
    for axes in _candidates(values):
        few = _telling(values, axes)
        try:
            together, samples = evaluate(_taken(values, axes, few))
            apart, ones = zip(*(evaluate(_taken(values, axes, [sample])) for sample in few), strict=True)
        except (RuntimeError, ValueError, IndexError):
            continue  # that dimension was not the samples'
        counted = samples == len(few) == len(together) and set(ones) == {1}
        if counted and torch.equal(together, torch.cat(apart)):
            return axes
    return None


def _candidates(values: Inputs) -> list[Axes]:
    """Samples first; or as `torch.nn.RNN` takes them, `[L, B, ...]` beside `[B]`."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.dim()}
    found: list[Axes] = []
    for first in (0, 1):
        sizes = [value.shape[first] for value in tensors.values() if value.dim() > first]
        axes: dict[str, int | None] = {}
        for name, value in tensors.items():
            order = [first, 1 - first] if value.dim() > 1 else [0]
            axes[name] = next((axis for axis in order if sizes and value.shape[axis] == sizes[0]), None)
        if any(axis is not None for axis in axes.values()):
            found.append(axes)
    return found


def _telling(values: Inputs, axes: Axes) -> list[int]:
    """A few samples as unlike as possible: the first, the last, and by each input those of least and largest sum, and with
    the fewest and the most entries that are not zero: the shortest and the longest texts."""
    chosen = {0, _samples(values, axes) - 1}
    for name, axis in axes.items():
        if axis is not None:
            rows = values[name].double().movedim(axis, 0).reshape(values[name].shape[axis], -1)
            for measure in (rows.sum(1), (rows != 0).sum(1)):
                chosen |= {int(measure.argmin()), int(measure.argmax())}
    return sorted(chosen)
