"""A recurrence as a slow loop: the oracle of the compiled one."""

from __future__ import annotations

import numpy as np


def recurrence_by_hand(
    weight, drive, train, initial, lengths, reverse, threshold, neuron, awake, cut, potential=0, start=()
) -> np.ndarray:
    """Spikes `[steps, batch, length, hidden]`: time outermost, one position at a time.

    `start` `[steps, batch, hidden]` is received at the first position visited.
    """
    arriving, batch, length, hidden = train.shape
    limit = len(awake) + max(arriving, len(start)) + (sum(awake) + 1) * (length + 1) if cut is None else cut
    spikes = np.zeros((limit, batch, length, hidden), dtype=np.int64)
    for b in range(batch):
        order = range(lengths[b] - 1, -1, -1) if reverse else range(lengths[b])
        before = np.zeros((limit, hidden))
        for visit, position in enumerate(order):
            received = before @ weight.T
            received[:arriving] += train[:limit, b, position]
            if visit == 0 and len(start):
                received[: len(start)] += start[:limit, b]
            flowing = drive[b, position] + (initial[b] if visit == 0 else 0)
            for step in range(min(len(awake), limit)):
                received[step] += flowing * awake[step]
            received[0] += potential
            caps = [sum(awake[: step + 1]) for step in range(limit)]
            before = neuron.run(received, caps, float(threshold))[0]
            spikes[:, b, position] = before
    while len(spikes) and not spikes[-1].any():
        spikes = spikes[:-1]
    return spikes
