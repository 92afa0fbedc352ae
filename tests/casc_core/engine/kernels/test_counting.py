"""Counting of spikes against plain NumPy, under every set of instructions of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED

from casc_core.engine import kernels

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")

SHAPES = (
    ((3, 5, 7), 1), ((2, 3, 400, 300), 2), ((4, 1), 0), ((1, 2, 513), 1), ((5, 600), 1), ((3, 4, 16), 1), ((2, 9, 24), 1),
    ((2, 3, 3, 64), 2),
)  # fmt: skip


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
def test_counting(instructions):
    rng = np.random.default_rng(0)
    with kernels.using(instructions):
        for shape, dim in (
            ((3, 5, 7), 1),
            ((2, 3, 400, 300), 2),
            ((4, 1), 0),
            ((1, 2, 513), 1),
            ((5, 600), 1),
            ((3, 4, 16), 1),
            ((2, 9, 24), 1),
        ):
            train = rng.integers(-127, 128, shape).astype(np.int8)
            np.testing.assert_array_equal(kernels.sum_middle(torch.tensor(train), dim), train.sum(dim, dtype=np.int64))
            for dims in range(1, train.ndim):
                positive, negative, in_rows = kernels.tally(torch.tensor(train), dims)
                of_block = tuple(range(-dims, 0))
                np.testing.assert_array_equal(positive, (train > 0).sum(of_block))
                np.testing.assert_array_equal(negative, (train < 0).sum(of_block))
                np.testing.assert_array_equal(in_rows, (train != 0).sum(-1))
