"""Calibration: a network trained with plain activations gets levels and thresholds, and what that changes is measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.activation import CQReLU, Quantised
from casc_core.composed_activations import Swish
from casc_core.conversion.activation_values import Histogram, watched
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.affine_sources import AffineSources
from casc_core.conversion.batches import checked_batches, inputs_and_labels, labels_by_output
from casc_core.conversion.calibration_steps import STEPS, Calibrating, root_mean_square
from casc_core.conversion.prepare import prepare, read_prepared, require_module
from casc_core.conversion.remembering import remembering
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.engine.structure import Returned
from casc_core.errors import ConfigError, ConversionError, InputError
from casc_core.reporting.predictions import Measure, by_sample, differing, measures_of, reading
from casc_core.reporting.summaries import Summarised
from casc_core.reporting.tables import text_table


@dataclass(frozen=True)
class OutputError:
    """How far off one output of a network is.

    Attributes:
        logit_error: `|a - b| / |a|` of the logits over the calibration set, in the Euclidean norm.
        predictions_moved: of how many samples the predicted class differs; None: it is numbers, and predicts nothing.
        accuracy: on the calibration set, in percent; None: its batches hold no classes.
    """

    logit_error: float
    predictions_moved: int | None
    accuracy: float | None


@dataclass(frozen=True)
class CalibrationStep:
    """One step of a calibration, and how far off the network was after it.

    Attributes:
        name: of the step.
        logit_error: `|a - b| / |a|` of the logits over the calibration set, in the Euclidean norm; of several outputs, the
            root mean square of theirs.
        predictions_moved: of how many samples a predicted class differs; None: nothing is predicted.
        accuracy: on the calibration set, in percent; None: its batches hold no labels, or there are several outputs.
        taken: whether the step was kept. One that makes `logit_error` larger is undone.
        outputs: by name.
    """

    name: str
    logit_error: float
    predictions_moved: int | None
    accuracy: float | None
    taken: bool = True
    outputs: Mapping[str, OutputError] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Calibration(Summarised):
    """A network whose ReLUs have become CQReLUs without training, and what that cost.

    Attributes:
        model: the prepared network, in evaluation mode; convert it, or fine-tune it first.
        thresholds: by activation: one number, or `[channels]`.
        errors: by activation: `|a - b| / |a|`, sums of magnitudes over the calibration set, `a` what the network's own
            activation gives and `b` what the prepared network's gives, errors of the layers before included.
        samples: size of the calibration set.
        predictions_moved: of how many samples a predicted class differs; None: nothing is predicted.
        logit_error: `|a - b| / |a|` of the logits, in the Euclidean norm; of several outputs, the root mean square of
            theirs.
        steps: what was done, in order, the percentiles of the activations first.
        trained_accuracy: of the network as trained, on the calibration set, in percent; None: there are no labels, or
            several outputs.
    """

    model: nn.Module
    thresholds: dict[str, Tensor]
    errors: dict[str, float]
    samples: int
    predictions_moved: int | None
    logit_error: float
    steps: tuple[CalibrationStep, ...] = ()
    trained_accuracy: float | None = None

    @property
    def outputs(self) -> Mapping[str, OutputError]:
        """How far off each output is at the end, by name."""
        return [step.outputs for step in self.steps if step.taken][-1] if self.steps else {}

    def __str__(self) -> str:
        rows = [("activation", "threshold", "relative error")]
        for name, threshold in self.thresholds.items():
            low, high = float(threshold.min()), float(threshold.max())
            shown = f"{low:.4g}" if threshold.dim() == 0 else f"{low:.4g} to {high:.4g}"
            rows.append((name, shown, f"{100 * self.errors[name]:.2f}%"))
        lines = [text_table(rows), "", text_table(self._rows_of_steps()), ""]
        several = len(self.outputs) > 1
        if several:
            lines += [text_table(self._rows_of_outputs()), ""]
        predicted = f"predictions of {self.predictions_moved} of {self.samples} samples differ, "
        lines.append(
            f"NOT LOSSLESS against the network as trained: {'' if self.predictions_moved is None else predicted}"
            f"{'outputs' if several else 'logits'} by {100 * self.logit_error:.2f}%"
        )
        return "\n".join(lines)

    def _rows_of_outputs(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("output", "error", "predictions moved", "accuracy")]
        for name, output in self.outputs.items():
            accuracy = "" if output.accuracy is None else f"{output.accuracy:.2f}%"
            rows.append((name, f"{100 * output.logit_error:.2f}%", self._moved(output.predictions_moved), accuracy))
        return rows

    def _moved(self, predictions: int | None) -> str:
        return "" if predictions is None else f"{predictions} of {self.samples}"

    def _rows_of_steps(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("step", "logit error", "gain", "predictions moved", "accuracy")]
        before: float | None = None
        for step in self.steps:
            name = step.name if step.taken else f"{step.name}: undone"
            gain = "" if before is None else f"{100 * (before - step.logit_error):.2f}"
            shown = "" if step.accuracy is None else f"{step.accuracy:.2f}%"
            error, moved = f"{100 * step.logit_error:.2f}%", self._moved(step.predictions_moved)
            rows.append((name, error, gain, moved, shown))
            before = step.logit_error if step.taken else before
        if self.trained_accuracy is None:
            return [row[:-1] for row in rows]
        return [*rows, ("network as trained", "", "", "", f"{self.trained_accuracy:.2f}%")]


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    q: int,
    adapter: str | Adapter | None = None,
    percentile: float = 99.9,
    per_channel: bool | None = None,
    half_step: bool = True,
    steps: Sequence[str] = tuple(STEPS),
    measures: Measure | Mapping[str, Measure] | None = None,
) -> Calibration:
    """Prepare a network that was trained with plain ReLU, with thresholds and biases from what it does on some data.

    Sigmoids, tanhs and others that are rounded have ends of their own, so there is nothing to choose: they stay.

    Each threshold starts at a percentile of the positive activations of its layer or channel (Rueckauer et al. 2017,
    "Conversion of continuous-valued deep networks to efficient event-driven networks"), so a few outliers do not stretch
    all levels. Then the `steps` follow, in this order. Each is measured on the calibration set, and undone where it makes
    the error of the logits larger:

    - `"thresholds"`: each is the one whose rounding makes the least squared error of the activation;
    - `"batch norm"`: running statistics estimated anew, layer by layer, from what the layers before give now that they
      are rounded, so that the mean and variance behind each batch norm are again those of the network as trained;
    - `"biases"`: layer by layer, the mean that rounding has moved in each channel is put back (Nagel et al. 2019,
      "Data-Free Quantization Through Weight Equalization and Bias Correction"), where a layer has a bias;
    - `"scale"`: all thresholds of a layer are scaled by what makes the least error of the logits, on some of the samples.

    The spiking network of the result is exact against *its* quantised network; the quantised network only approximates the
    one that was trained, and the errors reported are that approximation's.

    Args:
        model: a network with ReLU activations, trained. It is left alone.
        batches: a list, or a `DataLoader`, of what the model takes: tensors, or tuples of its inputs and perhaps labels,
            which are for the report alone. All batches are kept in memory, and up to 1 GiB of what layers give for them; a
            few hundred samples are enough.
        q: levels of every activation.
        adapter: as for `prepare`.
        percentile: in (0, 100].
        per_channel: a threshold for each channel (dimension 1) instead of each layer. None: wherever a layer has channels
            there, and if the network can be converted so.
        half_step: activations are rounded to the nearest level instead of down, which halves the error of each and keeps
            it from adding up over layers.
        steps: which of them are tried. The last three go through the network once or more for each of its layers: in a
            large one, leave out what takes too long.
        measures: what the outputs are, "classes" or "numbers", or by output; None: labels decide. For the report alone:
            of numbers no predictions are counted.

    Raises:
        ConfigError: `q` or `percentile` out of range, no such step. ConversionError: as `prepare`. InputError: no batches.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    >>> images = [torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    >>> calibration = calibrate(model, images, q=64)
    >>> calibration.errors["1"] < 0.05
    True
    >>> calibration.thresholds["1"].shape
    torch.Size([4])
    >>> [step.name for step in calibration.steps]
    ['percentile', 'thresholds', 'batch norm', 'biases', 'scale']
    """
    require_module(model, "calibrate takes a")
    check_percentile(percentile)
    unknown = [step for step in steps if step not in STEPS] if not isinstance(steps, str) else [steps]
    if unknown:
        raise ConfigError(f"steps are some of {', '.join(map(repr, STEPS))}, in a list; got {unknown[0]!r}")
    prepared = prepare(model, adapter, q=q).eval()
    for name, module in prepared.named_modules():
        if isinstance(module, Quantised) and module.as_trained() is None:
            raise ConfigError(
                f"module {name!r}: a {type(module).__name__} with levels is another function than what was trained; train "
                "it prepared instead"
            )
        if isinstance(module, CQReLU):
            module.half_step = half_step
    takes, returned = len(arguments_of(prepared)), read_prepared(prepared, adapter).returned
    given = [
        inputs_and_labels(batch, takes, len(returned.readouts)) for batch in checked_batches(batches, "calibrate on")
    ]
    kept, labels = [inputs for inputs, _ in given], [labels for _, labels in given]
    plain = _as_trained(prepared, model)
    sources = AffineSources.of(prepared, adapter)
    channels = _channelled(plain, sources, kept[0]) if per_channel is None else None
    histograms = {
        name: Histogram(bool(per_channel) if channels is None else name in channels) for name in _names(prepared)
    }
    state = Calibrating(prepared, plain, kept, histograms, sources, returned)
    state.set_percentiles(percentile)
    if channels:
        try:
            read_prepared(prepared, adapter)
        except ConversionError:  # its thresholds are one for each layer then
            state.histograms = {name: Histogram(per_channel=False) for name in histograms}
            state.set_percentiles(percentile)
    with remembering(plain, kept), remembering(prepared, kept):
        report = _Report(state, labels, measures_of(measures, returned.readouts))
        done = [report.after("percentile")]
        for name, step in STEPS.items():
            if name in steps:
                undo = state.snapshot()
                step(state)
                done.append(report.after(name, limit=min(each.logit_error for each in done)))
                if not done[-1].taken:
                    undo()
        errors = _errors(state)
    last = [step for step in done if step.taken][-1]
    return Calibration(
        prepared,
        {name: state.threshold(name) for name in histograms},
        errors,
        report.samples,
        last.predictions_moved,
        last.logit_error,
        tuple(done),
        report.trained_accuracy,
    )


def percentiles(
    model: nn.Module, names: list[str], batches: list[tuple[Any, ...]], percentile: float
) -> dict[str, float]:
    """The percentile of the positive values that each of the named modules gives over some batches.

    Raises:
        ConfigError: `percentile` out of range. InputError: no batches, or what the network does not take.
    """
    check_percentile(percentile)
    histograms = {name: Histogram(per_channel=False) for name in names}

    def see(name: str, value: Any) -> None:
        histograms[name].add(value[0] if isinstance(value, tuple) else value)

    watched(model, names, batches, see)
    return {name: float(histogram.percentile(percentile)) for name, histogram in histograms.items()}


def check_percentile(percentile: float) -> None:
    """Raise `ConfigError` unless `percentile` is a number in (0, 100]."""
    number = isinstance(percentile, (int, float)) and not isinstance(percentile, bool)
    if not number or not 0.0 < percentile <= 100.0:
        raise ConfigError(f"percentile must lie in (0, 100]; got {percentile!r}")


def _names(prepared: nn.Module) -> list[str]:
    return [name for name, module in prepared.named_modules() if isinstance(module, CQReLU)]


def _as_trained(prepared: nn.Module, model: nn.Module) -> nn.Module:
    """A copy in which nothing is rounded: activations are the model's own modules, or what functions stand for."""
    result, own = copy.deepcopy(prepared), dict(model.named_modules(remove_duplicate=False))
    smooth: dict[nn.Module, nn.Module] = {}  # a module held under two names stays one
    for name, module in list(result.named_modules(remove_duplicate=False)):
        if not isinstance(module, (Quantised, Swish)):
            continue
        if module not in smooth:
            trained = copy.deepcopy(own.get(name))
            rounded = trained is None or isinstance(trained, Quantised)
            replacement: Any = module.as_trained() if rounded else trained
            smooth[module] = replacement
        parent, _, child = name.rpartition(".")
        setattr(result.get_submodule(parent), child, smooth[module])
    return result.eval()


def _channelled(plain: nn.Module, sources: AffineSources, batch: tuple[Any, ...]) -> set[str]:
    """The activations whose dimension 1 counts channels, the same number in every call."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in sources.activations}
    watched(plain, list(shapes), [batch], lambda name, value: shapes[name].append(value.shape))
    return {
        name
        for name, found in shapes.items()
        if found
        and len({shape[1:2] for shape in found}) == 1
        and all(len(shape) == 2 or (len(shape) > 2 and sources.has_channels(name)) for shape in found)
    }


class _Report:
    """How far the prepared network is off, as it stands."""

    def __init__(self, state: Calibrating, labels: list[Any], measures: Mapping[str, Measure | None]) -> None:
        self.state, self.expected = state, state.outputs(state.plain)
        given = [_by_output(each, state.returned, measures) for each in labels]
        self.measures = {
            name: _measure(measure, [each.get(name) for each in given]) for name, measure in measures.items()
        }
        self.labels = [
            {name: self._usable(own.get(name), logits, name) for name, logits in outputs.items()}
            for own, outputs in zip(given, self.expected, strict=True)
        ]
        single = state.returned.is_single
        self.sizes = [
            len(next(iter(outputs.values()))) if single else len(batch[0])
            for outputs, batch in zip(self.expected, state.batches, strict=True)
        ]
        self.samples = sum(self.sizes)

    def after(self, name: str, limit: float = float("inf")) -> CalibrationStep:
        found = self.state.outputs(self.state.prepared)
        errors = self.state.errors(found, self.expected)
        moved = self._moved(found)
        counts = {name: sum(int(each.sum()) for each in batches) for name, batches in moved.items()}
        outputs = {
            name: OutputError(error, counts.get(name), self._accuracy(found, name)) for name, error in errors.items()
        }
        error = root_mean_square(errors.values())
        together = [torch.stack(batch).any(0).sum() for batch in zip(*moved.values(), strict=True)]
        accuracy = next(iter(outputs.values())).accuracy if len(outputs) == 1 else None
        predictions = int(sum(together)) if moved else None
        return CalibrationStep(name, error, predictions, accuracy, error <= limit, outputs)

    @property
    def trained_accuracy(self) -> float | None:
        """Of the network as trained, where it has one output."""
        names = self.state.returned.readouts
        return self._accuracy(self.expected, names[0]) if len(names) == 1 else None

    def _moved(self, found: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
        """By output that predicts classes, of each batch the samples of which one moved."""
        return {
            name: [
                by_sample(differing(a[name], b[name]), size).any(1)
                for a, b, size in zip(self.expected, found, self.sizes, strict=True)
            ]
            for name, measure in self.measures.items()
            if measure in (None, "classes")
        }

    def _accuracy(self, outputs: list[dict[str, Tensor]], name: str) -> float | None:
        right, rows = 0.0, 0
        for logits, labels in zip(outputs, self.labels, strict=True):
            own, given = logits[name], labels[name]
            if given is None:
                return None
            how = reading(own.shape, given)
            right, rows = right + float(how.scores(how.classes(own), given).sum()), rows + len(own)
        return 100 * right / rows

    def _usable(self, given: Any, logits: Tensor, name: str) -> Tensor | None:
        """Labels that are a class for each sample or place."""
        if not isinstance(given, Tensor) or given.is_floating_point() or self.measures[name] not in (None, "classes"):
            return None
        try:
            labels: Tensor = reading(logits.shape, given).checked(given, logits.shape).to(logits.device)
        except InputError:
            return None
        return labels


def _by_output(given: Any, returned: Returned, measures: Mapping[str, Measure | None]) -> dict[str, Any]:
    """What stands behind the inputs of a batch, if it is labels."""
    try:
        return labels_by_output(given, returned, measures)
    except InputError:
        return {}


def _measure(given: Measure | None, labels: list[Any]) -> Measure | None:
    """What was given; else numbers, where labels are."""
    numbers = [isinstance(each, Tensor) and each.is_floating_point() for each in labels]
    return "numbers" if given is None and numbers and all(numbers) else given


def _errors(state: Calibrating) -> dict[str, float]:
    """By activation: the relative error of what it gives."""
    errors = {name: [0.0, 0.0] for name in state.histograms}
    for batch in state.batches:
        expected, found = (_activations(network, list(errors), batch) for network in (state.plain, state.prepared))
        for (name, own), (_, value) in zip(expected, found, strict=True):  # both call their activations in one order
            errors[name][0] += float((own - value).abs().sum(dtype=torch.float64))
            errors[name][1] += float(own.abs().sum(dtype=torch.float64))
    return {name: part / max(whole, 1e-30) for name, (part, whole) in errors.items()}


def _activations(model: nn.Module, names: list[str], batch: tuple[Any, ...]) -> list[tuple[str, Tensor]]:
    """What each of the named modules gave for a batch, call by call."""
    seen: list[tuple[str, Tensor]] = []
    watched(model, names, [batch], lambda name, value: seen.append((name, value)))
    return seen
