"""A simulation with every neuron's spike count."""

from __future__ import annotations

from casc_core.engine.recording.recorder import Recorder


def simulated(snn, *inputs, T=None):
    """The simulation of the whole batch, and spike counts by layer."""
    recorder = Recorder(keep_counts=True)
    return snn.simulate_recorded(inputs, {}, T, recorder), recorder.counts
