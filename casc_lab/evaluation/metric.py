"""What a network is scored by on a test set, and what counts as another answer: one metric for all networks compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from casc_core.errors import ConfigError
from casc_core.reporting.predictions import Measure, Reading, any_of_sample, error_name, measures_of, reading
from casc_lab.evaluation.accuracy import Batch

Outputs = Mapping[str, Tensor]
"""A network's outputs for a batch `[B, ...]`, by name; the only output of a network is called "logits"."""
AnswersT = TypeVar("AnswersT")
ComparedT = TypeVar("ComparedT")


@dataclass(frozen=True)
class Score:
    """What a network's answers to a whole test set are worth, and how they differ from the reference's.

    Attributes:
        figures: one for each of the metric's `names`; pictures and sweeps show the first.
        mismatches: samples whose answer is not the reference's.
        differing: what differs, counted by kind.
        value: what `results.json` holds: a number, or a table of them.
        answers: of each sample, where the metric keeps them; else None.
    """

    figures: tuple[float, ...]
    mismatches: int
    differing: Mapping[str, int]
    value: Any
    answers: Any = None

    @property
    def differences(self) -> int:
        """All that differs, whatever its kind."""
        return sum(self.differing.values())


class Metric(Protocol[AnswersT, ComparedT]):
    """What a network is scored by."""

    @property
    def key(self) -> str:
        """Of its figures in `results.json`, and the name of its picture."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """What tables call its figures, with their unit."""
        ...

    @property
    def differing(self) -> str:
        """What tables call that which differs."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the tables must know."""
        ...

    @property
    def every_step(self) -> bool:
        """Whether it is so cheap that it is taken after every step, and not after those of the table alone."""
        ...

    @property
    def measures(self) -> Measure | Mapping[str, Measure] | None:
        """What the outputs are, as `casc_core.analyse` takes it."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the labels of a batch are what the outputs should be."""
        ...

    def read(self, outputs: Outputs, batch: Batch) -> AnswersT:
        """The answers to a batch.

        Raises:
            InputError: labels that are not for such outputs.
        """
        ...

    def compared(self, answers: AnswersT, reference: AnswersT, batch: Batch) -> ComparedT:
        """What is kept of the answers to a batch, beside the reference's to it."""
        ...

    def score(self, parts: Sequence[ComparedT]) -> Score:
        """Of the whole test set, from what is kept of its batches, in order."""
        ...

    def said(self, score: Score, samples: int) -> str:
        """How the answers to so many samples differ from the reference's, in words."""
        ...


@dataclass(frozen=True)
class _Answers:
    """One output's classes (or numbers) `[B, ...]`, and how well they meet the labels `[B]`."""

    classes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class _Compared:
    """A batch: how many samples, those whose answer differs, and by output the sum of the scores."""

    samples: int
    mismatches: int
    scores: tuple[float, ...]


class OutputMeasures:
    """Accuracy of outputs that are classes, the error of outputs that are numbers.

    Args:
        measures: what the only output is: "classes", "numbers" (mean squared error), or a function of outputs `[N, ...]`
            and labels that gives each sample's error `[N]`; or that of each output which is measured, by name. The labels
            of a batch are then a dict by name, too.

    Raises:
        ConfigError: no such measure, or none.

    >>> metric = OutputMeasures()
    >>> batch = Batch((), torch.tensor([0, 0]), torch.tensor([0, 1]))
    >>> reference = metric.read({"logits": torch.tensor([[1.0, 0.0], [2.0, 1.0]])}, batch)
    >>> answers = metric.read({"logits": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}, batch)
    >>> score = metric.score([metric.compared(answers, reference, batch)])
    >>> score.value, metric.said(score, 2)
    (50.0, 'predictions of 1 of 2 samples differ')
    """

    every_step, labelled = True, True
    notes: Sequence[str] = ()

    def __init__(self, measures: Measure | Mapping[str, Measure] = "classes") -> None:
        self.measures = measures
        self._single = not isinstance(measures, Mapping)
        by_output = measures if isinstance(measures, Mapping) else {"logits": measures}
        checked = measures_of(by_output, list(by_output))
        if not checked or None in checked.values():
            raise ConfigError("give a measure for at least one output, and for each that is named")
        self._by_output: dict[str, Measure] = {name: each for name, each in checked.items() if each is not None}
        classes = all(each == "classes" for each in self._by_output.values())
        self.key = ("accuracy" if classes else "error") if self._single else "scores"
        self.names = [self._name(name, each) for name, each in self._by_output.items()]
        self._predicts = any(each == "classes" for each in self._by_output.values())
        self.differing = f"{'predictions' if self._predicts else 'outputs'} that differ"

    def _name(self, output: str, measure: Measure) -> str:
        of = "" if self._single else f" of {output!r}"
        return f"accuracy{of} (%)" if measure == "classes" else error_name(measure) + of

    def read(self, outputs: Outputs, batch: Batch) -> dict[str, _Answers]:
        """The answers to a batch, by output."""
        answers = {}
        for name, measure in self._by_output.items():
            if name not in outputs:
                raise ConfigError(f"no output is called {name!r}; there are: {', '.join(map(repr, outputs))}")
            logits = outputs[name].detach().cpu()
            labels = batch.labels if self._single else batch.labels[name]
            how = reading(logits.shape, labels, measure)
            classes = how.classes(logits)
            answers[name] = _Answers(classes, how.scored(classes, labels, logits.shape))
        return answers

    def compared(self, answers: dict[str, _Answers], reference: dict[str, _Answers], batch: Batch) -> _Compared:
        """How many differ, and the sums of the scores."""
        differing = [
            any_of_sample(each.classes != reference[name].classes)
            for name, each in answers.items()
            if self._by_output[name] == "classes" or not self._predicts
        ]
        scores = tuple(float(each.scores.sum()) for each in answers.values())
        return _Compared(len(batch.index), int(torch.stack(differing).any(0).sum()), scores)

    def score(self, parts: Sequence[_Compared]) -> Score:
        """Percent of the classes that are right, mean errors, samples that differ."""
        samples, mismatches = sum(part.samples for part in parts), sum(part.mismatches for part in parts)
        sums = [sum(of_output) for of_output in zip(*(part.scores for part in parts), strict=True)]
        figures = tuple(
            Reading(None, numbers=measure != "classes").figure(total, samples)
            for total, measure in zip(sums, self._by_output.values(), strict=True)
        )
        value = figures[0] if self._single else dict(zip(self._by_output, figures, strict=True))
        return Score(figures, mismatches, {self.differing.split()[0]: mismatches}, value)

    def said(self, score: Score, samples: int) -> str:
        """As 'predictions of 1 of 2 samples differ'."""
        return f"{self.differing.split()[0]} of {score.mismatches:,} of {samples:,} samples differ"
