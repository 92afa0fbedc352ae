"""A text as a network reads it: words, spikes, class probabilities step by step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from casc_core.reporting.predictions import reading


@dataclass(frozen=True)
class Reading:
    """A text as a network reads it.

    Attributes:
        words: what it reads, `known` or not.
        classes: their names.
        probabilities: `[T, classes]`, softmax of the readout after each step.
        spikes: by layer, `[T, words, neurons]` int8.
        silent_at: the last step at which anything spiked; None: the run was cut off before the network was silent.
        exact: whether the logits are the reference's, bit for bit.
    """

    text: str
    words: list[str]
    known: list[bool]
    classes: list[str]
    probabilities: Tensor
    spikes: dict[str, Tensor]
    silent_at: int | None
    exact: bool

    @property
    def when(self) -> str:
        """When it fell silent, if it did."""
        if self.silent_at is None:
            return f"cut off after step {len(self.probabilities)}, not yet silent"
        return f"silent after step {self.silent_at}"

    @property
    def answer(self) -> int:
        """The class with the largest probability at the end."""
        return int(reading(self.probabilities.shape).classes(self.probabilities)[-1])
