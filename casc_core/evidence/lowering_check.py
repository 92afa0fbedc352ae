"""Is a lowering what the user's network computes? Both in float64, without grids, neuron by neuron.

The network is evaluated by its own modules and forward, and each of its populations is made to give the levels that the
lowering has there, so that a difference stays where it arises. A neuron's level may then differ from what the network
itself would give only where the two float64 sums fall on different sides of an edge between two levels. Whatever is
farther from the edge is a fault of the lowering.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from casc_core.activation import Quantised
from casc_core.conversion.origin import unrounded
from casc_core.engine.float64 import widened
from casc_core.engine.program import READOUT
from casc_core.errors import ConfigError, ExactnessError
from casc_core.evidence.ann_evaluation import LogitsAndLevels, run_observed
from casc_core.evidence.differences import absolute_difference
from casc_core.evidence.lowering_report import Fault, LayerLowering, LoweringReport
from casc_core.spiking_model import SpikingModel

# Sums of float64 in another order, relative to the largest activation of a layer, in levels; or to the largest logit.
_ROUNDING = 1e-9


def lowered_in_float64(snn: SpikingModel, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> LogitsAndLevels:
    """The lowering without grids, in float64: logits and levels.

    Raises:
        ConfigError: the network that was converted is not at hand. ExactnessError: it cannot be lowered in float64.
    """
    device = next((value.device for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
    try:
        network, (inputs, named) = unrounded(snn), widened(inputs, named)
        network = network if device is None else network.to(device)
        return LogitsAndLevels(*network.reference_counts(inputs, named))
    except ConfigError:
        raise
    except Exception as error:  # such as a forward that asks for its own types
        raise ExactnessError(
            f"the network that was converted, a {type(snn.ann).__name__}, cannot be lowered in float64, so its conversion "
            f"could not be held against it: {type(error).__name__}: {error}"
        ) from error


def lowering_report(
    snn: SpikingModel, lowered: LogitsAndLevels, inputs: tuple[Any, ...], named: Mapping[str, Any]
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
            ranges = module.ranges()
        else:  # a family that does not say what is inside: what comes out is all there is to see
            names, wanted = (called,), [lowered.levels.get(called)]
            output = type(module).forward(module, *args, **kwargs)
            before = [output * q / module.effective_threshold] if isinstance(output, Tensor) else []
            ranges = ((0, q),)
            by_output.extend(name for name, levels in zip(names, wanted, strict=True) if levels is not None and before)
        for name, levels, z, ends in zip(names, wanted, before, ranges, strict=False):
            if levels is not None:  # else nothing reads it
                layers[name] = _layer(name, z, levels, *ends)
        return output

    logits = run_observed(ann, q, inputs, named, see, float64=True)
    apart = tuple(name for name in lowered.levels if name not in layers)
    layers[READOUT], largest = _readout(logits, lowered.logits)
    return LoweringReport(layers, largest, tuple(by_output), apart)


def _layer(name: str, z: Tensor, levels: Tensor, lowest: int, highest: int) -> LayerLowering:
    """Activations before rounding, in levels, against levels of this range."""
    if z.shape != levels.shape:
        return LayerLowering(
            name, levels.numel(), levels.numel(), 0, Fault(None, str(list(z.shape)), str(list(levels.shape)))
        )
    finite = z[z.isfinite()]
    slack = _ROUNDING * (1.0 + (float(finite.abs().max()) if finite.numel() else 0.0))
    found = levels.double()
    fits = ((z >= found - slack) | (found == lowest)) & ((z < found + 1 + slack) | (found == highest))
    fits &= ~z.isnan()
    wrong = (~fits).nonzero()
    ties = int(((z.floor().clamp(lowest, highest) != found) & fits).sum())
    first = None
    if len(wrong):
        at = tuple(int(index) for index in wrong[0])
        first = Fault(at, f"{float(z[at]):.6g} levels", f"level {int(levels[at])}")
    return LayerLowering(name, levels.numel(), len(wrong), ties, first)


def _readout(own: Tensor, lowered: Tensor) -> tuple[LayerLowering, float]:
    if own.shape != lowered.shape:
        fault = Fault(None, str(list(own.shape)), str(list(lowered.shape)))
        return LayerLowering(READOUT, lowered.numel(), lowered.numel(), 0, fault), float("inf")
    off = absolute_difference(own, lowered)
    finite = own[own.isfinite()]
    slack = _ROUNDING * (1.0 + (float(finite.abs().max()) if finite.numel() else 0.0))
    wrong = (~(off <= slack)).nonzero()
    first = None
    if len(wrong):
        at = tuple(int(index) for index in wrong[0])
        first = Fault(at, f"{float(own[at]):.6g}", f"{float(lowered[at]):.6g}")
    return LayerLowering(READOUT, own.numel(), len(wrong), 0, first), float(off.max())
