"""Initial word vectors from the training texts themselves: words that keep the same company begin alike.

A network that starts from random vectors learns the rare words of its training texts by heart. Starting from these, it
knows that a word it has seen twice is about football.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_seq.text.tokenizer import UNKNOWN, check_count

_EXTRA = 16
"""Directions beyond those asked for, which make the randomised decomposition accurate (Halko et al. 2011)."""
_ROUNDS = 6
_SMOOTHING = 0.75
"""Power of the counts that makes a chance meeting of two rare words count for less (Levy et al. 2015, section 3.1)."""


def corpus_vectors(
    encoded: Sequence[Sequence[int]], vocabulary_size: int, dim: int, window: int = 8, seed: int = 0
) -> Tensor:
    r"""Vectors `[vocabulary_size, dim]` of mean 0 and length `sqrt(dim)`, from how often words occur near each other.

    The positive pointwise mutual information of two words, `max(0, log(p_ab / (p_a p_b)))`, with `p_ab` how often they
    are within `window` words of each other and `p_a` proportional to `n_a ** 0.75`, is a symmetric matrix. The vectors
    are its `dim` strongest eigenvectors, each times the root of its eigenvalue, and then brought to one length (Levy,
    Goldberg and Dagan 2015). Padding, unknown words, and words that are not in `encoded` have vectors of zeros.

    Args:
        encoded: word numbers of each text.
        vocabulary_size: rows.
        dim: columns; where the vocabulary is smaller, the rest are zeros.
        window: words are near if at most this many positions apart.
        seed: of the random start of the decomposition.

    Raises:
        ConfigError: a size below 1.
        InputError: a word number outside the vocabulary.

    >>> texts = [[2, 3, 4], [2, 4, 3], [5, 6, 7], [7, 6, 5]] * 5
    >>> vectors = corpus_vectors(texts, vocabulary_size=8, dim=2)
    >>> vectors.shape, bool(vectors[2] @ vectors[3] > vectors[2] @ vectors[6])
    (torch.Size([8, 2]), True)
    """
    for name, value in (("vocabulary_size", vocabulary_size), ("dim", dim), ("window", window)):
        check_count(name, value)
    information = _information(encoded, vocabulary_size, window)
    width = min(dim, vocabulary_size)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(vocabulary_size, min(width + _EXTRA, vocabulary_size), generator=generator)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(information @ basis).Q
    values, rotation = torch.linalg.eigh(basis.t() @ (information @ basis))
    strongest = values.abs().argsort(descending=True, stable=True)[:width]
    vectors = (basis @ rotation[:, strongest]) * values[strongest].abs().sqrt()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)
    known = information.crow_indices().diff() > 0
    vectors[~known] = 0.0
    if known.any():
        vectors[known] -= vectors[known].mean(0)
        vectors /= (vectors[known].square().sum(1).mean() / dim).sqrt().clamp_min(1e-6)
    return torch.nn.functional.pad(vectors, (0, dim - width))


def _information(encoded: Sequence[Sequence[int]], size: int, window: int) -> Tensor:
    """Positive pointwise mutual information of every two words, a sparse symmetric matrix `[size, size]`."""
    lengths = torch.tensor([len(tokens) for tokens in encoded], dtype=torch.int64)
    flat = torch.tensor(list(itertools.chain.from_iterable(encoded)), dtype=torch.int64)
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < size:
        bad = int(flat.max()) if int(flat.max()) >= size else int(flat.min())
        raise InputError(f"no word has the number {bad}; the vocabulary has 0..{size - 1}")
    # All texts end to end, with gaps so wide that no window reaches from one to the next.
    line = torch.zeros(len(flat) + window * len(encoded), dtype=torch.int64)
    line[torch.arange(len(flat)) + window * torch.repeat_interleave(torch.arange(len(encoded)), lengths)] = flat
    keys = []
    for apart in range(1, window + 1):
        first, second = line[:-apart], line[apart:]
        real = (first > UNKNOWN) & (second > UNKNOWN)
        keys.append((torch.minimum(first, second) * size + torch.maximum(first, second))[real])
    pairs, counts = torch.unique(torch.cat(keys), return_counts=True)
    # Each pair once from both sides: a word beside itself counts twice, as it is near and has one near.
    mirrored = pairs % size * size + pairs // size
    apart_from_itself = mirrored != pairs
    pairs = torch.cat([pairs, mirrored[apart_from_itself]])
    counts = torch.cat([counts * (2 - apart_from_itself.long()), counts[apart_from_itself]])
    pairs, order = pairs.sort()
    counts = counts[order]
    rows, columns = pairs // size, pairs % size
    totals = torch.zeros(size, dtype=torch.int64).index_add_(0, rows, counts)
    shares = totals.double() ** _SMOOTHING
    shares /= shares.sum()
    information = torch.log(counts.double() / counts.sum() / (shares[rows] * shares[columns]))
    positive = information > 0
    starts = torch.zeros(size + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(rows[positive], minlength=size).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, columns[positive], information[positive].float(), (size, size), check_invariants=False
        )
