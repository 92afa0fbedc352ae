"""How two evaluations of a network differ: in how many levels and predictions, and by how much in logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.evidence.ann_evaluation import LogitsAndLevels
from casc_core.reporting.predictions import differing, with_batch

# Of a sample's largest logit: differences up to this are those of rounding; a level that moves is seen in far more.
LOGIT_ROUNDING = 2.0**-16


@dataclass(frozen=True)
class Differences:
    """How one evaluation of a network differs from another, which some change has made of it.

    Attributes:
        neurons: how many there are, over all samples.
        layers: by name, how many neurons have another level, errors of the layers before included.
        logits: samples with logits that float32's rounding does not account for.
        predictions: samples whose predicted class is another one; None: nothing is predicted.
        max_logit_difference: the largest difference of two logits.
    """

    neurons: int
    layers: dict[str, int]
    logits: int
    predictions: int | None
    max_logit_difference: float

    @property
    def first_layer(self) -> str | None:
        """The first layer in which a level is another one."""
        return next((name for name, count in self.layers.items() if count), None)

    def sentence(self, what: str, samples: int) -> str:
        """In a line; `what` has made the change.

        >>> Differences(100, {"1": 0, "3": 2}, 1, 0, 0.25).sentence("the grid", 16)
        "the grid moved 2 of 100 neurons, from layer '3' on, logits of 1 and predictions of 0 of 16 samples, by up to 0.25"
        """
        first = "" if self.first_layer is None else f", from layer {self.first_layer!r} on"
        what += f" moved {sum(self.layers.values()):,} of {self.neurons:,} neurons{first}"
        return f"{what}, {self.of_logits(samples)}"

    def of_logits(self, samples: int) -> str:
        """What has moved of the logits.

        >>> Differences(0, {}, 3, 1, 0.25).of_logits(16)
        'logits of 3 and predictions of 1 of 16 samples, by up to 0.25'
        """
        predicted = "" if self.predictions is None else f" and predictions of {self.predictions:,}"
        return f"logits of {self.logits:,}{predicted} of {samples:,} samples, by up to {self.max_logit_difference:.3g}"


def differences(before: LogitsAndLevels, after: LogitsAndLevels, samples: int) -> Differences:
    """How an evaluation of a network on this many samples differs from the one before a change."""
    shared = {name: (levels, after.levels[name]) for name, levels in before.levels.items() if name in after.levels}
    layers = {name: int(_differ(*levels).sum()) for name, levels in shared.items()}
    neurons = sum(levels.numel() for levels, _ in shared.values())
    own, other = (with_batch(each.logits.double(), samples) for each in (before, after))
    if own.shape != other.shape:
        return Differences(neurons, layers, len(own), len(own), math.inf)
    moved = _moved(own, other)
    return Differences(neurons, layers, moved, int(differing(own, other).sum()), largest_difference(own, other))


def _moved(own: Tensor, other: Tensor) -> int:
    """Samples of which some logit differs by more than float32 may round it."""
    alike = absolute_difference(own, other) <= LOGIT_ROUNDING * largest_logits(own)
    return int((~alike).reshape(len(own), -1).any(1).sum())


def largest_logits(logits: Tensor) -> Tensor:
    """The largest magnitude in each sample, in a shape that broadcasts against `logits`; infinities left out.

    >>> largest_logits(torch.tensor([[1.0, -3.0], [-math.inf, 2.0]]))
    tensor([[3.],
            [2.]])
    """
    size = torch.where(logits.isfinite(), logits.abs(), 0.0)
    return size.flatten(1).amax(1).reshape(-1, *[1] * (logits.dim() - 1)) if logits.dim() > 1 else size


def absolute_difference(a: Tensor, b: Tensor) -> Tensor:
    """`|a - b|`, zero between equal infinities."""
    return torch.where(a == b, 0.0, (a - b).abs())


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest of `|a - b|`.

    >>> largest_difference(torch.tensor([1.0, -math.inf]), torch.tensor([3.0, -math.inf]))
    2.0
    """
    return float(absolute_difference(a, b).max())


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors differ: everywhere if they have not the same shape."""
    return a != b if a.shape == b.shape else torch.ones_like(a, dtype=torch.bool)


def combine_differences(parts: Sequence[Differences]) -> Differences:
    """The differences over several batches."""
    layers: dict[str, int] = {}
    predictions = [part.predictions for part in parts if part.predictions is not None]
    for part in parts:
        for name, count in part.layers.items():
            layers[name] = layers.get(name, 0) + count
    return Differences(
        sum(part.neurons for part in parts),
        layers,
        sum(part.logits for part in parts),
        sum(predictions) if len(predictions) == len(parts) else None,
        max(part.max_logit_difference for part in parts),
    )
