"""Batches as torchtext 0.6 makes them (BucketIterator), which the paper used; extra `casc[torchtext]`.

An alternative to `casc_seq.text.batches` with the same interface. torchtext is imported when first used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from casc_seq.text.batches import BucketedBatches
from casc_seq.text.torchtext import import_torchtext


class _BucketIteratorBatches(BucketedBatches):
    """As `BucketedBatches`, but which texts make a batch, and in which order, is torchtext's decision."""

    def _order(self) -> list[Tensor]:
        data = import_torchtext().data
        # Only the lengths matter to the iterator, so its texts are made of nothing else.
        field = data.Field(sequential=False, use_vocab=False)
        fields = [("index", field), ("length", field)]
        texts = [data.Example.fromlist(pair, fields) for pair in enumerate(self.lengths.tolist())]
        iterator = data.BucketIterator(
            data.Dataset(texts, fields),
            self.batch_size,
            sort_key=_length,
            train=self.seed is not None,
            sort_within_batch=True,
        )
        iterator.random_shuffler.random_state = random.Random(self.seed).getstate()
        return [batch.index for batch in iterator]


def _length(example: Any) -> int:
    return int(example.length)


def bucket_iterator_batches(
    encoded: Sequence[Sequence[int]], labels: Sequence[int], batch_size: int, seed: int | None = None
) -> BucketedBatches:
    """Batches of `encoded` texts made by torchtext's `BucketIterator`; same arguments, errors and `len()` as
    `casc_seq.text.batches.bucketed_batches`.

    With `seed` it is torchtext's training iterator (pools of 100 batches, longest text of a batch first), without it
    the evaluation iterator (all texts by length).
    """
    import_torchtext()
    return _BucketIteratorBatches(encoded, labels, batch_size, seed)
