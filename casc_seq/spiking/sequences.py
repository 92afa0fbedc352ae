"""What the recurrences of a lowered network have in common: how they read sequences, and in which order they visit them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.extend import Abstract, Follower, Run, Signal
from casc_core.operations import Axis, LayerTrain, Samples, TableRows, meta
from casc_seq.layers.rows import check_lengths, time_order


def read_sequences(
    settings: Mapping[str, Any], run: Run, current: Signal, rows: int, lengths: Tensor | None
) -> tuple[Signal, Tensor | None]:
    """The input current of a layer with these settings, and the lengths, checked.

    Args:
        rows: currents that it reads at each position.

    Raises:
        InputError: they do not fit.
    """
    name = settings["name"]
    if len(current.shape) != 3 or 0 in current.shape:
        raise InputError(
            f"{name}: expected a non-empty batch of sequences; what it reads has shape {list(current.shape)}. Give one "
            "sequence as a batch of one: x.unsqueeze(0)"
        )
    if current.shape[2] != rows:
        raise InputError(f"{name}: it reads {rows} currents at each position; its input has {current.shape[2]}")
    current = divided(current, run, settings["exponent"], name)
    if lengths is not None:
        lengths = check_lengths(lengths, *batch_and_length(settings, current.shape))
    return current, lengths


def batch_and_length(settings: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, int]:
    """How many sequences there are, and positions."""
    return (shape[0], shape[1]) if settings["batch_first"] else (shape[1], shape[0])


def as_the_kernels_read(
    current: Signal, table: Tensor | None, batch_first: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Drive, index and train of a current, batch first; of rows of a table, `table` in the place of the drive."""
    rows, train = current.lazy_drive, current.train
    drive, index = (table, rows.index) if isinstance(rows, TableRows) else (current.drive, None)
    if not batch_first:
        train = train.transpose(1, 2)
        drive = drive.transpose(0, 1) if drive is not None and index is None else drive
        index = None if index is None else index.transpose(0, 1)
    return drive, index, train


def passed_on(spikes: Tensor, reverse: bool, lengths: Tensor | None) -> Tensor:
    """Of the spikes at each position, `[steps, B, L]`, those that reach another: all but the last one's.

    >>> passed_on(torch.ones(1, 2, 3), False, torch.tensor([3, 1]))
    tensor([[[1., 1., 0.],
             [0., 1., 1.]]])
    """
    spikes = spikes.clone()
    if reverse:
        spikes[:, :, 0] = 0
    elif lengths is None:
        spikes[:, :, -1] = 0
    else:
        spikes[:, torch.arange(spikes.shape[1]), torch.as_tensor(lengths).long() - 1] = 0
    return spikes


def layer_train(settings: Mapping[str, Any], result: Signal, lengths: Tensor | None) -> LayerTrain:
    """The spikes of a population with one neuron for each position of each sequence."""
    if lengths is not None:
        lengths = check_lengths(lengths, *batch_and_length(settings, result.shape))
    return LayerTrain(settings["name"], result.train, 1 if settings["batch_first"] else 0, lengths, result.potential)


def divided(current: Signal, run: Run, exponent: int, name: str) -> Signal:
    """A real-valued current divided by what it carries and rounded once, for every step and for the reference."""
    if current.divisor is None:
        return current
    if current.steps or current.drive is None:
        raise InputError(f"{name}: its input is a mean over spikes; divide after the recurrence")
    return replace(current, lazy_drive=run.numerics.snap(current.drive / current.divisor, exponent), divisor=None)


def require_state(shape: torch.Size, name: str, batch: int, hidden: int) -> None:
    """Refuse an initial state of a cell that is not one vector for each sequence.

    Raises:
        InputError: it is not.
    """
    if tuple(shape) != (batch, hidden):
        raise InputError(
            f"{name}: expected hx of shape [cells, {batch}, {hidden}], of which each cell has a row; one has "
            f"{list(shape)}"
        )


def longest_train(*read: Any) -> int:
    """The most steps that a train may have among what is read, of which not all are signals."""
    return max(each.train.steps if isinstance(each, Abstract) and each.train is not None else 0 for each in read)


def recurrent_samples(
    follower: Follower, current: Abstract, batch_first: bool, start: Sequence[Any], lengths: Abstract | Tensor | None
) -> Samples:
    """Where the samples are behind a recurrence that begins with these states."""
    batch = current.shape[0 if batch_first else 1]
    samples = follower.apart(current, [1 if batch_first else 0, 2], "goes from one sample to the next")
    rows = Axis(0, samples.inner) if isinstance(samples, Axis) else samples
    if lengths is not None:
        _, rows = follower.together(Abstract(meta([batch]), rows), lengths)
    for each in start:
        if each is None:
            continue
        # Of a signal, the row of this cell alone.
        shape = [batch, 1] if isinstance(each, Abstract) and each.train is not None else [1, batch, 1]
        rows = Axis(len(shape) - 2, rows.inner) if isinstance(rows, Axis) else rows
        _, rows = follower.together(Abstract(meta(shape), rows), each)
    return rows if isinstance(samples, Axis) and not isinstance(rows, Axis) else samples


class Order:
    """How a recurrence goes through a padded batch: longest texts first, each visit one position of those that have it.

    Attributes:
        rows: samples, longest first.
        sizes: how many samples have position 0, 1, ...
        visits: `(position, size, known)`: the first `size` of `rows` are visited, of which the first `known` have a state.
    """

    def __init__(self, rows: Tensor, sizes: list[int], reverse: bool) -> None:
        self.rows, self.sizes = rows, sizes
        positions = range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes))
        spans = time_order(sizes, reverse)
        self.visits = [(position, size, known) for position, (_, size, known) in zip(positions, spans, strict=True)]

    @classmethod
    def of(cls, batch: int, length: int, lengths: Tensor | None, reverse: bool, device: torch.device) -> Order:
        """The order for a batch with these lengths, checked (None: all full)."""
        if lengths is None:
            return cls(torch.arange(batch, device=device), [batch] * length, reverse)
        ordered, rows = torch.sort(lengths, descending=True, stable=True)
        sizes = [int((ordered > position).sum()) for position in range(int(ordered[0]))]
        return cls(rows.to(device), sizes, reverse)


def together(parts: Sequence[tuple[slice, Tensor]], size: int, dtype: torch.dtype) -> Tensor:
    """The sum of trains, each of some of so many samples: `[steps, size, hidden]`.

    >>> together([(slice(0, 2), torch.zeros(0, 2, 1)), (slice(1, 2), torch.ones(1, 1, 1))], 2, torch.float32).flatten()
    tensor([0., 1.])
    """
    parts = [part for part in parts if len(part[1])] or list(parts[:1])
    (rows, first), *others = parts
    if not others and rows == slice(0, size):
        return first.to(dtype)
    total = first.new_zeros((max(len(train) for _, train in parts), size, first.shape[2]), dtype=dtype)
    for rows, train in parts:
        total[: len(train), rows] += train.to(dtype)
    return total


def by_position(
    visited: Sequence[tuple[Tensor, Tensor, int]],
    shape: tuple[int, ...],
    pad: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """`[steps, *shape]`, shape being `[B, L, hidden]`: zero but for what each visit gives of its position.

    Args:
        visited: `[steps, samples, hidden]`, the samples, and the position. pad: makes all equally long.
    """
    steps = max(len(each) for each, _, _ in visited)
    first, _, _ = visited[0]
    result = first.new_zeros((steps, *shape))
    for each, rows, position in visited:
        result[:, rows, position] = pad(each, steps)
    return result
