"""Accuracy over time: the methods of the paper's Table 6 on one converted network, over a whole test set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError, InputError
from casc_core.reporting.predictions import Reading, any_of_sample, differing, reading
from casc_core.rivals.methods import FOUR, OURS, Method
from casc_core.simulation import equal_from
from casc_core.spiking_model import SpikingModel
from casc_lab.distributed import Share, gather, share


@dataclass(frozen=True)
class Batch:
    """Some samples of a test set.

    Attributes:
        inputs: what the network takes.
        labels: `[B]` the class of each, int64, on the CPU.
        index: `[B]` its position in the data set, int64, on the CPU.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor


Batches = Callable[[Share], Iterable[Batch]]
"""A test set: called with a process's share, it gives that share of its batches (`Share.of`), anew at each call."""


def powers_of_two(limit: int) -> list[int]:
    """The time steps a table shows: 1, 2, 4, ... and `limit`.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    steps = [1 << power for power in range(limit.bit_length()) if 1 << power <= limit]
    return steps if steps[-1] == limit else [*steps, limit]


@dataclass
class MethodResult:
    """One method over a test set.

    Attributes:
        accuracy: percent after T steps, and (key "silent") once nothing spikes any more; None if that never comes.
        mismatches: samples whose predicted class differs from the reference's, by the same keys.
        logits: `[samples, classes]` of the last readout.
        predictions: `[samples, steps, ...]` predicted class after each step, until all are silent if they ever are.
        silent_at: `[samples]` steps to silence.
        exact_at: `[samples]` first step from which on the logits equal the reference's, bit for bit; 0 if none.
        seconds: wall time.
    """

    accuracy: dict[str, float | None] = field(default_factory=dict)
    mismatches: dict[str, int | None] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    predictions: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    silent_at: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    exact_at: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    seconds: float = 0.0


def logits_of(network: Callable[..., Tensor], batches: Batches) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and labels `[samples]` of a network over a test set, in the order of the data set.

    Raises:
        InputError: there are no samples, or the shares of the processes are not each sample once.
    """
    logits, labels, index = [], [], []
    with torch.no_grad():
        for batch in batches(share()):
            logits.append(network(*batch.inputs).detach().cpu())
            labels.append(batch.labels)
            index.append(batch.index)
    order = _order(gather(index))
    return gather(logits)[order], gather(labels)[order]


