"""What a simulation does, recorded: every neuron's spike count, and how large the parts of its batch are."""

from __future__ import annotations

from casc_core.engine.recording.recorder import Recorder


def simulated(snn, *inputs, T=None):
    """The simulation of the whole batch, and spike counts by layer."""
    recorder = Recorder(keep_counts=True)
    return snn.simulate_recorded(inputs, {}, T, recorder), recorder.counts


def runs_of(snn, monkeypatch):
    """The batch sizes of the runs from here on."""
    sizes = []
    evaluate = type(snn)._evaluated

    def watched(self, run, program, values, read):
        result = evaluate(self, run, program, values, read)
        sizes.append(self._splitter(program).followed(values, run).samples)
        return result

    monkeypatch.setattr(type(snn), "_evaluated", watched)
    return sizes
