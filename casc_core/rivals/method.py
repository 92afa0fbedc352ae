"""The frame of every conversion method: what simulates a network, and what is done to it before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from casc_core.errors import ConfigError
from casc_core.neuron import CIF, Neuron
from casc_core.schedule import Schedule, WakeSleep
from casc_core.spiking_model import SpikingModel


@dataclass(frozen=True)
class Method:
    """Neurons under a schedule, on the weights as they are.

    Args:
        label: what a reader of a table should see.
        neuron, schedule: what simulates the network.
        equations, source: in a line or two; where they are from.
        note: how it is applied here, where that is not plain.
    """

    label: str = ""
    neuron: Neuron = field(default_factory=CIF)
    schedule: Schedule = field(default_factory=WakeSleep)
    equations: str = ""
    source: str = ""
    note: str = ""

    own_levels: ClassVar[bool] = False
    """Its neurons have thresholds of their own, so that counts compare only with levels of its own."""
    reads_data: ClassVar[bool] = False
    """It looks at data before it simulates."""

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        """What this method simulates in the place of `snn`.

        Args:
            batches: of what the network takes; only the methods that look at data read them.

        >>> import casc_core
        >>> from torch import nn
        >>> snn = casc_core.convert(nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2)))
        >>> Method(neuron=casc_core.IF(), schedule=casc_core.Continuous()).network(snn, []).settings.neuron
        IF()
        """
        return converted(snn).under(self.neuron, self.schedule)

    @property
    def config(self) -> str:
        """Neuron and schedule, as they are written."""
        return f"{self.neuron} under {self.schedule}"


def converted(snn: SpikingModel) -> SpikingModel:
    """`snn`, if it is a converted network.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(snn, SpikingModel):
        raise ConfigError(f"a method simulates a converted network; got {type(snn).__name__}")
    return snn
