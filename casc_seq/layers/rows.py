"""How a batch of sequences becomes rows, position by position, and in which order a recurrence visits them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import InputError

TimeOrder = list[tuple[int, int, int]]


def time_order(batch_sizes: Sequence[int], reverse: bool) -> TimeOrder:
    """Rows of a packed sequence in the order a recurrence visits them.

    Position `i` of a packed sequence occupies rows `start : start + size`, `size = batch_sizes[i]`. Returns
    `(start, size, known)` for each visit, `known` being how many of its rows already have a state from the visit
    before; the others begin at the initial state. Forward, sequences only leave; in reverse, they only join.

    >>> time_order([3, 2], reverse=False)
    [(0, 3, 0), (3, 2, 2)]
    >>> time_order([3, 2], reverse=True)
    [(3, 2, 0), (0, 3, 2)]
    """
    spans, start = [], 0
    for size in batch_sizes:
        spans.append((start, size))
        start += size
    if reverse:
        spans.reverse()
    order, before = [], 0
    for start, size in spans:
        order.append((start, size, min(before, size)))
        before = size
    return order


def in_groups(order: TimeOrder, rows: int) -> Iterator[TimeOrder]:
    """Visits that follow each other, of together no more than `rows` rows, or of one.

    >>> [len(each) for each in in_groups(time_order([4, 3, 3, 2], reverse=False), 7)]
    [2, 2]
    """
    some: TimeOrder = []
    for visit in order:
        if some and sum(size for _, size, _ in some) + visit[1] > rows:
            yield some
            some = []
        some.append(visit)
    yield some


def visited(rows: Tensor, order: TimeOrder) -> list[Tensor]:
    """The rows of each visit, as views.

    >>> [each.tolist() for each in visited(torch.tensor([1, 2, 3]), time_order([2, 1], reverse=True))]
    [[3], [1, 2]]
    """
    by_position = sorted((row, size, visit) for visit, (row, size, _) in enumerate(order))
    parts = rows.split([size for _, size, _ in by_position])
    views = {visit: part for (*_, visit), part in zip(by_position, parts, strict=True)}
    return [views[visit] for visit in range(len(order))]


def together(parts: Sequence[Tensor], order: TimeOrder) -> Tensor:
    """The rows of all visits, as they lie: what `visited` takes apart."""
    by_row = sorted((row, visit) for visit, (row, _, _) in enumerate(order))
    return torch.cat([parts[visit] for _, visit in by_row])


def state_before(states: Sequence[Tensor], start: Tensor, order: TimeOrder, visit: int) -> Tensor:
    """The states before a visit, of those after each; `start` `[batch, hidden]` is before the first of each sequence.

    >>> after, order = [torch.tensor([[1.0]]), torch.zeros(2, 1)], time_order([2, 1], reverse=True)
    >>> state_before(after, torch.zeros(2, 1), order, 1).flatten()
    tensor([1., 0.])
    """
    _, size, known = order[visit]
    if known == 0:
        return start[:size]
    before = states[visit - 1] if order[visit - 1][1] == known else states[visit - 1][:known]
    return before if known == size else torch.cat([before, start[known:size]])


def previous_rows(states: Tensor, start: Tensor, order: TimeOrder) -> Tensor:
    """The states before those of each row, where all are known; `start` `[batch, hidden]` is before the first of each.

    >>> previous_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(2, 1), time_order([2, 1], reverse=False)).flatten()
    tensor([0., 0., 1.])
    """
    after = visited(states, order)
    return together([state_before(after, start, order, visit) for visit in range(len(order))], order)


class Rows:
    """How a batch of sequences becomes rows, position by position and the longest texts first, and back.

    Attributes:
        sizes: how many sequences have position 0, 1, ...
        order: the sequences, the longest first; None: all are as long as the batch, and stay as they are.
        places: of each row, among all positions of all sequences as the user has them; None: of all of them, in turn.
    """

    def __init__(self, length: int, batch: int, lengths: Tensor | None, batch_first: bool) -> None:
        self.length, self.batch, self.batch_first = length, batch, batch_first
        self.lengths = None if lengths is None else check_lengths(lengths, batch, length)
        self.sizes = [batch] * length
        self.order: Tensor | None = None
        self.places: Tensor | None = None
        if self.lengths is not None and int(self.lengths.min()) < length:
            longest_first, self.order = torch.sort(self.lengths, descending=True, stable=True)
            has_position = torch.arange(int(longest_first[0])).unsqueeze(1) < longest_first
            self.sizes = has_position.sum(1).tolist()
            position, row = has_position.nonzero().unbind(1)
            sequence = self.order[row]
            self.places = sequence * length + position if batch_first else position * batch + sequence

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and positions, in the order in which the user has them."""
        return (self.batch, self.length) if self.batch_first else (self.length, self.batch)

    def of(self, sequences: Tensor) -> Tensor:
        """The rows `[rows, features]` of sequences as the user has them."""
        if self.places is None:
            positions_first = sequences.transpose(0, 1) if self.batch_first else sequences
            return positions_first.reshape(self.length * self.batch, -1)
        # The rows of a table; its gradient is faster than that of an index.
        return F.embedding(self.places.to(sequences.device), sequences.reshape(self.length * self.batch, -1))

    def back(self, rows: Tensor) -> Tensor:
        """The sequences of such rows, zero behind each one's end."""
        if self.places is None:
            sequences = rows.reshape(self.length, self.batch, -1)
            return sequences.transpose(0, 1) if self.batch_first else sequences
        padded = rows.new_zeros(self.length * self.batch, rows.shape[1])
        padded = padded.index_copy(0, self.places.to(rows.device), rows)
        return padded.reshape(*self.shape, -1)

    def sorted(self, states: Tensor) -> Tensor:
        """States `[cells, batch, hidden]` in the order of the rows: the longest texts first."""
        return states if self.order is None else states[:, self.order.to(states.device)]

    def unsorted(self, states: Tensor) -> Tensor:
        """States `[cells, batch, hidden]` in the order in which the user has them."""
        return states if self.order is None else states[:, self.order.argsort().to(states.device)]

    def last(self) -> Tensor:
        """Row of the last real position of each sequence, the longest first."""
        sequences = torch.arange(self.batch)
        if self.order is None or self.lengths is None:
            return (self.length - 1) * self.batch + sequences
        # By length: where the rows of the last position begin.
        starts = torch.tensor([0, 0, *itertools.accumulate(self.sizes)])
        return starts[self.lengths[self.order]] + sequences


def check_lengths(lengths: Tensor, batch: int, longest: int) -> Tensor:
    """`lengths` as int64 on the CPU, if it has one length in `1..longest` for each of `batch` sequences."""
    given = torch.as_tensor(lengths)
    lengths = given.to("cpu", torch.int64)
    if lengths.shape != (batch,):
        raise InputError(f"expected one length for each of {batch} sequences; got shape {list(lengths.shape)}")
    if given.is_floating_point() and not torch.equal(lengths.double(), given.detach().double().cpu()):
        raise InputError(f"lengths must be whole numbers; got {given.tolist()!r:.80}")
    bad = ((lengths < 1) | (lengths > longest)).nonzero()
    if len(bad):
        index = int(bad[0])
        remedy = (
            "cut it off there" if lengths[index] > longest else "leave empty texts out, or give one a padding token"
        )
        raise InputError(f"lengths must lie in 1..{longest}; sample {index} has length {int(lengths[index])}: {remedy}")
    return lengths
