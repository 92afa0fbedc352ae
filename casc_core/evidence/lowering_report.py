"""What holding a conversion against the user's network finds: neurons and logits that are not what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from casc_core.engine.program import READOUT

LOWERING, GRID = "lowering", "grid"


@dataclass(frozen=True)
class Fault:
    """One neuron, or logit, that is not what the network computes.

    Attributes:
        at: its index, `(sample, ...)` in the layout of the model; None: shapes differ.
        own: what the network has there: the activation before it is rounded, in levels, or the logit; or the shape.
        found: what the conversion has there: a level, or a logit; or the shape.
    """

    at: tuple[int, ...] | None
    own: str
    found: str

    def __str__(self) -> str:
        if self.at is None:
            return f"your network's has shape {self.own}, the conversion's {self.found}"
        return f"at {self.at} your network has {self.own}, the conversion {self.found}"


@dataclass(frozen=True)
class LayerLowering:
    """One layer of a conversion beside that of the network, or the logits (`readout_name`).

    Attributes:
        name: the layer.
        neurons: how many were compared, over all samples.
        wrong: how many are not what the network computes.
        ties: how many differ, and lie on an edge between two levels within float64's own rounding error.
        first: the first that is wrong, or None.
    """

    name: str
    neurons: int
    wrong: int
    ties: int
    first: Fault | None


@dataclass(frozen=True)
class LoweringReport:
    """A conversion beside the network that was converted, in float64.

    Attributes:
        layers: by name, in the order of the network's forward; "the readout" last, or of several "the readout 'name'".
        max_logit_difference: the largest difference of two logits.
        by_output: layers of a family whose modules do not say what is inside: what comes out of them was compared.
        not_compared: layers that could not be compared by themselves, only by what follows them.
        at_fault: where anything is wrong: "lowering", the network was not read as what it is; or "grid", its numbers were
            put on one that is too coarse.
    """

    layers: dict[str, LayerLowering]
    max_logit_difference: float
    by_output: tuple[str, ...]
    not_compared: tuple[str, ...]
    at_fault: str = LOWERING

    @property
    def exact(self) -> bool:
        """No neuron and no logit is anything but what the network computes."""
        return all(not layer.wrong for layer in self.layers.values())

    def after(self, samples: int) -> LoweringReport:
        """The report on a part of a batch, as one that comes behind this many samples."""
        layers = {name: replace(layer, first=_after(layer.first, samples)) for name, layer in self.layers.items()}
        return replace(self, layers=layers)

    @property
    def neurons(self) -> int:
        """How many neurons were compared."""
        return sum(layer.neurons for name, layer in self.layers.items() if not _is_readout(name))

    @property
    def ties(self) -> int:
        """How many differ by the rounding of float64 alone."""
        return sum(layer.ties for layer in self.layers.values())

    @property
    def first_fault(self) -> LayerLowering | None:
        """The first layer that is not what the network computes."""
        return next((layer for layer in self.layers.values() if layer.wrong), None)

    def __str__(self) -> str:
        apart = "".join(
            f"; {how}: {', '.join(names)}"
            for how, names in (
                ("compared by what comes out of them", self.by_output),
                ("not compared by themselves", self.not_compared),
            )
            if names
        )
        fault = self.first_fault
        if fault is None:
            tied = f", {self.ties:,} of them ties" if self.ties else ""
            return (
                f"lowering: all {self.neurons:,} neurons are your network's in float64{tied}, the logits to within "
                f"{self.max_logit_difference:.2g}{apart}"
            )
        what = "logits" if _is_readout(fault.name) else "neurons"
        more = sum(1 for layer in self.layers.values() if layer.wrong) - 1
        further = f"; {more} more layers" if more else ""
        return (
            f"FAULT OF THE {self.at_fault.upper()}: {_quoted(fault.name)}, {fault.wrong:,} of {fault.neurons:,} {what} are "
            f"not what your network computes in float64: {fault.first}{further}{apart}. Please report this: the spiking "
            "network is not your network"
        )


def readout_name(output: str, single: bool) -> str:
    """What an output is called among layers.

    >>> readout_name("logits", single=True), readout_name("boxes", single=False)
    ('the readout', "the readout 'boxes'")
    """
    return READOUT if single else f"{READOUT} {output!r}"


def _quoted(name: str) -> str:
    return repr(name) if name == READOUT or not _is_readout(name) else name


def _is_readout(name: str) -> bool:
    return name.startswith(READOUT)  # no module's name has a space


def _after(fault: Fault | None, samples: int) -> Fault | None:
    if fault is None or fault.at is None:
        return fault
    return replace(fault, at=(fault.at[0] + samples, *fault.at[1:]))


def combine_lowering_reports(reports: Sequence[LoweringReport]) -> LoweringReport:
    """The report on several batches, in order."""
    layers: dict[str, LayerLowering] = {}
    for report in reports:
        for name, layer in report.layers.items():
            before = layers.get(name, LayerLowering(name, 0, 0, 0, None))
            layers[name] = LayerLowering(
                name,
                before.neurons + layer.neurons,
                before.wrong + layer.wrong,
                before.ties + layer.ties,
                before.first if before.first is not None else layer.first,
            )
    furthest = max(report.max_logit_difference for report in reports)
    faults = [report.at_fault for report in reports if not report.exact]
    at_fault = GRID if faults and LOWERING not in faults else LOWERING
    return LoweringReport(layers, furthest, reports[0].by_output, reports[0].not_compared, at_fault)
