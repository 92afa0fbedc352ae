import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.errors import ConfigError, InputError
from casc_seq.text.batches import bucketed_batches
from casc_seq.text.tokenizer import PAD

encoded_texts = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=12), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(encoded_texts, st.integers(1, 9), st.none() | st.integers(0, 3))
def test_batches_partition_the_data(encoded, batch_size, seed):
    labels = list(range(len(encoded)))
    batches = bucketed_batches(encoded, labels, batch_size, seed)
    made = list(batches)
    assert len(made) == len(batches) == -(-len(encoded) // batch_size)
    assert sorted(index for batch in made for index in batch.index.tolist()) == labels
    for batch in made:
        assert 1 <= len(batch.index) <= batch_size
        assert {part.dtype for part in vars(batch).values()} == {torch.int64}
        assert batch.tokens.shape == (len(batch.index), int(batch.lengths.max()))
        assert torch.equal(batch.labels, batch.index)
        for row, length, index in zip(batch.tokens.tolist(), batch.lengths.tolist(), batch.index.tolist(), strict=True):
            assert row[:length] == encoded[index]
            assert set(row[length:]) <= {PAD}


def _texts(count, generator=None):
    lengths = torch.randint(1, 200, (count,), generator=generator or torch.Generator().manual_seed(1))
    return [[2] * length for length in lengths.tolist()]


def _order(batches):
    return [batch.index.tolist() for batch in batches]


def test_evaluation_is_sorted_by_length_and_stable():
    encoded = [[1] * (1 + number % 3) for number in range(10)]
    order = [index for batch in _order(bucketed_batches(encoded, [0] * 10, 4)) for index in batch]
    assert order == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]


def test_a_seed_decides_the_order():
    encoded = _texts(300)
    labels = [0] * 300
    first = bucketed_batches(encoded, labels, 16, seed=5)
    assert _order(first) == _order(first) == _order(bucketed_batches(encoded, labels, 16, seed=5))
    assert _order(first) != _order(bucketed_batches(encoded, labels, 16, seed=6))


def test_little_of_a_training_batch_is_padding_and_batches_come_in_no_order_of_length():
    batches = list(bucketed_batches(_texts(3000), [0] * 3000, 32, seed=0))
    real = sum(int(batch.lengths.sum()) for batch in batches)
    assert real / sum(batch.tokens.numel() for batch in batches) > 0.95
    widths = [batch.tokens.shape[1] for batch in batches]
    assert widths != sorted(widths)


def test_very_unequal_lengths():
    (batch,) = bucketed_batches([[3], [4] * 5000], [0, 1], 2)
    assert batch.tokens.shape == (2, 5000)
    assert batch.tokens.sum() == 3 + 4 * 5000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [], 2), InputError, "no texts"),
        (([[1]], [0, 1], 2), InputError, "each of 1 texts; got 2"),
        (([[1], []], [0, 1], 2), InputError, "text 1 has no tokens"),
        (([[1]], [0], 0), ConfigError, "batch_size .* got 0"),
        (([[1]], [0], 2.0), ConfigError, "batch_size"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        bucketed_batches(*arguments)
