"""What `analyse` finds: where a network is off its reference, how fast that vanishes and what it costs, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.structure import Returned
from casc_core.evidence.differences import by_output
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.series import median_and_largest
from casc_core.reporting.summaries import Summarised
from casc_core.reporting.tables import text_table


@dataclass(frozen=True, repr=False)
class PositionAnalysis(Summarised):
    """A recurrent layer by token position, `[length]` each.

    Attributes:
        mismatch: share of the position's neurons that end at least one spike off their level, over texts that reach it.
        silent_at: mean over those texts of the last step at which the position spiked.
    """

    mismatch: Tensor
    silent_at: Tensor


@dataclass(frozen=True, repr=False)
class LayerAnalysis(Summarised):
    """One layer over all samples. `[T]` each, float64.

    A neuron of level `l` (of q) should have emitted `l * a / q` spikes after `a` wake steps. Where that is no whole number,
    both whole numbers beside it are right.

    Attributes:
        neurons: for each sample, on average.
        more, fewer: share of neurons with at least one spike too many, too few (the paper's Figure 4, a to c).
        relative_error: `sum |N / a - l / q| / sum l / q`, N being spike counts (the paper's Figure 5).
        positive, negative: share of neurons that emit +1, -1 (with bursts: spikes for each neuron; the paper's Figure 6).
        accumulates, multiply_accumulates: for each sample and step, on average.
        ann_multiply_accumulates: the ANN's for a sample, on average.
        silent_at: `[samples]` int64, the last step at which the layer spiked.
        positions: by token position, of a recurrent layer; else None.
    """

    neurons: float
    more: Tensor
    fewer: Tensor
    relative_error: Tensor
    positive: Tensor
    negative: Tensor
    accumulates: Tensor
    multiply_accumulates: Tensor
    ann_multiply_accumulates: float
    silent_at: Tensor
    positions: PositionAnalysis | None


@dataclass(frozen=True, repr=False)
class OutputAnalysis(Summarised):
    """One output of a network over all samples, step by step, against the reference's. `[T]` each, float64.

    Attributes:
        mse: mean squared error against the reference's (the paper's Figure 4 d).
        accuracy: percent of classes that are right (Figure 4 e): one for each sample, or for each of its places
            (`casc_core.reporting.predictions`); None without labels, or where these are numbers.
        error: against labels that are numbers; else None. error_name: the mean squared error, or the user's function.
        mismatches: int64, samples of which a predicted class (or number) is not the reference's.
        exact_at: `[samples]` int64, the first step from which on it is the reference's, bit for bit; 0: never.
        logits: `[samples, ...]`, after the last step.
        numbers: it is numbers, and predicts nothing.
    """

    mse: Tensor
    accuracy: Tensor | None
    error: Tensor | None
    error_name: str
    mismatches: Tensor
    exact_at: Tensor
    logits: Tensor
    numbers: bool


@dataclass(frozen=True, repr=False)
class Analysis(Summarised):
    """A spiking network over a data set, step by step, against its reference. Made by `casc_core.analyse`.

    Attributes:
        layers: by name, in order.
        samples: how many.
        T: steps simulated.
        outputs: by name.
        returned: what the model's forward returns. Of a network with several outputs, `mse`, `accuracy`, `error` and
            `logits` are in that structure, None in the place of what neurons do not compute.
        mismatches: `[T]` int64, samples of which a predicted class (or number), of any output, is not the reference's.
        silent_at: `[samples]` int64, the last step at which anything spiked.
        exact_at: `[samples]` int64, the first step from which on all outputs are the reference's, bit for bit; 0: never.
        accumulates, multiply_accumulates: `[T]`, for each sample and step on average, all layers and the readouts.
        ann_multiply_accumulates: the ANN's for a sample, on average.
    """

    layers: dict[str, LayerAnalysis]
    samples: int
    T: int
    outputs: dict[str, OutputAnalysis]
    returned: Returned
    mismatches: Tensor
    silent_at: Tensor
    exact_at: Tensor
    accumulates: Tensor
    multiply_accumulates: Tensor
    ann_multiply_accumulates: float

    @property
    def mse(self) -> Tensor:
        """`[T]`, mean squared error of the readout against the reference's logits."""
        mse: Tensor = self._of_each("mse")
        return mse

    @property
    def accuracy(self) -> Tensor | None:
        """`[T]`, percent of classes that are right; None without labels, or where these are numbers."""
        accuracy: Tensor | None = self._of_each("accuracy")
        return accuracy

    @property
    def error(self) -> Tensor | None:
        """`[T]`, mean squared error of the readout against labels that are numbers; else None."""
        error: Tensor | None = self._of_each("error")
        return error

    @property
    def logits(self) -> Tensor:
        """`[samples, classes]`, the last readout."""
        logits: Tensor = self._of_each("logits")
        return logits

    def _of_each(self, what: str) -> Any:
        return self.returned.holding_readouts({name: getattr(output, what) for name, output in self.outputs.items()})

    @property
    def spikes(self) -> Tensor:
        """`[T]`: spikes of either sign, for each sample and step on average."""
        return sum(
            ((layer.positive + layer.negative) * layer.neurons for layer in self.layers.values()), torch.zeros(self.T)
        )

    @property
    def exact(self) -> bool:
        """Whether at the end every count of every neuron and every logit is the reference's."""
        counts = all(not float(layer.relative_error[-1]) for layer in self.layers.values())
        return counts and bool((self.exact_at > 0).all())

    def __str__(self) -> str:
        rows = [["layer", "off their level at the end (%)", "relative error (%)", "last spike (median, max)"]]
        for name, layer in self.layers.items():
            off = 100 * float(layer.more[-1] + layer.fewer[-1])
            median, largest = median_and_largest(layer.silent_at)
            rows.append([name, f"{off:.3g}", f"{100 * float(layer.relative_error[-1]):.3g}", f"{median}, {largest}"])
        several = self.outputs if len(self.outputs) > 1 else {}
        right = "".join(_met(output, f" of {name!r}" if several else "") for name, output in self.outputs.items())
        of_outputs = by_output({name: int(output.mismatches[-1]) for name, output in several.items()})
        what = "outputs" if all(output.numbers for output in self.outputs.values()) else "predictions"
        spent, ann = float(self.energy()[-1]) / 1e3, self.ann_energy() / 1e3
        said = (
            f"{self.samples:,} samples, {self.T} steps: {what} of {int(self.mismatches[-1]):,} samples differ from "
            f"the reference's{of_outputs}{right}, {spent:,.4g} nJ a sample (the ANN: {ann:,.4g} nJ)"
        )
        return f"{text_table(rows)}\n{said}"

    def energy(self, table: EnergyTable | None = None) -> Tensor:
        """`[T]`: pJ for each sample up to each step, on average."""
        spent = (table or EnergyTable()).picojoules(self.multiply_accumulates, self.accumulates)
        return spent.cumsum(0)

    def ann_energy(self, table: EnergyTable | None = None) -> float:
        """pJ of the ANN for a sample, on average."""
        return (table or EnergyTable()).picojoules(self.ann_multiply_accumulates, 0.0)


def _met(output: OutputAnalysis, which: str) -> str:
    """How well labels are met at the end."""
    if output.accuracy is not None:
        return f", accuracy{which} {float(output.accuracy[-1]):.2f}%"
    return "" if output.error is None else f", {output.error_name}{which} {float(output.error[-1]):.4g}"
