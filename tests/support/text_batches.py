"""Batches of texts of several lengths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def batch_of(rng: np.random.Generator, samples: int, longest: int) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """Texts one by one, and padded, with their lengths."""
    texts = [rng.integers(1, 9, rng.integers(1, longest + 1)) for _ in range(samples)]
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(samples, int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    return texts, tokens, lengths
