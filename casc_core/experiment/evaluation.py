"""Accuracy over time: the methods of the paper's Table 6 on one converted network, over a whole test set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from casc_core.neuron import CIF, IF, Neuron
from casc_core.schedule import Continuous, Schedule, WakeSleep
from casc_core.spiking_model import SpikingModel

Batches = Callable[[], Iterable[tuple[tuple[Tensor, ...], Tensor]]]

METHODS: Mapping[str, tuple[Neuron, Schedule]] = {
    "baseline": (IF(), Continuous()),
    "baseline+WSC": (IF(), WakeSleep()),
    "baseline+CIF": (CIF(), Continuous()),
    "baseline+CIF+WSC": (CIF(), WakeSleep()),
}
EXACT_METHOD = "baseline+CIF+WSC"


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
        silent_at: `[samples]` steps to silence.
        seconds: wall time.
    """

    accuracy: dict[str, float | None] = field(default_factory=dict)
    mismatches: dict[str, int | None] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    silent_at: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    seconds: float = 0.0


def logits_of(network: Callable[..., Tensor], batches: Batches) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and labels `[samples]` of a network over all batches, in their order."""
    logits, labels = [], []
    with torch.no_grad():
        for inputs, label in batches():
            logits.append(network(*inputs).detach().cpu())
            labels.append(label.cpu())
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of samples whose largest logit is at the label.

    >>> accuracy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    50.0
    """
    return 100.0 * float((logits.argmax(-1) == labels).double().mean())


def evaluate_method(
    snn: SpikingModel, batches: Batches, steps: Sequence[int], reference: Tensor, labels: Tensor
) -> MethodResult:
    """Accuracy of `snn` after each of `steps`, and once silent, with one simulation of each batch."""
    started = time.perf_counter()
    sleeps = snn.settings.schedule.last_wake is not None
    readouts: list[Tensor] = []
    silent, final = [], []
    for inputs, _ in batches():
        # Once silent nothing changes, so one run until silence answers for every later step too.
        simulation = snn.simulate(*inputs, T=None if sleeps else max(steps))
        last = simulation.T - 1
        logits = simulation.logits.cpu()
        readouts.append(torch.stack([logits[min(step - 1, last)].argmax(-1) for step in steps]))
        final.append(logits[last])
        silent.append(simulation.silent_at)
    predictions = torch.cat(readouts, dim=1)
    result = MethodResult(logits=torch.cat(final), silent_at=torch.cat(silent))
    answers: dict[str, Tensor | None] = dict(zip(map(str, steps), predictions, strict=True))
    answers["silent"] = result.logits.argmax(-1) if sleeps else None
    expected = reference.argmax(-1)
    for key, answer in answers.items():
        result.accuracy[key] = None if answer is None else round(100.0 * float((answer == labels).double().mean()), 4)
        result.mismatches[key] = None if answer is None else int((answer != expected).sum())
    result.seconds = time.perf_counter() - started
    return result


@dataclass
class Evaluation:
    """A converted network over a test set: the ANN as trained, its reference, and each method over time.

    Attributes:
        ann_accuracy, reference_accuracy: percent.
        methods: by name.
        prediction_mismatches, max_logit_difference: CIF with WakeSleep, once silent, against the reference.
        ann_prediction_mismatches, ann_max_logit_difference: the reference against the ANN as trained; what snapping
            moved.
        silent_at: `[samples]` steps to silence of CIF with WakeSleep.
    """

    ann_accuracy: float
    reference_accuracy: float
    methods: dict[str, MethodResult]
    prediction_mismatches: int
    max_logit_difference: float
    ann_prediction_mismatches: int
    ann_max_logit_difference: float
    silent_at: Tensor


def evaluate(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Batches,
    steps: Sequence[int],
    methods: Mapping[str, tuple[Neuron, Schedule]] = METHODS,
    announce: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run every method over the test set.

    Args:
        ann: the network as trained.
        snn: its conversion.
        batches: gives the test set, anew at each call: `((inputs, ...), labels)`.
        steps: time steps at which to read out.
        methods: name -> (neuron, schedule); it must hold "baseline+CIF+WSC".
        announce: told what is about to run.
    """
    announce("ANN")
    trained, labels = logits_of(ann.eval(), batches)
    announce("reference")
    reference, _ = logits_of(snn.reference, batches)
    results = {}
    for name, (neuron, schedule) in methods.items():
        announce(name)
        results[name] = evaluate_method(snn.under(neuron, schedule), batches, steps, reference, labels)
    exact = results[EXACT_METHOD]
    return Evaluation(
        ann_accuracy=round(accuracy(trained, labels), 4),
        reference_accuracy=round(accuracy(reference, labels), 4),
        methods=results,
        prediction_mismatches=int((exact.logits.argmax(-1) != reference.argmax(-1)).sum()),
        max_logit_difference=float((exact.logits - reference).abs().max()),
        ann_prediction_mismatches=int((trained.argmax(-1) != reference.argmax(-1)).sum()),
        ann_max_logit_difference=float((trained - reference).abs().max()),
        silent_at=exact.silent_at,
    )