def _order(index: Tensor) -> Tensor:
    """What brings samples at positions `index` of the data set into its order."""
    if index.numel() == 0:
        raise InputError("there is nothing to evaluate: the test set is empty")
    order = torch.argsort(index)
    if not torch.equal(index[order], torch.arange(len(index))):
        raise InputError(f"the batches must hold each of the samples once; got {len(index)} with others or doubles")
    return order


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of samples (or of their places) whose predicted class is the label.

    Raises:
        InputError: labels that are no classes of the network, or of another shape than its outputs ask for.

    >>> accuracy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    50.0
    """
    how = reading(logits.shape, labels)
    if how.numbers:
        raise InputError("an evaluation counts classes, and these labels are numbers; use casc_core.analyse")
    return 100.0 * float(how.score(how.classes(logits), how.checked(labels, logits.shape)))


def evaluate_method(
    snn: SpikingModel, batches: Batches, steps: Sequence[int], reference: Tensor, labels: Tensor
) -> MethodResult:
    """Accuracy of `snn` after each of `steps`, and once silent, with one simulation of each batch.

    Args:
        reference: `[samples, classes]` the reference's logits.
        labels: `[samples]`, or in the shape of the classes.
    """
    started = time.perf_counter()
    sleeps = snn.settings.schedule.last_wake is not None
    how = reading(reference.shape, labels)
    result = _simulated(snn, batches, None if sleeps else max(steps), reference, how)
    last = result.predictions.shape[1] - 1
    # Once silent nothing changes, so one run until silence answers for every later step too.
    answers = {str(step): result.predictions[:, min(step - 1, last)] for step in steps}
    expected = how.classes(reference)
    if sleeps:
        answers["silent"] = result.predictions[:, last]
    for key, answer in answers.items():
        result.accuracy[key] = round(100.0 * float(how.score(answer, labels)), 4)
        result.mismatches[key] = int(any_of_sample(answer != expected).sum())
    if not sleeps:
        result.accuracy["silent"] = result.mismatches["silent"] = None
    result.seconds = time.perf_counter() - started
    return result


def _simulated(snn: SpikingModel, batches: Batches, T: int | None, reference: Tensor, how: Reading) -> MethodResult:
    """The runs of all samples, in the order of the data set."""
    logits, silent, exact, runs, index = [], [], [], [], []
    for batch in batches(share()):
        simulation = snn.simulate(*batch.inputs, T=T)
        readouts = simulation.logits.cpu()
        logits.append(readouts[-1])
        silent.append(simulation.silent_at.cpu())
        exact.append(equal_from(readouts, reference[batch.index]))
        runs.append(how.classes_by_step(readouts).transpose(0, 1))
        index.append(batch.index)
    longest = int(gather([torch.tensor([max((run.shape[1] for run in runs), default=0)])]).max())
    # A batch that is silent early keeps its answer.
    runs = [torch.cat([run, run[:, -1:].repeat_interleave(longest - run.shape[1], 1)], dim=1) for run in runs]
    order = _order(gather(index))
    return MethodResult(
        logits=gather(logits)[order],
        predictions=gather(runs)[order],
        silent_at=gather(silent)[order],
        exact_at=gather(exact)[order],
    )


@dataclass
class Evaluation:
    """A converted network over a test set: the ANN as trained, its reference, and each method over time.

    Attributes:
        ann_accuracy, reference_accuracy: percent.
        methods: by name.
        prediction_mismatches, max_logit_difference: CIF with WakeSleep, once silent, against the reference.
        ann_prediction_mismatches, ann_max_logit_difference: the reference against the ANN as trained, in its own types:
            what the grid, and summing without rounding, moved.
        silent_at: `[samples]` steps to silence of CIF with WakeSleep.
        labels: `[samples]`.
    """

    ann_accuracy: float
    reference_accuracy: float
    methods: dict[str, MethodResult]
    prediction_mismatches: int
    max_logit_difference: float
    ann_prediction_mismatches: int
    ann_max_logit_difference: float
    silent_at: Tensor
    labels: Tensor

    @property
    def exact_at(self) -> int | None:
        """First step from which on CIF with WakeSleep gives the reference's logits for every sample, bit for bit."""
        first = self.methods[OURS].exact_at
        return int(first.max()) if bool((first > 0).all()) else None


def evaluate(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Batches,
    steps: Sequence[int],
    methods: Mapping[str, Method] = FOUR,
    announce: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run every method over the test set; the result is the same for any number of processes.

    Args:
        ann: the network as trained.
        snn: its conversion.
        batches: the test set. Each process runs its share, and all of them get the whole result.
        steps: time steps at which to read out.
        methods: by name, on the weights as they are; `OURS` must be among them.
        announce: told what is about to run.

    Raises:
        ConfigError: no steps, or `OURS` is not among the methods. InputError: no samples, or labels that are no classes.
    """
    if not steps or OURS not in methods:
        raise ConfigError(
            f"an evaluation needs steps and the method {OURS!r}; got {list(steps)} and {', '.join(methods)}"
        )
    announce("ANN")
    trained, labels = logits_of(ann.eval(), batches)
    labels = reading(trained.shape, labels).checked(labels, trained.shape)
    announce("reference")
    reference, _ = logits_of(snn.reference, batches)
    results = {}
    for name, method in methods.items():
        announce(name)
        results[name] = evaluate_method(snn.under(method.neuron, method.schedule), batches, steps, reference, labels)
    exact = results[OURS]
    return Evaluation(
        ann_accuracy=round(accuracy(trained, labels), 4),
        reference_accuracy=round(accuracy(reference, labels), 4),
        methods=results,
        prediction_mismatches=int(differing(exact.logits, reference).sum()),
        max_logit_difference=float((exact.logits - reference).abs().max()),
        ann_prediction_mismatches=int(differing(trained, reference).sum()),
        ann_max_logit_difference=float((trained - reference).abs().max()),
        silent_at=exact.silent_at,
        labels=labels,
    )
