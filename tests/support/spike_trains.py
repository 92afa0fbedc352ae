"""Spike counts of every kind, for tests of what reads them."""

from __future__ import annotations

import numpy as np


def spike_trains(rng: np.random.Generator, steps: int, *shape: int, peak: int) -> np.ndarray:
    """`[steps, *shape]` int8: sparse, dense, like the step before, silent, all at their peak."""
    train = rng.integers(-peak, peak + 1, (steps, *shape)).astype(np.int8)
    train[rng.random(train.shape) < rng.random()] = 0
    for step in range(steps):
        kind = rng.integers(5)
        if kind == 0:
            train[step] = 0
        elif kind == 1:
            train[step] = peak
        elif kind == 2 and step:
            train[step] = train[step - 1]
            train[step].flat[rng.integers(train[step].size)] = -peak
    return train
