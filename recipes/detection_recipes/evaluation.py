"""A detector in spikes over a test set: mean average precision and detections over time, by four methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann, reference_against_ann
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.series import first_equal_step, zero_padded
from casc_core.rivals.methods import FOUR, OURS, Method, applicable
from casc_core.simulation import Simulation
from casc_core.spiking_model import SpikingModel
from casc_lab.distributed import gather_each, share
from casc_lab.evaluation.accuracy import Batches
from detection_recipes.annotations import AnnotatedImage
from detection_recipes.detections import Detected, Selection, detections
from detection_recipes.metrics import Differing, Precision, differing, precision
from detection_recipes.network import MEASURES, Readouts
from detection_recipes.views import Size, letterbox

SILENT = "silent"
"""Key of what there is once nothing spikes any more; the others are time steps."""


@dataclass(frozen=True)
class TestImages:
    """Images to detect on, and how.

    Attributes:
        images: with their objects.
        batches: the same as the network sees them.
        classes: their names.
        size: width and height of what the network sees.
        stride: of the network.
        selection: which detections are kept.
    """

    __test__ = False  # pytest looks for tests by name

    images: Sequence[AnnotatedImage]
    batches: Batches
    classes: Sequence[str]
    size: Size
    stride: int
    selection: Selection

    def found(self, readouts: Readouts, index: Sequence[int]) -> list[Detected]:
        """Detections from the readouts for the images of these numbers, in their pixels."""
        batch = detections(readouts, self.stride, self.selection)
        return [on_image(each, self.images[number].size, self.size) for each, number in zip(batch, index, strict=True)]

    def precision(self, found: Sequence[Detected]) -> Precision:
        """What the detections on all images are worth."""
        return precision(found, self.images, len(self.classes))


def on_image(found: Detected, image: Size, seen: Size) -> Detected:
    """Detections on what the network sees as detections on the image, cut at its border."""
    boxes = letterbox(image, seen).back(found.boxes)
    limit = torch.tensor([*image, *image], dtype=torch.float32)
    return Detected(torch.minimum(boxes.clamp_min(0.0), limit), found.scores, found.labels)


@dataclass(frozen=True)
class MethodResult:
    """One method over a test set; by time step, and (key "silent") once silent: None if that never comes.

    Attributes:
        precision: mean average precision.
        differing: detections that differ from the reference's, of those that are shown.
        images_differing: images with such a detection.
        energy: nJ for an image up to then, on average.
        ann_energy: of the ANN, likewise.
        found: detections on each image.
        silent_at: `[images]` steps to silence.
        exact_at: `[images]` first step from which on every readout equals the reference's, bit for bit; 0 if none.
        seconds: of simulation.
    """

    precision: dict[str, Precision | None]
    differing: dict[str, Differing | None]
    images_differing: dict[str, int | None]
    energy: dict[str, float | None]
    ann_energy: float
    found: dict[str, list[Detected]]
    silent_at: Tensor
    exact_at: Tensor
    seconds: float


@dataclass
class _Method:
    """What one method has given so far, in this process."""

    snn: SpikingModel
    steps: Sequence[int]
    energy: list[Tensor] = field(default_factory=list)
    ann_energy: float = 0.0
    images: dict[int, tuple[dict[str, Detected], int, int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def sleeps(self) -> bool:
        return self.snn.settings.schedule.last_wake is not None

    def keys(self) -> list[str]:
        """Time steps, and whether there is silence."""
        return [*map(str, self.steps), *([SILENT] if self.sleeps else [])]

    def run(self, test: TestImages, inputs: tuple[Tensor, ...], index: list[int], reference: Readouts) -> None:
        """One batch."""
        started = time.perf_counter()
        simulation = self.snn.simulate(*inputs, T=None if self.sleeps else max(self.steps))
        self.seconds += time.perf_counter() - started
        self.energy.append(spent(simulation))
        self.ann_energy += spent_by_ann(simulation)
        last = simulation.T - 1
        # Once silent nothing changes, so one run until silence answers for every later step too.
        places = {key: last if key == SILENT else min(int(key) - 1, last) for key in self.keys()}
        found = {place: test.found(at_step(simulation, place + 1), index) for place in set(places.values())}
        exact = exact_from(simulation.outputs, reference)
        for position, number in enumerate(index):
            by_key = {key: found[place][position] for key, place in places.items()}
            self.images[number] = by_key, int(simulation.silent_at[position]), int(exact[position])

    def result(self, test: TestImages, reference: Sequence[Detected]) -> MethodResult:
        """All of it, over all processes."""
        gathered: dict[int, tuple[dict[str, Detected], int, int]] = {}
        for part in gather_each(self.images):
            gathered |= part
        images = [gathered[number] for number in range(len(test.images))]
        energies = [each for part in gather_each(self.energy) for each in part]
        length = max(len(each) for each in energies)
        energy = torch.stack([zero_padded(each, length) for each in energies]).sum(0).cumsum(0) / len(images)
        found = {key: [by_key[key] for by_key, _, _ in images] for key in self.keys()}
        differ = {key: [differing(*pair) for pair in zip(each, reference, strict=True)] for key, each in found.items()}
        never: dict[str, None] = {} if self.sleeps else {SILENT: None}
        return MethodResult(
            precision={key: test.precision(each) for key, each in found.items()} | never,
            differing={key: sum(each, Differing()) for key, each in differ.items()} | never,
            images_differing={key: sum(map(bool, each)) for key, each in differ.items()} | never,
            energy={key: _nanojoules(energy, key) for key in found} | never,
            ann_energy=round(sum(gather_each(self.ann_energy)) / len(images) / 1e3, 4),
            found=found,
            silent_at=torch.tensor([silent for _, silent, _ in images]),
            exact_at=torch.tensor([exact for _, _, exact in images]),
            seconds=sum(gather_each(self.seconds)),
        )


def _nanojoules(energy: Tensor, key: str) -> float:
    place = len(energy) - 1 if key == SILENT else min(int(key), len(energy)) - 1
    return round(float(energy[place]) / 1e3, 4)


def at_step(simulation: Simulation, step: int) -> Readouts:
    """The readouts `[B, ...]` of a detector after a step."""
    return Readouts(*(readout[step - 1] for readout in simulation.outputs))


def exact_from(readouts: Readouts, reference: Readouts) -> Tensor:
    """`[B]`: the first step from which on all readouts `[T, B, ...]` are the reference's; 0 if one of them never is.

    >>> steps = torch.tensor([0.0, 1.0, 1.0]).reshape(3, 1, 1)
    >>> later, never = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1), torch.zeros(3, 1, 1)
    >>> wanted = Readouts(*[torch.ones(1, 1)] * 3)
    >>> exact_from(Readouts(steps, later, steps), wanted), exact_from(Readouts(steps, never, steps), wanted)
    (tensor([3]), tensor([0]))
    """
    each = torch.stack([first_equal_step(*pair) for pair in zip(readouts, reference, strict=True)])
    return each.amax(0) * each.bool().all(0)


def spent(simulation: Simulation) -> Tensor:
    """`[T]`: pJ at each step, of the whole batch."""
    layers = list(simulation.spikes.values())
    accumulates = sum((layer.operations for layer in layers), simulation.readout_operations)
    multiplications = sum((layer.multiplications for layer in layers), simulation.readout_multiplications)
    return EnergyTable().picojoules(multiplications, accumulates)


def spent_by_ann(simulation: Simulation) -> float:
    """pJ of the ANN, of the whole batch."""
    layers = simulation.spikes.values()
    operations = sum(layer.ann_multiplications for layer in layers) + simulation.readout_ann_multiplications
    return EnergyTable().picojoules(operations, 0.0)


@dataclass
class Evaluation:
    """A converted detector over a test set: the ANN as trained, its reference, and each method over time.

    Attributes:
        ann, reference: their precision.
        ann_energy: nJ for an image.
        ann_differing: how the ANN's detections, in its own types, differ from the reference's.
        ann_found: the ANN's detections on each image.
        methods: by name.
        against_ann: the reference beside the network that was converted.
    """

    ann: Precision
    reference: Precision
    ann_energy: float
    ann_differing: Differing
    ann_found: list[Detected]
    methods: dict[str, MethodResult]
    against_ann: AgainstANN | None

    @property
    def exact(self) -> bool:
        """CIF with WakeSleep ends at the reference's readouts, and the reference is the network that was converted."""
        return self.exact_at is not None and (self.against_ann is None or self.against_ann.exact)

    @property
    def exact_at(self) -> int | None:
        """First step from which on CIF with WakeSleep gives the reference's readouts for every image, bit for bit."""
        first = self.methods[OURS].exact_at
        return int(first.max()) if bool((first > 0).all()) else None

    @property
    def silent_at(self) -> Tensor:
        """`[images]` steps to silence of CIF with WakeSleep."""
        return self.methods[OURS].silent_at


