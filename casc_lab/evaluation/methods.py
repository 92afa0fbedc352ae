"""The methods of the paper's Table 6 on one converted network, over a whole test set: accuracy over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann, reference_against_ann
from casc_core.evidence.differences import largest_difference
from casc_core.evidence.readout import ReadoutOverTime, readout_over_time
from casc_core.reporting.predictions import differing, reading
from casc_core.reporting.series import last_repeated
from casc_core.rivals.methods import FOUR, OURS, Method, applicable
from casc_core.spiking_model import SpikingModel
from casc_lab.distributed import gather, gather_each, share
from casc_lab.evaluation.accuracy import Batches, accuracy, dataset_order, logits_of


@dataclass(frozen=True)
class MethodResult:
    """One method over a test set.

    Attributes:
        accuracy: percent after T steps, and (key "silent") once nothing spikes any more; None if that never comes.
        mismatches: samples whose predicted class differs from the reference's, by the same keys.
        accuracy_by_step: `[T]` float64, percent after each step, until all are silent if they ever are.
        logits: `[samples, classes]` of the last readout.
        silent_at: `[samples]` steps to silence.
        exact_at: `[samples]` first step from which on the logits equal the reference's, bit for bit; 0 if none.
        seconds: wall time.
    """

    accuracy: dict[str, float | None]
    mismatches: dict[str, int | None]
    accuracy_by_step: Tensor
    logits: Tensor
    silent_at: Tensor
    exact_at: Tensor
    seconds: float


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
    readouts: list[ReadoutOverTime] = []
    silent, index = [], []
    for batch in batches(share()):
        simulation = snn.simulate(*batch.inputs, T=None if sleeps else max(steps))
        readouts.append(readout_over_time(simulation.logits, reference[batch.index], labels[batch.index]))
        silent.append(simulation.silent_at.cpu())
        index.append(batch.index)
    longest = int(gather([torch.tensor([max((len(each.mismatches) for each in readouts), default=0)])]).max())
    order = dataset_order(gather(index))
    right = _over_all([each.scores for each in readouts if each.scores is not None], longest)
    percent, differ = 100.0 * right / len(order), _over_all([each.mismatches for each in readouts], longest)
    # Once silent nothing changes, so one run until silence answers for every later step too.
    places = {str(step): min(step, longest) - 1 for step in steps} | ({"silent": longest - 1} if sleeps else {})
    never: dict[str, None] = {} if sleeps else {"silent": None}
    return MethodResult(
        accuracy={key: round(float(percent[place]), 4) for key, place in places.items()} | never,
        mismatches={key: int(differ[place]) for key, place in places.items()} | never,
        accuracy_by_step=percent,
        logits=gather([each.logits for each in readouts])[order],
        silent_at=gather(silent)[order],
        exact_at=gather([each.exact_at for each in readouts])[order],
        seconds=time.perf_counter() - started,
    )


def _over_all(series: Sequence[Tensor], steps: int) -> Tensor:
    """`[steps]`: the sum over the batches of all processes; a batch that is silent early keeps its answer."""
    return gather([last_repeated(each, steps)[None] for each in series]).sum(0)


@dataclass
class Evaluation:
    """A converted network over a test set: the ANN as trained, its reference, and each method over time.

    Attributes:
        ann_accuracy, reference_accuracy: percent.
        methods: by name.
        prediction_mismatches, max_logit_difference: CIF with WakeSleep, once silent, against the reference.
        ann_prediction_mismatches, ann_max_logit_difference: the reference against the ANN as trained, in its own types.
        silent_at: `[samples]` steps to silence of CIF with WakeSleep.
        against_ann: the reference beside the network that was converted; None if that is not at hand.
    """

    ann_accuracy: float
    reference_accuracy: float
    methods: dict[str, MethodResult]
    prediction_mismatches: int
    max_logit_difference: float
    ann_prediction_mismatches: int
    ann_max_logit_difference: float
    silent_at: Tensor
    against_ann: AgainstANN | None

    @property
    def exact(self) -> bool:
        """CIF with WakeSleep ends at the reference's logits, and the reference is the network that was converted."""
        return self.exact_at is not None and (self.against_ann is None or self.against_ann.exact)

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
    methods: Mapping[str, Method] | None = None,
    announce: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run every method over the test set; the result is the same for any number of processes.

    Args:
        ann: the network as trained.
        snn: its conversion.
        batches: the test set. Each process runs its share, and all of them get the whole result.
        steps: time steps at which to read out.
        methods: by name, on the weights as they are; `OURS` must be among them. None: those of Table 6 under which the
            network can be run.
        announce: called with the name of what is about to run.

    Raises:
        ConfigError: no steps, or `OURS` is not among the methods. InputError: no samples, or labels that are no classes.
    """
    methods = applicable(snn, FOUR) if methods is None else methods
    if not steps or OURS not in methods:
        raise ConfigError(
            f"an evaluation needs steps and the method {OURS!r}; got {list(steps)} and {', '.join(methods)}"
        )
    announce("ANN")
    trained, labels = logits_of(ann.eval(), batches)
    labels = reading(trained.shape, labels).checked(labels, trained.shape)
    announce("reference")
    reference, beside = _reference_of(snn, batches)
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
        max_logit_difference=largest_difference(exact.logits, reference),
        ann_prediction_mismatches=int(differing(trained, reference).sum()),
        ann_max_logit_difference=largest_difference(trained, reference),
        silent_at=exact.silent_at,
        against_ann=beside,
    )


def _reference_of(snn: SpikingModel, batches: Batches) -> tuple[Tensor, AgainstANN | None]:
    """The reference's logits over the test set, in its order, and how it compares with the network that was converted."""
    found: list[AgainstANN] = []

    def run(*inputs: Tensor) -> Tensor:
        outputs, beside = reference_against_ann(snn, inputs)
        (logits,) = outputs.values()
        if beside is not None:
            found.append(beside)
        return logits

    reference, _ = logits_of(run, batches)
    everywhere = [each for process in gather_each(found) for each in process]
    return reference, combine_against_ann(everywhere) if everywhere else None
