"""The methods of the paper's Table 6 on one converted network, over a whole test set: its score over time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann, reference_against_ann
from casc_core.evidence.differences import largest_difference
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.predictions import measures_of
from casc_core.reporting.series import first_equal_step, zero_padded
from casc_core.reporting.summaries import Summarised
from casc_core.rivals.methods import FOUR, OURS, Method, applicable
from casc_core.simulation import Simulation
from casc_core.spiking_model import SpikingModel
from casc_lab.distributed import gather_each, share
from casc_lab.evaluation.accuracy import Batch, Batches, dataset_order
from casc_lab.evaluation.metric import Metric, OutputMeasures, Outputs, Score

SILENT = "silent"
"""Key of what there is once nothing spikes any more; the others are time steps."""


@dataclass(frozen=True, repr=False)
class MethodResult(Summarised):
    """One method over a test set; by time step, and (key "silent") once silent: None if that never comes.

    Attributes:
        scores: by the metric.
        energy: nJ for a sample up to then, on average.
        scores_by_step: by step, from the first one until all samples are silent if they ever are: after every step, or
            after those of the table and the last, as the metric has it.
        silent_at: `[samples]` steps to silence.
        exact_at: `[samples]` first step from which on every output equals the reference's, bit for bit; 0 if none.
        ann_energy: nJ of the ANN for a sample.
        largest_difference: of an output at the end from the reference's.
        seconds: of simulation, those of all processes together.
    """

    scores: dict[str, Score | None]
    energy: dict[str, float | None]
    scores_by_step: dict[int, Score]
    silent_at: Tensor
    exact_at: Tensor
    ann_energy: float
    largest_difference: float
    seconds: float


@dataclass(frozen=True)
class _WithoutTime:
    """What the networks without time steps have given for a batch: the ANN and the reference, as the metric keeps it."""

    index: Tensor
    ann: Any
    reference: Any
    largest_difference: float
    beside: AgainstANN | None


@dataclass(frozen=True)
class _Part:
    """What one method has given for a batch.

    Attributes:
        T: steps simulated. compared: by step, as the metric keeps it.
        energy: `[T]` pJ at each step. ann_energy: of the ANN.
    """

    T: int
    compared: dict[int, Any]
    energy: Tensor
    ann_energy: float
    silent_at: Tensor
    exact_at: Tensor
    largest_difference: float
    seconds: float


@dataclass
class _Run:
    """One method, and what it has given so far in this process, with the number of each batch's first sample."""

    snn: SpikingModel
    metric: Metric[Any, Any]
    steps: Sequence[int]
    parts: list[tuple[int, _Part]] = field(default_factory=list)

    @property
    def sleeps(self) -> bool:
        return self.snn.settings.schedule.last_wake is not None

    def steps_within(self, T: int) -> list[int]:
        """After which of T steps there is a score."""
        return list(range(1, T + 1)) if self.metric.every_step else sorted({min(step, T) for step in (*self.steps, T)})

    def add(self, batch: Batch, reference: Outputs, expected: Any) -> None:
        """Simulate a batch, whose answers should be as expected."""
        started = time.perf_counter()
        simulation = self.snn.simulate(*batch.inputs, T=None if self.sleeps else max(self.steps))
        seconds = time.perf_counter() - started
        readouts = self.snn.readouts_of(simulation.outputs, batch.inputs, {})
        compared = {}
        for step in self.steps_within(simulation.T):
            answers = self.metric.read({name: each[step - 1] for name, each in readouts.items()}, batch)
            compared[step] = self.metric.compared(answers, expected, batch)
        part = _Part(
            simulation.T, compared, *energy_of(simulation), simulation.silent_at.cpu(), exact_from(readouts, reference),
            _largest({name: each[-1] for name, each in readouts.items()}, reference), seconds,
        )  # fmt: skip
        self.parts.append((int(batch.index[0]), part))

    def result(self, order: Tensor) -> MethodResult:
        """All of it, over all processes; `order` brings the samples of the batches into that of the data set."""
        parts = _in_order(self.parts)
        samples, T = len(order), max(part.T for part in parts)
        # Once silent nothing changes, so one run until silence answers for every later step too.
        by_step = {
            step: self.metric.score([part.compared[min(step, part.T)] for part in parts])
            for step in self.steps_within(T)
        }
        energy = torch.stack([zero_padded(part.energy, T) for part in parts]).sum(0).cumsum(0) / samples
        last = {str(step): min(step, T) for step in self.steps} | ({SILENT: T} if self.sleeps else {})
        never: dict[str, None] = {} if self.sleeps else {SILENT: None}
        return MethodResult(
            scores={key: by_step[step] for key, step in last.items()} | never,
            energy={key: _nanojoules(float(energy[step - 1])) for key, step in last.items()} | never,
            scores_by_step=by_step,
            silent_at=torch.cat([part.silent_at for part in parts])[order],
            exact_at=torch.cat([part.exact_at for part in parts])[order],
            ann_energy=_nanojoules(sum(part.ann_energy for part in parts) / samples),
            largest_difference=max(part.largest_difference for part in parts),
            seconds=sum(part.seconds for part in parts),
        )


def energy_of(simulation: Simulation) -> tuple[Tensor, float]:
    """`[T]` pJ at each step, and pJ of the ANN, of the whole batch."""
    layers, table = list(simulation.spikes.values()), EnergyTable()
    accumulates = sum((layer.operations for layer in layers), simulation.readout_operations)
    multiplications = sum((layer.multiplications for layer in layers), simulation.readout_multiplications)
    of_ann = sum(layer.ann_multiplications for layer in layers) + simulation.readout_ann_multiplications
    return table.picojoules(multiplications, accumulates), table.picojoules(of_ann, 0.0)


