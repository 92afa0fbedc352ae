"""Calibration: a network trained with plain ReLU gets levels and thresholds, and the error that this makes is measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.activation import CQReLU, Quantised
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.batches import checked_batches, inputs_and_labels, output_of
from casc_core.conversion.prepare import prepare, require_module
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.errors import ConfigError, InputError
from casc_core.reporting.predictions import differing
from casc_core.reporting.tables import text_table

_BINS = 4096


@dataclass(frozen=True)
class Calibration:
    """A network whose ReLUs have become CQReLUs without training, and what that cost.

    Attributes:
        model: the prepared network, in evaluation mode; convert it.
        thresholds: by activation: one number, or `[channels]`.
        errors: by activation: `|a - b| / |a|` over the calibration set, `a` what the network's own activation gives and `b`
            what the prepared network's gives, errors of the layers before included.
        samples: size of the calibration set.
        predictions_moved: of how many samples the predicted class differs.
        logit_error: `|a - b| / |a|` of the logits.
    """

    model: nn.Module
    thresholds: dict[str, Tensor]
    errors: dict[str, float]
    samples: int
    predictions_moved: int
    logit_error: float

    def __str__(self) -> str:
        rows = [("activation", "threshold", "relative error")]
        for name, threshold in self.thresholds.items():
            low, high = float(threshold.min()), float(threshold.max())
            shown = f"{low:.4g}" if threshold.dim() == 0 else f"{low:.4g} to {high:.4g}"
            rows.append((name, shown, f"{100 * self.errors[name]:.2f}%"))
        lines = [text_table(rows)]
        lines.append(
            "NOT LOSSLESS against the network as trained: predictions of "
            f"{self.predictions_moved} of {self.samples} samples differ, logits by {100 * self.logit_error:.2f}%"
        )
        return "\n".join(lines)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    q: int,
    adapter: str | Adapter | None = None,
    percentile: float = 99.9,
    per_channel: bool = False,
    half_step: bool = True,
) -> Calibration:
    """Prepare a network that was trained with plain ReLU, with thresholds from what its activations are on some data.

    Each threshold is a percentile of the positive activations of its layer (Rueckauer et al. 2017, "Conversion of
    continuous-valued deep networks to efficient event-driven networks"), so a few outliers do not stretch all levels. The
    spiking network of the result is exact against *its* quantised network; the quantised network only approximates the one
    that was trained, and the errors reported are that approximation's.

    Args:
        model: a network with ReLU activations, trained.
        batches: a list, or a `DataLoader`, of what the model takes: tensors, or tuples of its inputs. What a tuple holds
            beyond them, such as labels, is left out. All batches are kept in memory.
        q: levels of every activation.
        adapter: as for `prepare`.
        percentile: in (0, 100].
        per_channel: a threshold for each channel (dimension 1) instead of each layer.
        half_step: activations are rounded to the nearest level instead of down, which halves the error of each and keeps
            it from adding up over layers.

    Raises:
        ConfigError: `q` or `percentile` out of range. ConversionError: as `prepare`. InputError: no batches.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    >>> images = [torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    >>> calibration = calibrate(model, images, q=64)
    >>> calibration.errors["1"] < 0.05
    True
    >>> calibration.model[1].threshold == float(calibration.thresholds["1"])
    True
    """
    require_module(model, "calibrate takes a")
    _check_percentile(percentile)
    prepared = prepare(model, adapter, q=q).eval()
    takes = len(arguments_of(prepared))
    kept = [inputs_and_labels(batch, takes)[0] for batch in checked_batches(batches, "calibrate on")]
    names = [name for name, module in prepared.named_modules() if isinstance(module, CQReLU)]
    for name, module in prepared.named_modules():
        if isinstance(module, Quantised) and name not in names:
            raise ConfigError(
                f"module {name!r}: {type(module).__name__} does not come from a ReLU; train it prepared instead"
            )
        if isinstance(module, CQReLU):
            module.half_step = half_step
    plain = _with_each(prepared, lambda module: nn.ReLU())
    histograms = {name: _Histogram(per_channel) for name in names}
    _watched(plain, names, kept, lambda name, value: histograms[name].add(value))
    thresholds = {name: histogram.percentile(percentile) for name, histogram in histograms.items()}
    for name, threshold in thresholds.items():
        module = prepared.get_submodule(name)
        assert isinstance(module, CQReLU)
        module.set_threshold(threshold if threshold.dim() else float(threshold))
        thresholds[name] = torch.as_tensor(module.effective_threshold)
    return _compared(prepared, plain, thresholds, kept)


def percentiles(
    model: nn.Module, names: list[str], batches: list[tuple[Any, ...]], percentile: float
) -> dict[str, float]:
    """The percentile of the positive values that each of the named modules gives over some batches.

    Raises:
        ConfigError: `percentile` out of range. InputError: no batches, or what the network does not take.
    """
    _check_percentile(percentile)
    histograms = {name: _Histogram(per_channel=False) for name in names}

    def see(name: str, value: Any) -> None:
        histograms[name].add(value[0] if isinstance(value, tuple) else value)

    _watched(model, names, batches, see)
    return {name: float(histogram.percentile(percentile)) for name, histogram in histograms.items()}


def _check_percentile(percentile: float) -> None:
    number = isinstance(percentile, (int, float)) and not isinstance(percentile, bool)
    if not number or not 0.0 < percentile <= 100.0:
        raise ConfigError(f"percentile must lie in (0, 100]; got {percentile!r}")


def _compared(
    prepared: nn.Module, plain: nn.Module, thresholds: dict[str, Tensor], batches: list[tuple[Any, ...]]
) -> Calibration:
    errors = {name: [0.0, 0.0] for name in thresholds}
    logits_error, moved, samples = [0.0, 0.0], 0, 0
    for batch in batches:
        logits, expected = _activations(plain, list(thresholds), batch)
        other, found = _activations(prepared, list(thresholds), batch)
        for (name, own), (_, value) in zip(expected, found, strict=True):  # both call their activations in one order
            errors[name][0] += float((own - value).abs().sum(dtype=torch.float64))
            errors[name][1] += float(own.abs().sum(dtype=torch.float64))
        logits_error[0] += float((logits - other).abs().sum(dtype=torch.float64))
        logits_error[1] += float(logits.abs().sum(dtype=torch.float64))
        moved += int(differing(logits, other).sum())
        samples += len(logits)
    relative = {name: part / max(whole, 1e-30) for name, (part, whole) in errors.items()}
    return Calibration(prepared, thresholds, relative, samples, moved, logits_error[0] / max(logits_error[1], 1e-30))


def _with_each(prepared: nn.Module, make: Callable[[CQReLU], nn.Module]) -> nn.Module:
    """A copy with another module in the place of each CQReLU."""
    result = copy.deepcopy(prepared)
    for name, module in list(result.named_modules()):
        if isinstance(module, CQReLU):
            parent, _, child = name.rpartition(".")
            setattr(result.get_submodule(parent), child, make(module))
    return result.eval()


def _activations(model: nn.Module, names: list[str], batch: tuple[Any, ...]) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """The output for a batch, and what each of the named modules gave, call by call."""
    seen: list[tuple[str, Tensor]] = []
    outputs = _watched(model, names, [batch], lambda name, value: seen.append((name, value)))
    return outputs[0], seen


@torch.no_grad()
def _watched(
    model: nn.Module, names: list[str], batches: list[tuple[Any, ...]], see: Callable[[str, Tensor], None]
) -> list[Tensor]:
    """The outputs for these batches, `see` being told what each of the named modules gives."""

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: see(name, output)

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        return [output_of(model, batch) for batch in batches]
    finally:
        for handle in handles:
            handle.remove()


class _Histogram:
    """How often which positive value occurs, its range growing as it must: `[rows, bins]` over `[0, reach]`."""

    def __init__(self, per_channel: bool) -> None:
        self.per_channel, self.reach = per_channel, 0.0
        self.counts = torch.zeros(0, _BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count `values` `[batch, channels, ...]`.

        Raises:
            InputError: there are none, or some are not finite. ConfigError: they have no channels, or other ones.
        """
        if not values.numel():
            raise InputError(f"an activation of shape {list(values.shape)} is empty: leave empty batches out")
        if self.per_channel and values.dim() < 2:
            raise ConfigError(f"an activation of shape {list(values.shape)} has no channels: use per_channel=False")
        rows = values.transpose(0, 1).flatten(1) if self.per_channel else values.reshape(1, -1)
        rows = rows.cpu().double()
        if not len(self.counts):
            self.counts = torch.zeros(len(rows), _BINS, dtype=torch.int64)
        if len(rows) != len(self.counts):
            raise ConfigError(
                f"an activation is called with {len(self.counts)} and with {len(rows)} channels: use per_channel=False, or "
                "a module for each place"
            )
        largest = float(rows.max())
        if not math.isfinite(largest):
            raise InputError("the network's activations are NaN or infinite: check inputs and weights")
        if self.reach == 0.0:
            self.reach = largest
        while largest > self.reach:  # two bins become one
            self.counts = torch.cat([self.counts.unflatten(1, (-1, 2)).sum(2), torch.zeros_like(self.counts)], 1)
            self.counts, self.reach = self.counts[:, :_BINS], 2 * self.reach
        if self.reach == 0.0:
            return
        index = (rows * (_BINS / self.reach)).long().clamp_(max=_BINS - 1)
        index += torch.arange(len(rows))[:, None] * _BINS
        self.counts += torch.bincount(index[rows > 0], minlength=self.counts.numel()).view_as(self.counts)

    def percentile(self, percent: float) -> Tensor:
        """The upper end of the bin that holds this percentile: `[rows]`, or one number. Where nothing was active: 1."""
        total = self.counts.sum(1)
        needed = torch.ceil(total * (percent / 100.0)).clamp_(min=1)
        bins = (self.counts.cumsum(1) < needed[:, None]).sum(1)
        ends = (bins + 1).double() * (self.reach / _BINS)
        ends = torch.where(total > 0, ends, 1.0).float()
        return ends if self.per_channel else ends[0]
