"""Biases and initial potentials calibrated to the rates of a quantised network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.engine.ops import (
    Add,
    AffineMap,
    DividedByInput,
    Fire,
    Multiply,
    Op,
    Scale,
    Shift,
    TimesInput,
    by_channel,
)
from casc_core.engine.program import refs
from casc_core.engine.signal import Signal
from casc_core.engine.spiking_run import SpikingRun
from casc_core.errors import ConfigError
from casc_core.rivals.method import Method, converted
from casc_core.spiking_model import SpikingModel

# What leaves the dimensions of what it reads as they are.
_ENTRY_BY_ENTRY = (Add, DividedByInput, Fire, Multiply, Scale, Shift, TimesInput)


@dataclass(frozen=True)
class Calibrated(Method):
    """Biases and initial potentials calibrated layer by layer (Li et al. 2022, "Converting Artificial Neural Networks to
    Spiking Neural Networks via Parameter Calibration"), weights being left as they are.

    With `e = mean(l / q - N / T)` over samples, and over the positions of a channel, the bias of the channel grows by
    `theta * e`; then, with what is left of `e`, the initial potential of each neuron by `theta * T * e`; that only where
    samples share a neuron, which the positions of sequences do not: texts have other lengths in each batch. A layer is
    calibrated behind calibrated ones.

    Args:
        steps: T, for which it is calibrated.
    """

    steps: int = 32

    reads_data = True

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"Calibrated: steps must be an integer of at least 1; got {self.steps!r}")

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        """As `Method.network`; all of the first batch is used at once.

        Raises:
            InputError: there is no batch.

        >>> import casc_core
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=4), nn.Linear(8, 2))
        >>> neuron, schedule = casc_core.IF(), casc_core.Continuous()
        >>> snn, x = casc_core.convert(model), torch.rand(64, 4)
        >>> before, after = (method.network(snn, [x]).simulate(x, T=3) for method in (
        ...     Method(neuron=neuron, schedule=schedule), Calibrated(neuron=neuron, schedule=schedule, steps=3)))
        >>> error = lambda simulation: float((simulation.logits[-1] - snn.reference(x)).mean(0).abs().sum())
        >>> error(after) < error(before)
        True
        """
        calibrated = converted(snn).under(self.neuron, self.schedule).with_layers(copy.deepcopy)
        inputs, _ = inputs_and_labels(next(checked_batches(batches, "calibrate on")), len(snn.settings.arguments))
        _, levels = snn.reference_counts(inputs, {})
        rates = {name: level.double() / snn.settings.levels for name, level in levels.items()}
        settings = calibrated.settings
        run = SpikingRun(settings.numerics, settings.neuron, settings.schedule, self.steps)
        channels = _channels(calibrated)
        of_texts = any(isinstance(value, Tensor) and not value.is_floating_point() for value in inputs)
        calibrated.with_layers(lambda population: _Calibrating(population, rates, channels, of_texts)).evaluate(
            run, inputs
        )
        return calibrated


def _channels(snn: SpikingModel) -> dict[str, int]:
    """By layer, the dimension of its channels: that of the map before it; of others nothing is said."""
    operations, channels = snn.operations(), {}
    for program in snn.programs.values():
        of: dict[str, int] = {}  # by value
        for step in program.steps:
            op = operations[step.op]
            read = (of[name] for name in refs((step.args, dict(step.kwargs))) if name in of)
            found = op.input_dim if isinstance(op, AffineMap) else next(read, None)
            if found is None or not isinstance(op, (AffineMap, *_ENTRY_BY_ENTRY)):
                continue
            of[step.result] = found
            if op.is_layer:
                channels[op.settings["name"]] = found
    return channels


class _Calibrating(Op, abstract=True):
    """A population that is calibrated, to these rates of its layer's neurons, before those behind it see its spikes."""

    is_layer = True

    def __init__(
        self, population: Op, rates: Mapping[str, Tensor], channels: Mapping[str, int], of_texts: bool
    ) -> None:
        super().__init__()
        self.population, self.rates, self.channels, self.of_texts = population, rates, channels, of_texts

    def forward(self, run: SpikingRun, *args: Any, **kwargs: Any) -> Signal:
        error, neurons = self._error(run, args, kwargs)
        channel = self._channel(error.dim())
        others = [dim for dim in range(error.dim()) if dim != channel]
        mean = error.sum(others) / (neurons / error.shape[channel])
        # As it broadcasts against the population.
        self._add(run, "bias", mean.reshape(-1, *[1] * (error.dim() - 1 - channel)), error.shape)
        # Positions of a sequence share their neurons' parameters: another charge is another bias.
        if error.dim() == 2 or (error.dim() > 3 and not self.of_texts):
            error, _ = self._error(run, args, kwargs)
            self._add(run, "charge", error.mean(0) * sum(run.awake), error.shape)
        spikes: Signal = self.population(run, *args, **kwargs)
        return spikes

    def _channel(self, dims: int) -> int:
        """Which dimension counts channels: that of the map before it, else that of images, or the last."""
        known = self.channels.get(self.population.settings["name"])
        return known % dims if known is not None else 1 if dims == 4 else dims - 1

    def _error(self, run: SpikingRun, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, int]:
        """By how much the rates of the neurons are too low, and how many neurons there are."""
        layer = self.population.layer_train(self.population(run, *args, **kwargs), *args, **kwargs)
        error = self.rates[layer.layer] - layer.train.sum(0, dtype=torch.float64) / sum(run.awake)
        return error, layer.neurons

    def _add(self, run: SpikingRun, name: str, thresholds: Tensor, shape: torch.Size) -> None:
        """Add this many thresholds to the population's "bias" or "charge"."""
        population, settings = self.population, self.population.settings
        before, own = getattr(population, name), getattr(population, "thresholds", None)
        threshold = settings["threshold"] if own is None else by_channel(own, shape)
        if before is not None and own is not None and before.dim() == 1:
            before = by_channel(before, shape)
        amount = run.numerics.snap(thresholds * threshold, settings["exponent"])
        population.change(name, amount if before is None else before + amount)