def _nanojoules(picojoules: float) -> float:
    return round(picojoules / 1e3, 4)


def exact_from(readouts: Outputs, reference: Outputs) -> Tensor:
    """`[B]`: the first step from which on all readouts `[T, B, ...]` are the reference's; 0 if one of them never is.

    >>> steps = torch.tensor([0.0, 1.0, 1.0]).reshape(3, 1, 1)
    >>> later, never = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1), torch.zeros(3, 1, 1)
    >>> wanted = {"a": torch.ones(1, 1), "b": torch.ones(1, 1)}
    >>> exact_from({"a": steps, "b": later}, wanted), exact_from({"a": steps, "b": never}, wanted)
    (tensor([3]), tensor([0]))
    """
    each = torch.stack([first_equal_step(found.cpu(), reference[name].cpu()) for name, found in readouts.items()])
    return each.amax(0) * each.bool().all(0)


def _largest(outputs: Outputs, reference: Outputs) -> float:
    return max(largest_difference(found.cpu(), reference[name].cpu()) for name, found in outputs.items())


def _in_order(parts: list[tuple[int, Any]]) -> list[Any]:
    """What all processes have of the batches, by the number of the first sample."""
    everywhere = [numbered for process in gather_each(parts) for numbered in process]
    return [part for _, part in sorted(everywhere, key=itemgetter(0))]


@dataclass
class Evaluation:
    """A converted network over a test set: the ANN as trained, its reference, and each method over time.

    Attributes:
        metric: what they are scored by.
        ann: the network as trained, in its own types, beside the reference.
        reference: what the network in spikes ends with.
        ann_largest_difference: of an output of the ANN from the reference's.
        methods: by name.
        against_ann: the reference beside the network that was converted; None if that is not at hand.
    """

    metric: Metric[Any, Any]
    ann: Score
    reference: Score
    ann_largest_difference: float
    methods: dict[str, MethodResult]
    against_ann: AgainstANN | None

    @property
    def ours(self) -> MethodResult:
        """CIF with WakeSleep."""
        return self.methods[OURS]

    @property
    def end(self) -> Score:
        """That of CIF with WakeSleep, once silent."""
        score = self.ours.scores[SILENT]
        assert score is not None  # it sleeps
        return score

    @property
    def exact(self) -> bool:
        """CIF with WakeSleep ends at the reference's outputs, and the reference is the network that was converted."""
        return self.exact_at is not None and (self.against_ann is None or self.against_ann.exact)

    @property
    def exact_at(self) -> int | None:
        """First step from which on CIF with WakeSleep gives the reference's outputs for every sample, bit for bit."""
        first = self.ours.exact_at
        return int(first.max()) if bool((first > 0).all()) else None

    @property
    def silent_at(self) -> Tensor:
        """`[samples]` steps to silence of CIF with WakeSleep."""
        return self.ours.silent_at


def evaluate(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Batches,
    steps: Sequence[int],
    metric: Metric[Any, Any] | None = None,
    methods: Mapping[str, Method] | None = None,
    announce: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run every method over the test set, batch by batch; the result is the same for any number of processes.

    Args:
        ann: the network as trained.
        snn: its conversion.
        batches: the test set. Each process runs its share, and all of them get the whole result.
        steps: time steps at which to read out.
        metric: what they are scored by; None: accuracy.
        methods: by name, on the weights as they are; `OURS` must be among them. None: those of Table 6 under which the
            network can be run.
        announce: called with what is about to run.

    Raises:
        ConfigError: no steps, or `OURS` is not among the methods. InputError: no samples, or labels that are not for such
            outputs.
    """
    methods = applicable(snn, FOUR) if methods is None else methods
    metric = OutputMeasures() if metric is None else metric
    if not steps or OURS not in methods:
        raise ConfigError(
            f"an evaluation needs steps and the method {OURS!r}; got {list(steps)} and {', '.join(methods)}"
        )
    runs = {name: _Run(snn.under(each.neuron, each.schedule), metric, steps) for name, each in methods.items()}
    announce(", ".join(["ANN", "reference", *runs]))
    found: list[tuple[int, _WithoutTime]] = []
    for batch in batches(share()):
        with torch.no_grad():
            trained = snn.readouts_of(ann.eval()(*batch.inputs), batch.inputs, {})
        measures = measures_of(metric.measures, list(trained))
        reference, beside = reference_against_ann(snn, batch.inputs, measures=measures)
        expected = metric.read(reference, batch)
        compared = metric.compared(metric.read(trained, batch), expected, batch)
        same = metric.compared(expected, expected, batch)
        without_time = _WithoutTime(batch.index, compared, same, _largest(trained, reference), beside)
        found.append((int(batch.index[0]), without_time))
        for run in runs.values():
            run.add(batch, reference, expected)
    everywhere = _in_order(found)
    order = dataset_order(torch.cat([each.index for each in everywhere]) if everywhere else torch.empty(0))
    announce(metric.key)
    all_beside = [each.beside for each in everywhere if each.beside is not None]
    return Evaluation(
        metric=metric,
        ann=metric.score([each.ann for each in everywhere]),
        reference=metric.score([each.reference for each in everywhere]),
        ann_largest_difference=max(each.largest_difference for each in everywhere),
        methods={name: run.result(order) for name, run in runs.items()},
        against_ann=combine_against_ann(all_beside) if all_beside else None,
    )
