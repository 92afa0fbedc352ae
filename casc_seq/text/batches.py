"""Batches of texts of similar length, so that little of a batch is padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.reporting.summaries import Summarised
from casc_lab.distributed import Share
from casc_lab.training.task import Part
from casc_seq.text.tokenizer import PAD, check_count

_POOL = 50
"""Batches whose texts are sorted by length together: enough for little padding, few enough to stay random."""


@dataclass(frozen=True, repr=False)
class Batch(Summarised):
    """Texts of a data set, padded to the longest of them.

    Attributes:
        tokens: word numbers `[B, L]`, int64, `PAD` after the end of each text.
        lengths: real words of each text `[B]`, int64.
        labels: class of each text `[B]`, int64.
        index: position of each text in the data set `[B]`, int64.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    index: Tensor


class BucketedBatches:
    """All texts once, in batches of similar length; made by `bucketed_batches`. Iterate as often as you like."""

    def __init__(
        self, encoded: Sequence[Sequence[int]], labels: Sequence[int], batch_size: int, seed: int | None = None
    ) -> None:
        self.batch_size = check_count("batch_size", batch_size)
        if len(encoded) == 0:
            raise InputError("there are no texts to make batches of")
        if len(labels) != len(encoded):
            raise InputError(f"expected one label for each of {len(encoded)} texts; got {len(labels)} labels")
        self.lengths = torch.tensor([len(tokens) for tokens in encoded])
        if not self.lengths.all():
            empty = int((self.lengths == 0).nonzero()[0])
            raise InputError(f"text {empty} has no tokens; encode an empty text as [UNKNOWN]")
        self.labels = torch.tensor(labels)
        self.seed = seed
        # All texts end to end: a batch is then one gather.
        self._flat = torch.tensor(list(itertools.chain.from_iterable(encoded)))
        self._starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._order():
            yield self._batch(index)

    def parts(self, share: Share, start: int = 0) -> Iterator[Part[Batch]]:
        """A process's part of each batch from number `start` on."""
        for index in self._order()[start:]:
            mine, samples = share.of_batch(index)
            yield Part(self._batch(mine), samples)

    def shared(self, share: Share) -> Iterator[Batch]:
        """A process's share of the batches, each of them whole."""
        return map(self._batch, share.of(self._order()))

    def _order(self) -> list[Tensor]:
        """Positions of the texts in each batch."""
        if self.seed is None:
            return list(torch.split(torch.argsort(self.lengths, stable=True), self.batch_size))
        generator = torch.Generator().manual_seed(self.seed)
        shuffled = torch.randperm(len(self.lengths), generator=generator)
        batches: list[Tensor] = []
        for pool in torch.split(shuffled, self.batch_size * _POOL):
            batches += torch.split(pool[torch.argsort(self.lengths[pool], stable=True)], self.batch_size)
        return [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]

    def _batch(self, index: Tensor) -> Batch:
        lengths = self.lengths[index]
        column = torch.arange(int(lengths.max()))
        places = (self._starts[index, None] + column).clamp_(max=len(self._flat) - 1)
        tokens = self._flat[places].masked_fill_(column >= lengths[:, None], PAD)
        return Batch(tokens, lengths, self.labels[index], index)


def bucketed_batches(
    encoded: Sequence[Sequence[int]], labels: Sequence[int], batch_size: int, seed: int | None = None
) -> BucketedBatches:
    """Batches of `encoded` texts, each text once; `len()` says how many.

    With `seed`, the texts are shuffled, sorted by length within pools of 50 batches, and the batches shuffled: the same
    seed gives the same batches, so give each epoch its own. Without, all texts are sorted by length (equal lengths
    stay in order), for evaluation; `Batch.index` leads back to the order of the data set.

    Args:
        encoded: word numbers of each text, at least one per text.
        labels: class of each text.
        batch_size: texts in a batch; one batch may have fewer.

    Raises:
        ConfigError: `batch_size` below 1.
        InputError: no texts, a text without tokens, or not one label per text.

    >>> for batch in bucketed_batches([[5, 6, 7], [8], [9, 2]], [0, 1, 0], batch_size=2):
    ...     print(batch.tokens.tolist(), batch.lengths.tolist(), batch.labels.tolist(), batch.index.tolist())
    [[8, 0], [9, 2]] [1, 2] [1, 0] [1, 2]
    [[5, 6, 7]] [3] [0] [0]
    """
    return BucketedBatches(encoded, labels, batch_size, seed)
