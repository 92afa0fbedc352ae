"""How two evaluations of a network differ: in how many levels and predictions, and by how much in logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from casc_core.evidence.ann_evaluation import LogitsAndLevels
from casc_core.reporting.predictions import Measure, by_sample, differing, with_batch

# Of a sample's largest logit: differences up to this are those of rounding; a level that moves is seen in far more.
LOGIT_ROUNDING = 2.0**-16


@dataclass(frozen=True)
class OutputDifferences:
    """How one output differs between two evaluations.

    Attributes:
        logits: samples with logits that float32's rounding does not account for.
        predictions: samples whose predicted class is another one; None: nothing is predicted.
        max_logit_difference: the largest difference of two logits.
    """

    logits: int
    predictions: int | None
    max_logit_difference: float


@dataclass(frozen=True)
class Differences:
    """How one evaluation of a network differs from another, which some change has made of it.

    Attributes:
        neurons: how many there are, over all samples.
        layers: by name, how many neurons have another level, errors of the layers before included.
        logits: samples with logits that float32's rounding does not account for.
        predictions: samples whose predicted class is another one; None: nothing is predicted.
        max_logit_difference: the largest difference of two logits.
        outputs: by name; above, of several outputs, a sample counts once.
    """

    neurons: int
    layers: dict[str, int]
    logits: int
    predictions: int | None
    max_logit_difference: float
    outputs: dict[str, OutputDifferences] = field(default_factory=dict)

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
        several = len(self.outputs) > 1
        by = {name: output.logits for name, output in self.outputs.items()} if several else {}
        said = f"{'outputs' if several else 'logits'} of {self.logits:,}{by_output(by)}"
        if self.predictions is not None:
            by = {name: output.predictions or 0 for name, output in self.outputs.items()} if several else {}
            said += f" and predictions of {self.predictions:,}{by_output(by)}"
        return f"{said} of {samples:,} samples, by up to {self.max_logit_difference:.3g}"


def by_output(counts: Mapping[str, int]) -> str:
    """Of which output how many, in brackets.

    >>> by_output({"boxes": 0, "classes": 3})
    " (3 of 'classes')"
    """
    some = [f"{count:,} of {name!r}" for name, count in counts.items() if count]
    return f" ({', '.join(some)})" if some else ""


def differences(
    before: LogitsAndLevels,
    after: LogitsAndLevels,
    samples: int,
    measures: Mapping[str, Measure | None] = MappingProxyType({}),
) -> Differences:
    """How an evaluation of a network on this many samples differs from the one before a change.

    Args:
        measures: by output: what is measured as numbers predicts nothing.
    """
    shared = {name: (levels, after.levels[name]) for name, levels in before.levels.items() if name in after.levels}
    layers = {name: int(_differ(*levels).sum()) for name, levels in shared.items()}
    neurons = sum(levels.numel() for levels, _ in shared.values())
    found = {
        name: _of_output(logits, after.logits[name], samples, measures.get(name))
        for name, logits in before.logits.items()
    }
    outputs = {name: each.counted() for name, each in found.items()}
    if len(found) == 1:
        (one,) = outputs.values()
        return Differences(neurons, layers, one.logits, one.predictions, one.max_logit_difference, outputs)
    moved, predicted = (
        [by_sample(flags, samples).any(1) for flags in each]
        for each in (
            [each.moved for each in found.values()],
            [each.predictions for each in found.values() if each.predictions is not None],
        )
    )
    return Differences(
        neurons,
        layers,
        int(torch.stack(moved).any(0).sum()),
        int(torch.stack(predicted).any(0).sum()) if predicted else None,
        max(each.largest for each in found.values()),
        outputs,
    )


@dataclass(frozen=True)
class _OfOutput:
    """Which rows of an output have moved, and of which another class is predicted; and by how much."""

    moved: Tensor
    predictions: Tensor | None
    largest: float

    def counted(self) -> OutputDifferences:
        predictions = None if self.predictions is None else int(self.predictions.sum())
        return OutputDifferences(int(self.moved.sum()), predictions, self.largest)


def _of_output(before: Tensor, after: Tensor, samples: int, measure: Measure | None) -> _OfOutput:
    own, other = (with_batch(each.double(), samples) for each in (before, after))
    predicts = measure in (None, "classes")
    if own.shape != other.shape:
        all_rows = torch.ones(len(own), dtype=torch.bool)
        return _OfOutput(all_rows, all_rows if predicts else None, math.inf)
    predictions = differing(own, other, measure) if predicts else None
    return _OfOutput(_moved(own, other), predictions, largest_difference(own, other))


def _moved(own: Tensor, other: Tensor) -> Tensor:
    """`[N]`: rows of which some logit differs by more than float32 may round it."""
    alike = absolute_difference(own, other) <= LOGIT_ROUNDING * largest_logits(own)
    return (~alike).reshape(len(own), -1).any(1)


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
    for part in parts:
        for name, count in part.layers.items():
            layers[name] = layers.get(name, 0) + count
    names = dict.fromkeys(name for part in parts for name in part.outputs)
    outputs = {name: [part.outputs[name] for part in parts if name in part.outputs] for name in names}
    return Differences(
        sum(part.neurons for part in parts),
        layers,
        sum(part.logits for part in parts),
        _summed(part.predictions for part in parts),
        max(part.max_logit_difference for part in parts),
        {name: _combined(of_parts) for name, of_parts in outputs.items()},
    )


def _combined(parts: Sequence[OutputDifferences]) -> OutputDifferences:
    return OutputDifferences(
        sum(part.logits for part in parts),
        _summed(part.predictions for part in parts),
        max(part.max_logit_difference for part in parts),
    )


def _summed(counts: Iterable[int | None]) -> int | None:
    """None where one is."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
