"""Thresholds balanced by data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from casc_core.activation import CQReLU, Quantised
from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.conversion.calibrate import percentiles
from casc_core.conversion.convert import convert
from casc_core.errors import ConfigError
from casc_core.rivals.method import Method, converted
from casc_core.spiking_model import SpikingModel


@dataclass(frozen=True)
class PercentileReLU(Method):
    """Thresholds balanced by data: each layer's is a percentile of its positive activations (Rueckauer et al. 2017,
    "Conversion of continuous-valued deep networks to efficient event-driven networks", sections 2.2.2 and 2.2.3).

    `theta_l = percentile(a_l)`; IF neurons, `v += I_t`; `s_t = 1` if `v >= theta_l`; `v -= theta_l * s_t`, the input at
    every step. Activations above the threshold saturate at one spike a step.

    Args:
        percentile: in (0, 100]; the paper's choice is 99.9.

    Raises:
        ConfigError: the network as trained is not at hand.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), CQReLU(q=4), nn.Linear(8, 2))
    >>> network = PercentileReLU(percentile=50.0).network(convert(model), [torch.rand(64, 4)])
    >>> network.ann[1].threshold < 1.0
    True
    """

    percentile: float = 99.9

    own_levels = reads_data = True

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        ann = copy.deepcopy(converted(snn).ann)
        if ann is None:
            raise ConfigError("percentiles are those of the network as trained: load(folder, model=...) brings it back")
        names = [name for name, module in ann.named_modules() if isinstance(module, Quantised)]
        inputs = [
            inputs_and_labels(batch, len(snn.settings.arguments))[0]
            for batch in checked_batches(batches, "take percentiles of")
        ]
        for name, threshold in percentiles(ann, names, inputs, self.percentile).items():
            module = ann.get_submodule(name)
            if isinstance(module, CQReLU):
                module.set_threshold(threshold)
            elif isinstance(module, Quantised):
                module.threshold = threshold
        settings = snn.settings
        return convert(ann, settings.adapter, neuron=self.neuron, schedule=self.schedule, numerics=settings.numerics)
