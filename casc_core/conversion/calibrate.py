"""Calibration: a network trained with plain activations gets levels and thresholds, and what that changes is measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.activation import CQReLU, Quantised
from casc_core.composed_activations import Swish
from casc_core.conversion.activation_values import Histogram, watched
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.affine_sources import AffineSources
from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.conversion.calibration_steps import STEPS, Calibrating
from casc_core.conversion.prepare import prepare, require_convertible, require_module
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.errors import ConfigError, ConversionError, InputError
from casc_core.reporting.predictions import differing, labels_of, reading
from casc_core.reporting.tables import text_table


@dataclass(frozen=True)
class CalibrationStep:
    """One step of a calibration, and how far off the network was after it.

    Attributes:
        name: of the step.
        logit_error: `|a - b| / |a|` of the logits over the calibration set, in the Euclidean norm.
        predictions_moved: of how many samples the predicted class differs.
        accuracy: on the calibration set, in percent; None: its batches hold no labels.
        taken: whether the step was kept. One that makes `logit_error` larger is undone.
    """

    name: str
    logit_error: float
    predictions_moved: int
    accuracy: float | None
    taken: bool = True


@dataclass(frozen=True)
class Calibration:
    """A network whose ReLUs have become CQReLUs without training, and what that cost.

    Attributes:
        model: the prepared network, in evaluation mode; convert it, or fine-tune it first.
        thresholds: by activation: one number, or `[channels]`.
        errors: by activation: `|a - b| / |a|`, sums of magnitudes over the calibration set, `a` what the network's own
            activation gives and `b` what the prepared network's gives, errors of the layers before included.
        samples: size of the calibration set.
        predictions_moved: of how many samples the predicted class differs.
        logit_error: `|a - b| / |a|` of the logits, in the Euclidean norm.
        steps: what was done, in order, the percentiles of the activations first.
        trained_accuracy: of the network as trained, on the calibration set, in percent; None: there are no labels.
    """

    model: nn.Module
    thresholds: dict[str, Tensor]
    errors: dict[str, float]
    samples: int
    predictions_moved: int
    logit_error: float
    steps: tuple[CalibrationStep, ...] = ()
    trained_accuracy: float | None = None

    def __str__(self) -> str:
        rows = [("activation", "threshold", "relative error")]
        for name, threshold in self.thresholds.items():
            low, high = float(threshold.min()), float(threshold.max())
            shown = f"{low:.4g}" if threshold.dim() == 0 else f"{low:.4g} to {high:.4g}"
            rows.append((name, shown, f"{100 * self.errors[name]:.2f}%"))
        lines = [text_table(rows), "", text_table(self._rows_of_steps()), ""]
        lines.append(
            "NOT LOSSLESS against the network as trained: predictions of "
            f"{self.predictions_moved} of {self.samples} samples differ, logits by {100 * self.logit_error:.2f}%"
        )
        return "\n".join(lines)

    def _rows_of_steps(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("step", "logit error", "gain", "predictions moved", "accuracy")]
        before: float | None = None
        for step in self.steps:
            name = step.name if step.taken else f"{step.name}: undone"
            gain = "" if before is None else f"{100 * (before - step.logit_error):.2f}"
            shown = "" if step.accuracy is None else f"{step.accuracy:.2f}%"
            error, moved = f"{100 * step.logit_error:.2f}%", f"{step.predictions_moved} of {self.samples}"
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
            which are for the report alone. All batches are kept in memory; a few hundred samples are enough.
        q: levels of every activation.
        adapter: as for `prepare`.
        percentile: in (0, 100].
        per_channel: a threshold for each channel (dimension 1) instead of each layer. None: wherever a layer has channels
            there, and if the network can be converted so.
        half_step: activations are rounded to the nearest level instead of down, which halves the error of each and keeps
            it from adding up over layers.
        steps: which of them are tried. The last three go through the network once or more for each of its layers: in a
            large one, leave out what takes too long.

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
    takes = len(arguments_of(prepared))
    given = [inputs_and_labels(batch, takes) for batch in checked_batches(batches, "calibrate on")]
    kept, labels = [inputs for inputs, _ in given], [labels for _, labels in given]
    plain = _as_trained(prepared, model)
    sources = AffineSources.of(prepared, adapter)
    channels = _channelled(plain, sources, kept[0]) if per_channel is None else None
    histograms = {
        name: Histogram(bool(per_channel) if channels is None else name in channels) for name in _names(prepared)
    }
    state = Calibrating(prepared, plain, kept, histograms, sources)
    state.set_percentiles(percentile)
    if channels:
        try:
            require_convertible(prepared, adapter)
        except ConversionError:  # its thresholds are one for each layer then
            state.histograms = {name: Histogram(per_channel=False) for name in histograms}
            state.set_percentiles(percentile)
    report = _Report(state, labels)
    done = [report.after("percentile")]
    for name, step in STEPS.items():
        if name in steps:
            undo = state.snapshot()
            step(state)
            done.append(report.after(name, limit=min(each.logit_error for each in done)))
            if not done[-1].taken:
                undo()
    last = [step for step in done if step.taken][-1]
    return Calibration(
        prepared,
        {name: state.threshold(name) for name in histograms},
        _errors(state),
        report.samples,
        last.predictions_moved,
        last.logit_error,
        tuple(done),
        report.accuracy(report.expected),
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
    result, own = copy.deepcopy(prepared), dict(model.named_modules())
    for name, module in list(result.named_modules()):
        if not isinstance(module, (Quantised, Swish)):
            continue
        trained = copy.deepcopy(own.get(name))
        smooth = module.as_trained() if trained is None or isinstance(trained, Quantised) else trained
        parent, _, child = name.rpartition(".")
        setattr(result.get_submodule(parent), child, smooth)
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

    def __init__(self, state: Calibrating, labels: list[Any]) -> None:
        self.state, self.expected = state, state.outputs(state.plain)
        self.labels = [_usable(each, logits) for each, logits in zip(labels, self.expected, strict=True)]
        self.samples = sum(map(len, self.expected))

    def after(self, name: str, limit: float = float("inf")) -> CalibrationStep:
        found = self.state.outputs(self.state.prepared)
        error = self.state.error(found, self.expected)
        moved = sum(int(differing(a, b).sum()) for a, b in zip(self.expected, found, strict=True))
        return CalibrationStep(name, error, moved, self.accuracy(found), taken=error <= limit)

    def accuracy(self, outputs: list[Tensor]) -> float | None:
        right = 0.0
        for logits, labels in zip(outputs, self.labels, strict=True):
            if labels is None:
                return None
            how = reading(logits.shape, labels)
            right += float(how.scores(how.classes(logits), labels).sum())
        return 100 * right / self.samples


def _usable(given: Any, logits: Tensor) -> Tensor | None:
    """What stands behind the inputs of a batch, if it is a class for each sample or place."""
    try:
        labels = labels_of(given)
        if labels is None or labels.is_floating_point():
            return None
        return reading(logits.shape, labels).checked(labels, logits.shape).to(logits.device)
    except InputError:
        return None


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
