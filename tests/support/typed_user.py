"""A file as a user with a type checker writes it: `mypy` finds the mistake in it, and no other."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

import casc_core
import casc_seq
from casc_core.extend import Op, Reader, RuleTable, Run, Signal, SignalNode, Whole, settings


def spiking(model: nn.Module) -> casc_core.SpikingModel:
    """Prepared and converted."""
    ann = casc_core.prepare(model, adapter="cnn", q=4, trainable_threshold=True)
    assert_type(ann, nn.Module)
    return casc_core.convert(ann, neuron=casc_core.CIF(), schedule=casc_core.WakeSleep(), numerics=casc_core.Exact(8))


def mistaken(model: nn.Module) -> casc_core.SpikingModel:
    """An argument of another type, which an unused `type: ignore` would be an error without."""
    return casc_core.convert(model, numerics=3)  # type: ignore[arg-type]


def looked_at(snn: casc_core.SpikingModel, x: Tensor) -> bool:
    """What a run and its checks give."""
    simulation = snn.simulate(x, T=8)
    assert_type(simulation.logits, Tensor)
    assert_type(simulation.spikes["1"], casc_core.LayerSpikes)
    assert_type(casc_core.analyse(snn, [x], T=8), casc_core.Analysis)
    assert_type(snn.reference(x), Tensor)
    report = casc_core.verify(snn, x)
    assert_type(report, casc_core.EquivalenceReport)
    assert_type(report.exact, bool)
    return report.exact


def classifier() -> casc_seq.TextClassifier:
    """A model of the sequence family."""
    return casc_seq.TextClassifier(casc_seq.ClassifierConfig(vocabulary_size=100, classes=4))


def kept(snn: casc_core.SpikingModel) -> casc_core.SpikingModel:
    """Saved and loaded."""
    snn.save("network")
    return casc_core.load("network")


assert_type(casc_core.__version__, str)

rules = RuleTable()


class Reversed(nn.Module):
    """A layer of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        """The features from the last to the first."""
        return x.flip(-1)


class ReverseSignal(Op):
    """What it becomes."""

    SETTINGS = settings(dim=Whole(-4, -1))

    def forward(self, run: Run, signal: Signal) -> Signal:
        """In a run."""
        return signal.map(lambda x: x.flip(self.settings["dim"]))


@rules.module(Reversed)
def reversed_signal(reader: Reader, module: Reversed, x: SignalNode) -> SignalNode:
    """How it is read."""
    return reader.apply(ReverseSignal(dim=-1), reader.signal(x))