def evaluate(
    ann: nn.Module,
    snn: SpikingModel,
    test: TestImages,
    steps: Sequence[int],
    methods: Mapping[str, Method] | None = None,
    announce: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Run every method over the test set; the result is the same for any number of processes.

    Args:
        ann: the detector as trained.
        snn: its conversion.
        test: the images.
        steps: time steps at which to read out.
        methods: by name, `OURS` among them; None: those of Table 6 under which the network can be run.
        announce: called with what is about to run.

    Raises:
        ConfigError: no steps, or `OURS` is not among the methods. InputError: no objects on any image.
    """
    methods = applicable(snn, FOUR) if methods is None else methods
    if not steps or OURS not in methods:
        raise ConfigError(
            f"an evaluation needs steps and the method {OURS!r}; got {list(steps)} and {', '.join(methods)}"
        )
    runs = {name: _Method(snn.under(method.neuron, method.schedule), steps) for name, method in methods.items()}
    announce("ANN, reference, " + ", ".join(runs))
    found: dict[int, tuple[Detected, Detected]] = {}
    beside: list[AgainstANN] = []
    for batch in test.batches(share()):
        index = batch.index.tolist()
        with torch.no_grad():
            trained = ann.eval()(*batch.inputs)
        outputs, compared = reference_against_ann(snn, batch.inputs, measures=MEASURES)
        reference = Readouts(**outputs)
        beside += [] if compared is None else [compared]
        found |= zip(index, zip(test.found(trained, index), test.found(reference, index), strict=True), strict=True)
        for run in runs.values():
            run.run(test, batch.inputs, index, reference)
    everywhere: dict[int, tuple[Detected, Detected]] = {}
    for part in gather_each(found):
        everywhere |= part
    ann_found, expected = ([everywhere[number][which] for number in range(len(test.images))] for which in (0, 1))
    announce("mean average precision")
    all_beside = [each for part in gather_each(beside) for each in part]
    results = {name: run.result(test, expected) for name, run in runs.items()}
    return Evaluation(
        ann=test.precision(ann_found),
        reference=test.precision(expected),
        ann_energy=results[OURS].ann_energy,
        ann_differing=sum(map(differing, ann_found, expected), Differing()),
        ann_found=ann_found,
        methods=results,
        against_ann=combine_against_ann(all_beside) if all_beside else None,
    )
