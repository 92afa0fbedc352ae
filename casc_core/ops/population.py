"""The operation that spikes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from casc_core import kernels
from casc_core.currents import Currents
from casc_core.numerics import Exact
from casc_core.ops.op import Op
from casc_core.run import Run
from casc_core.signal import Signal, inverse, memory_order, without_repeats


class Fire(Op):
    """A population of spiking neurons, one for each element of its input."""

    is_layer = True

    def __init__(self, name: str, threshold: float, exponent: int) -> None:
        super().__init__({"name": name, "threshold": threshold, "exponent": exponent})
        # Steps that the last runs took, by where they were cut.
        self.steps: dict[int, int] = {}

    def forward(self, run: Run, signal: Signal) -> Signal:
        exponent, threshold = self.settings["exponent"], self.settings["threshold"]
        drive = signal.drive
        if drive is not None:
            drive = run.numerics.snap(without_repeats(drive), exponent).expand(signal.shape)
            signal = replace(signal, source=drive)
        scaled = threshold if signal.divisor is None else threshold * signal.divisor
        if isinstance(scaled, Tensor) and scaled.dim() == 0:
            scaled = float(scaled)
        train = self._behind_convolutions(run, signal, scaled)
        if train is None:
            train = self._fired(run, signal, scaled)
        spikes = Signal(train, None, None, 1.0, signal.owner)
        if run.recorder is not None:
            run.recorder.spikes(self.settings["name"], spikes, run.samples)
        return spikes

    def _behind_convolutions(self, run: Run, signal: Signal, threshold: float | Tensor) -> Tensor | None:
        """Spikes taken from the convolutions' own inputs, in int32; None where that cannot be."""
        flow, neuron, exponent = signal.flow, run.kernel_neuron, self.settings["exponent"]
        if not isinstance(flow, Currents) or flow.is_computed or neuron is None or isinstance(threshold, Tensor):
            return None
        reach = (run.total + 1) * (signal.bound + signal.drive_reach + threshold)
        if not isinstance(run.numerics, Exact) or not kernels.fits_int32(reach, exponent):
            return None
        train = flow.population(signal.drive, exponent, threshold, neuron, self.steps.get(neuron.most, 0))
        if train is not None:  # one long run is forgotten little by little
            self.steps[neuron.most] = max(len(train), self.steps.get(neuron.most, 0) - 1)
        return train

    def _fired(self, run: Run, signal: Signal, threshold: float | Tensor) -> Tensor:
        exponent, train, drive = self.settings["exponent"], signal.train, signal.drive
        largest = float(threshold.max()) if isinstance(threshold, Tensor) else threshold
        dtype = run.potential_dtype(signal.bound + signal.drive_reach, largest, exponent, self.settings["name"])
        if isinstance(threshold, Tensor):
            threshold = threshold.to(dtype)
        # Neuron by neuron in the order in which they lie in memory.
        like = train if len(train) or drive is None else drive.unsqueeze(0)
        order = memory_order(like)
        if order is None or order[0] != 0:
            return run.fire(train, drive, threshold, dtype)
        inner = tuple(dim - 1 for dim in order[1:])
        drive = None if drive is None else drive.permute(inner)
        if isinstance(threshold, Tensor):
            threshold = threshold.expand(signal.shape).permute(inner)
        return run.fire(train.permute(order), drive, threshold, dtype).permute(inverse(order))
