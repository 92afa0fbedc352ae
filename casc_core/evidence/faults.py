"""Is a lowering what the user's network computes? Both in float64, without grids, neuron by neuron.

The network is evaluated by its own modules and forward, and each of its populations is made to give the levels that the
lowering has there, so that a difference stays where it arises. A neuron's level may then differ from what the network
itself would give only where the two float64 sums fall on different sides of an edge between two levels. Whatever is
farther from the edge is a fault of the lowering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from casc_core.activation import Quantised
from casc_core.conversion.origin import unrounded
from casc_core.engine.float64 import widened
from casc_core.engine.program import READOUT
from casc_core.errors import ConfigError, ExactnessError
from casc_core.evidence.moved import difference
from casc_core.evidence.origin import Evaluated, observed
from casc_core.spiking_model import SpikingModel

# Sums of float64 in another order, relative to the largest activation of a layer, in levels; or to the largest logit.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Fault:
    """One neuron, or logit, of a lowering that is not what the network computes.

    Attributes:
        at: its index, `(sample, ...)` in the layout of the model; None: shapes differ.
        own: what the network has there: the activation before it is rounded, in levels, or the logit; or the shape.
        lowered: what the lowering has there: a level, or a logit; or the shape.
    """

    at: tuple[int, ...] | None
    own: str
    lowered: str

    def __str__(self) -> str:
        if self.at is None:
            return f"the network's has shape {self.own}, the lowering's {self.lowered}"
        return f"at {self.at} the network has {self.own}, the lowering {self.lowered}"


@dataclass(frozen=True)
class LayerLowering:
    """One layer of a lowering beside that of the network, or its logits (named "the readout").

    Attributes:
        name: the layer.
        neurons: how many were compared, over all samples.
        wrong: how many are not what the network computes.
        ties: how many differ, and fall on an edge between two levels as exactly as float64 can tell.
        first: the first that is wrong, or None.
    """

    name: str
    neurons: int
    wrong: int
    ties: int
    first: Fault | None


@dataclass(frozen=True)
class LoweringReport:
    """A lowering beside the network that it was made from, both in float64.

    Attributes:
        layers: by name, in the order of the network's forward; "the readout" last.
        max_logit_difference: the largest difference of two logits.
        by_output: layers of a family whose modules do not say what is inside: what comes out of them was compared.
        not_compared: layers that could not be compared by themselves, only by what follows them.
    """

    layers: dict[str, LayerLowering]
    max_logit_difference: float
    by_output: tuple[str, ...]
    not_compared: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """No neuron and no logit is anything but what the network computes."""
        return all(not layer.wrong for layer in self.layers.values())

    def after(self, samples: int) -> LoweringReport:
        """The report on a part of a batch, so many of whose samples come before it."""
        layers = {name: replace(layer, first=_after(layer.first, samples)) for name, layer in self.layers.items()}
        return replace(self, layers=layers)

    @property
    def neurons(self) -> int:
        """How many neurons were compared."""
        return sum(layer.neurons for name, layer in self.layers.items() if name != READOUT)

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
            return f"lowering: all {self.neurons:,} neurons and the logits are your network's in float64{tied}{apart}"
        what = "logits" if fault.name == READOUT else "neurons"
        others = sum(1 for layer in self.layers.values() if layer.wrong) - 1
        return (
            f"FAULT OF THE LOWERING: {fault.name!r}, {fault.wrong:,} of {fault.neurons:,} {what} are not what your network "
            f"computes in float64: {fault.first}{f'; {others} more layers' if others else ''}{apart}. Please report this: "
            "the spiking network is not your network"
        )


def _after(fault: Fault | None, samples: int) -> Fault | None:
    if fault is None or fault.at is None:
        return fault
    return replace(fault, at=(fault.at[0] + samples, *fault.at[1:]))


def lowered_in_float64(snn: SpikingModel, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Evaluated:
    """The lowering without grids, in float64: logits and levels.

    Raises:
        ConfigError: the network that was converted is not at hand. ExactnessError: it cannot be lowered in float64.
    """
    device = next((value.device for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
    try:
        network, (inputs, named) = unrounded(snn), widened(inputs, named)
        network = network if device is None else network.to(device)
        return Evaluated(*network.reference_counts(inputs, named))
    except ConfigError:
        raise
    except Exception as error:  # such as a forward that asks for its own types
        raise ExactnessError(
            f"the network that was converted, a {type(snn.ann).__name__}, cannot be lowered in float64, so its conversion "
            f"could not be held against it: {type(error).__name__}: {error}"
        ) from error


def lowering_report(
    snn: SpikingModel, lowered: Evaluated, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> LoweringReport:
    """`lowered`, which is `lowered_in_float64`, beside the network that was converted.

    Raises:
        ExactnessError: that network cannot be evaluated in float64.
    """
    ann, q = snn.ann, snn.settings.levels
    assert ann is not None
    layers: dict[str, LayerLowering] = {}
    by_output: list[str] = []

    def see(
        called: str, names: tuple[str, ...], module: Quantised, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        wanted = [lowered.levels.get(name) for name in names]
        if names:
            output, before = module.observed(wanted, *args, **kwargs)
        else:  # a family that does not say what is inside: what comes out is all there is to see
            names, wanted = (called,), [lowered.levels.get(called)]
            output = type(module).forward(module, *args, **kwargs)
            before = [output * module.q / module.effective_threshold] if isinstance(output, Tensor) else []
            by_output.extend(name for name, levels in zip(names, wanted, strict=True) if levels is not None and before)
        for name, levels, z in zip(names, wanted, before, strict=False):
            if levels is not None:  # else nothing reads it
                layers[name] = _layer(name, z, levels, q)
        return output

    logits = observed(ann, q, inputs, named, see, float64=True)
    apart = tuple(name for name in lowered.levels if name not in layers)
    layers[READOUT], largest = _readout(logits, lowered.logits)
    return LoweringReport(layers, largest, tuple(by_output), apart)


def _layer(name: str, z: Tensor, levels: Tensor, q: int) -> LayerLowering:
    """Activations before rounding, in levels, against levels."""
    if z.shape != levels.shape:
        return LayerLowering(
            name, levels.numel(), levels.numel(), 0, Fault(None, str(list(z.shape)), str(list(levels.shape)))
        )
    finite = z[z.isfinite()]
    slack = _ROUNDING * (1.0 + (float(finite.abs().max()) if finite.numel() else 0.0))
    found = levels.double()
    fits = ((z >= found - slack) | (found == 0)) & ((z < found + 1 + slack) | (found == q))
    fits &= ~z.isnan()
    wrong = (~fits).nonzero()
    ties = int(((z.floor().clamp(0, q) != found) & fits).sum())
    first = None
    if len(wrong):
        at = tuple(int(index) for index in wrong[0])
        first = Fault(at, f"{float(z[at]):.6g} levels", f"level {int(levels[at])}")
    return LayerLowering(name, levels.numel(), len(wrong), ties, first)


def _readout(own: Tensor, lowered: Tensor) -> tuple[LayerLowering, float]:
    if own.shape != lowered.shape:
        fault = Fault(None, str(list(own.shape)), str(list(lowered.shape)))
        return LayerLowering(READOUT, lowered.numel(), lowered.numel(), 0, fault), float("inf")
    off = difference(own, lowered)
    finite = own[own.isfinite()]
    slack = _ROUNDING * (1.0 + (float(finite.abs().max()) if finite.numel() else 0.0))
    wrong = (~(off <= slack)).nonzero()
    first = None
    if len(wrong):
        at = tuple(int(index) for index in wrong[0])
        first = Fault(at, f"{float(own[at]):.6g}", f"{float(lowered[at]):.6g}")
    return LayerLowering(READOUT, own.numel(), len(wrong), 0, first), float(off.max())


def joined(reports: Sequence[LoweringReport]) -> LoweringReport:
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
    return LoweringReport(layers, furthest, reports[0].by_output, reports[0].not_compared)
