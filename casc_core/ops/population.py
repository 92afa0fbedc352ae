"""The operation that spikes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from casc_core.ops.op import Op
from casc_core.run import Run
from casc_core.signal import Signal


class Fire(Op):
    """A population of spiking neurons, one for each element of its input."""

    is_layer = True

    def __init__(self, name: str, threshold: float, exponent: int) -> None:
        super().__init__({"name": name, "threshold": threshold, "exponent": exponent})

    def forward(self, run: Run, signal: Signal) -> Signal:
        exponent, threshold = self.settings["exponent"], self.settings["threshold"]
        drive = signal.drive
        if drive is not None:
            drive = run.numerics.snap(drive, exponent)
            signal = replace(signal, source=drive)
        scaled = threshold if signal.divisor is None else threshold * signal.divisor
        largest = float(scaled.max()) if isinstance(scaled, Tensor) else scaled
        dtype = run.potential_dtype(signal.bound + signal.drive_reach, largest, exponent, self.settings["name"])
        if isinstance(scaled, Tensor):
            scaled = scaled.to(dtype)
        train = run.fire(signal.train, drive, scaled, dtype)
        spikes = Signal(train, None, None, 1.0, signal.owner)
        if run.recorder is not None:
            run.recorder.spikes(self.settings["name"], spikes, run.samples)
        return spikes
