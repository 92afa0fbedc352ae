"""Series over time steps: made equally long, and summed up in a few numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def zero_padded(series: Tensor, steps: int) -> Tensor:
    """`series` `[any, ...]` as `[steps, ...]`: cut, or followed by zeros, as spikes are once a network is silent.

    >>> zero_padded(torch.tensor([3, 1]), 4).tolist(), zero_padded(torch.tensor([3, 1]), 1).tolist()
    ([3, 1, 0, 0], [3])
    """
    if len(series) >= steps:
        return series[:steps]
    return torch.cat([series, series.new_zeros(steps - len(series), *series.shape[1:])])


def last_repeated(series: Tensor, steps: int) -> Tensor:
    """`series` `[any, ...]` as `[steps, ...]`: cut, or its last entry repeated, as a readout is once a network is silent.

    >>> last_repeated(torch.tensor([3, 1]), 4).tolist(), last_repeated(torch.tensor([3, 1]), 1).tolist()
    ([3, 1, 1, 1], [3])
    """
    if len(series) >= steps:
        return series[:steps]
    return torch.cat([series, series[-1:].expand(steps - len(series), *series.shape[1:])])


def first_equal_step(readouts: Tensor, expected: Tensor) -> Tensor:
    """`[samples]`: the first step, from 1, from which on readouts `[T, samples, ...]` are as expected; 0: not at the end.

    >>> readouts = torch.tensor([[[1.0], [0.0]], [[2.0], [2.0]], [[2.0], [5.0]]])
    >>> first_equal_step(readouts, torch.tensor([[2.0], [2.0]]))
    tensor([2, 0])
    """
    differs = (readouts != expected).reshape(*readouts.shape[:2], -1).any(-1)
    after_last = torch.where(differs, torch.arange(2, len(readouts) + 2)[:, None], 1).amax(0)
    return torch.where(after_last > len(readouts), 0, after_last)


def steps_to_silence(silent_at: Tensor) -> dict[str, float]:
    """Mean, median, 99th percentile and largest of the steps to silence.

    >>> steps_to_silence(torch.tensor([3, 4, 5]))
    {'mean': 4.0, 'p50': 4.0, 'p99': 5.0, 'max': 5.0}
    """
    values = silent_at.double()
    p50, p99 = (float(torch.quantile(values, q, interpolation="higher")) for q in (0.5, 0.99))
    return {"mean": round(float(values.mean()), 4), "p50": p50, "p99": p99, "max": float(values.max())}


def median_and_largest(steps: Tensor) -> tuple[int, int]:
    """Of steps `[samples]`; of two in the middle, the smaller one.

    >>> median_and_largest(torch.tensor([3, 4, 5, 9]))
    (4, 9)
    """
    return int(steps.median()), int(steps.max())


def powers_of_two(limit: int) -> list[int]:
    """The time steps a table shows: 1, 2, 4, ... and `limit`.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    steps = [1 << power for power in range(limit.bit_length()) if 1 << power <= limit]
    return steps if steps[-1] == limit else [*steps, limit]
