"""Word vectors of a corpus: the decomposition of a matrix counted here pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from casc_core.errors import ConfigError, InputError
from casc_seq.text.vectors import _information, corpus_vectors

TEXTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=10)


def information(texts: list[list[int]], size: int, window: int) -> Tensor:
    counts = [[0] * size for _ in range(size)]
    for text in texts:
        for i, one in enumerate(text):
            for j, other in enumerate(text):
                if i != j and abs(i - j) <= window and one > 1 and other > 1:
                    counts[one][other] += 1
    totals = [sum(row) for row in counts]
    result = torch.zeros(size, size)
    for one in range(size):
        for other in range(size):
            if counts[one][other]:
                together = counts[one][other] / sum(totals)
                apart = totals[one] ** 0.75 * totals[other] ** 0.75 / sum(total**0.75 for total in totals) ** 2
                result[one, other] = max(0.0, math.log(together / apart))
    return result


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, window=st.integers(1, 4))
def test_the_matrix_is_the_one_counted_pair_by_pair(texts: list[list[int]], window: int) -> None:
    torch.testing.assert_close(_information(texts, 10, window).to_dense(), information(texts, 10, window))


@settings(deadline=None, max_examples=40)
@given(texts=TEXTS, dim=st.integers(1, 14))
def test_vectors_are_finite_centred_and_of_unit_scale(texts: list[list[int]], dim: int) -> None:
    vectors = corpus_vectors(texts, 10, dim)
    assert vectors.shape == (10, dim)
    assert vectors.isfinite().all()
    assert not vectors[:2].any()
    torch.testing.assert_close(vectors.mean(0), torch.zeros(dim), atol=1e-3, rtol=0)


def test_words_of_one_topic_are_alike_even_if_rare() -> None:
    torch.manual_seed(0)
    texts = [(torch.randint(0, 20, (12,)) + 2 + 20 * (i % 2)).tolist() for i in range(300)]
    texts += [[42, 3, 4, 5, 6], [43, 23, 24, 25, 26]]  # 42 and 43 occur once
    vectors = torch.nn.functional.normalize(corpus_vectors(texts, 44, 8), dim=1)
    first, second = vectors[2:22].mean(0), vectors[22:42].mean(0)
    assert vectors[42] @ first > vectors[42] @ second
    assert vectors[43] @ second > vectors[43] @ first


def test_the_same_texts_give_the_same_bits() -> None:
    texts = [[2, 3, 4], [5, 6, 2, 3], [4, 4, 6]] * 3
    assert torch.equal(corpus_vectors(texts, 7, 4), corpus_vectors(texts, 7, 4))


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"no word has the number 7; the vocabulary has 0\.\.6"):
        corpus_vectors([[2, 7]], 7, 4)
    with pytest.raises(ConfigError, match="dim"):
        corpus_vectors([[2, 3]], 7, 0)
