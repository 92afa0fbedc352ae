"""Where the samples of a batch are in a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Dimension `dim` counts samples: index i along it belongs to sample `i // inner % samples`.

    `inner` is 1 unless something is folded into the batch: behind `view(B * T, ...)` it is T, behind `cat([a, b])` two
    runs through the samples follow one another.
    """

    dim: int
    inner: int = 1


@dataclass(frozen=True)
class Mixed:
    """An element may depend on several samples, and `why`."""

    why: str


Samples = Axis | Mixed | None
"""Where the samples are; None: nowhere, each sample sees the same tensor."""
