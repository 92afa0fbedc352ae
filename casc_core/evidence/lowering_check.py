"""Is what the spiking network computes what the user's network computes in float64, neuron by neuron?

The network is evaluated by its own modules and forward, in float64, and each of its populations is made to give the levels
that it is held against, so that a difference stays where it arises. A neuron's level may then differ only where the sum in
float64 lies on an edge between two levels, as exactly as float64 can tell: a tie. Whatever is farther from the edge is a
fault.

Of the network as trained, the levels are those of the reference itself. Where they are not the network's, and with a coarse
grid always, the lowering before it is put on any grid is held against it too: that tells the lowering from the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from casc_core.activation import Observable, Quantised
from casc_core.conversion.origin import unrounded
from casc_core.engine.float64 import widened
from casc_core.engine.program import Program, Readout
from casc_core.errors import ConfigError, ExactnessError
from casc_core.evidence.ann_evaluation import LogitsAndLevels, evaluate_ann, run_observed
from casc_core.evidence.differences import LOGIT_ROUNDING, absolute_difference, largest_logits
from casc_core.evidence.lowering_report import GRID, Fault, LayerLowering, LoweringReport, readout_name
from casc_core.evidence.own_forward import disagreement, left_to_itself
from casc_core.evidence.rounding_error import Magnitudes
from casc_core.evidence.trace_check import traced_otherwise
from casc_core.numerics import AsTrained
from casc_core.spiking_model import SpikingModel

# A logit of the reference is a float32 number: it is rounded by at most this, relative to itself.
_FLOAT32 = 2.0**-24
# Logits nearer than this, relative to the largest of a sample, are taken for equal without further proof.
_LOGITS = 1e-9


@dataclass(frozen=True)
class HeldAgainstANN:
    """What came of holding a conversion against the network that was converted.

    Attributes:
        report: whether it is the network, neuron by neuron.
        float64: the network in float64, left to itself.
        before_grid: what a grid was laid on: the lowering without it, where it is coarse; else the same as `float64`.
    """

    report: LoweringReport
    float64: LogitsAndLevels
    before_grid: LogitsAndLevels


def held_against_ann(snn: SpikingModel, reference: LogitsAndLevels, named: Mapping[str, Any]) -> HeldAgainstANN:
    """The network that was converted, in float64, beside `snn`, whose reference gives this for these inputs.

    Raises:
        ExactnessError: that network cannot be evaluated in float64, or lowered in it.
    """
    fault, held = traced_otherwise(snn, named), _held_as_traced(snn, reference, named)
    if fault is None:
        return held
    return replace(held, report=replace(held.report, layers={fault.name: fault, **held.report.layers}))


def _held_as_traced(snn: SpikingModel, reference: LogitsAndLevels, named: Mapping[str, Any]) -> HeldAgainstANN:
    as_trained = isinstance(snn.settings.numerics, AsTrained)
    if as_trained:
        held = _Held(snn, reference, named)
        if held.report.exact:
            own = held.left_to_itself()
            return HeldAgainstANN(held.report, own, own)
    lowered = lowered_in_float64(snn, (), named)
    without_grid = _Held(snn, lowered, named)
    own = without_grid.left_to_itself()
    if as_trained and without_grid.report.exact:  # so it is the grid, on which logits may be a little coarser
        return HeldAgainstANN(replace(held.reported(LOGIT_ROUNDING), at_fault=GRID), own, own)
    return HeldAgainstANN(without_grid.report, own, own if as_trained else lowered)


def lowered_in_float64(snn: SpikingModel, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> LogitsAndLevels:
    """The lowering without grids, in float64: logits and levels.

    Raises:
        ConfigError: the network that was converted is not at hand. ExactnessError: it cannot be lowered in float64.
    """
    device = next((value.device for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
    try:
        network, (inputs, named) = unrounded(snn), widened(inputs, named)
        network = network if device is None else network.to(device)
        return reference_of(network, inputs, named)
    except ConfigError:
        raise
    except Exception as error:  # such as a forward that asks for its own types
        raise ExactnessError(
            f"the network that was converted, a {type(snn.ann).__name__}, cannot be lowered in float64, so its conversion "
            f"could not be held against it: {type(error).__name__}: {error}"
        ) from error


def reference_of(snn: SpikingModel, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> LogitsAndLevels:
    """What the reference computes of a whole batch at once."""
    outputs, levels = snn.reference_counts(inputs, named)
    return LogitsAndLevels(snn.readouts_of(outputs, inputs, named), levels)


@dataclass
class _Layer:
    """A layer that was compared: where its levels differ from the network's, and the activations there, in levels."""

    neurons: int
    fault: Fault | None = None
    at: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    activations: Tensor = field(default_factory=lambda: torch.zeros(0))
    levels: Tensor = field(default_factory=lambda: torch.zeros(0))

    @classmethod
    def of(cls, activations: Tensor, levels: Tensor, ends: tuple[int, int]) -> _Layer:
        if activations.shape != levels.shape:
            return cls(levels.numel(), Fault(None, str(list(activations.shape)), str(list(levels.shape))))
        differing = activations.floor().clamp_(*ends) != levels  # what is no number differs
        if not bool(differing.any()):
            return cls(levels.numel())
        return cls(levels.numel(), None, differing.nonzero(), activations[differing], levels[differing].double())

    @property
    def differs(self) -> bool:
        return self.fault is not None or len(self.at) > 0

    def compared(self, name: str, error: Tensor | None) -> LayerLowering:
        """`error`: of the activations that differ, in levels."""
        if self.fault is not None:
            return LayerLowering(name, self.neurons, self.neurons, 0, self.fault)
        if error is None:
            return LayerLowering(name, self.neurons, len(self.at), 0, self._first(0) if len(self.at) else None)
        error = torch.where(error.isfinite(), error, 0.0)
        tied = (self.activations >= self.levels - error) & (self.activations < self.levels + 1 + error)
        wrong = (~tied).nonzero()
        first = self._first(int(wrong[0])) if len(wrong) else None
        return LayerLowering(name, self.neurons, len(wrong), len(self.at) - len(wrong), first)

    def _first(self, row: int) -> Fault:
        at = tuple(int(index) for index in self.at[row])
        return Fault(at, f"{float(self.activations[row]):.6g} levels", f"level {int(self.levels[row])}")


class _Held:
    """The network in float64, each population giving the levels that it is held against.

    Attributes:
        report: what was found.
    """

    def __init__(self, snn: SpikingModel, against: LogitsAndLevels, named: Mapping[str, Any]) -> None:
        assert snn.ann is not None
        self._ann, self._q, self._named, self._against = snn.ann, snn.settings.levels, named, against
        self._program = snn.program_for(frozenset(named))
        self._readout_error = _readout_errors(snn, self._program)
        self._layers: dict[str, _Layer] = {}
        self._forwards: dict[str, LayerLowering] = {}  # of modules whose forward is not what is observed
        self._by_output: list[str] = []
        self._logits = run_observed(self._ann, self._q, self._program, named, self._compare, float64=True)
        self.report = self.reported(_LOGITS)

    def left_to_itself(self) -> LogitsAndLevels:
        """The network in float64, nothing held."""
        if any(layer.differs for layer in self._layers.values()):
            return evaluate_ann(self._ann, self._q, self._program, self._named, float64=True)
        # Whatever it was made to give is what it gives.
        levels = {name: self._against.levels[name] for name in self._layers if name not in self._by_output}
        return LogitsAndLevels(self._logits, levels)

    def _compare(
        self, called: str, names: tuple[str, ...], module: Quantised[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        own = type(module).forward(module, *args, **kwargs)
        if not isinstance(module, Observable) or not names:
            for name, each in self._by_its_output(called, module, own).items():
                self._layers[name] = _Layer.of(each, self._against.levels[name], (0, self._q))
                self._by_output.append(name)
            return own
        output, before = self._observed(names, module, args, kwargs)
        layers = {
            name: _Layer.of(each, self._against.levels[name], ends)
            for name, each, ends in zip(names, before, module.ranges(), strict=True)
            if name in self._against.levels
        }
        self._layers |= layers
        if any(layer.differs for layer in layers.values()) or len(layers) < len(names):
            fault = left_to_itself(called, module, own, args, kwargs)
        else:
            fault = disagreement(called, own, output)
            output = own if fault is None else output
        if fault is not None:
            self._forwards[called] = fault
        return output

    def _observed(
        self, names: tuple[str, ...], module: Observable[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Tensor]]:
        """A module whose populations give the levels that they are held against."""
        return module.observed([self._against.levels.get(name) for name in names], *args, **kwargs)

    def _by_its_output(self, called: str, module: Quantised[Any], output: Any) -> dict[str, Tensor]:
        """Of a family that does not say what is inside, what comes out, a level already, is all there is to see."""
        if called not in self._against.levels or not isinstance(output, Tensor):
            return {}
        return {called: (output * self._q / module.effective_threshold).round()}

    def reported(self, of_logits: float) -> LoweringReport:
        """What was found, logits of a sample being alike within so much of its largest."""
        outputs = {name: _Compared(own, self._against.logits[name]) for name, own in self._logits.items()}
        allowed = {name: self._allowed(name, output, of_logits) for name, output in outputs.items()}
        errors: dict[str, Tensor] = {}
        off = any(not bool((output.off <= allowed[name]).all()) for name, output in outputs.items() if output.alike)
        if off or any(layer.differs for layer in self._layers.values()):
            errors, further = self._errors
            for name, more in further.items():
                allowed[name] = allowed[name] + more if more.shape == allowed[name].shape else allowed[name]
        layers = {name: layer.compared(name, errors.get(name)) for name, layer in self._layers.items()}
        layers |= {fault.name: fault for fault in self._forwards.values() if not _is_wrong(layers.get(fault.name))}
        for name, output in outputs.items():
            readout = readout_name(name, single=self._program.returned.is_single)
            layers[readout] = output.compared(readout, allowed[name])
        apart = tuple(name for name in self._against.levels if name not in self._layers)
        furthest = max(float(output.off.max()) for output in outputs.values())
        return LoweringReport(layers, furthest, tuple(self._by_output), apart)

    def _allowed(self, name: str, output: _Compared, of_logits: float) -> Tensor:
        """How far logits may be off by the last roundings alone, or by so much of the largest in their sample."""
        own, found = output.own, output.found
        if not output.alike:
            return output.off
        largest = largest_logits(own)
        if found.dtype == torch.float64:
            return largest * of_logits
        on_grid = (largest * LOGIT_ROUNDING).clamp_max(self._readout_error[name])
        return own.abs() * _FLOAT32 + largest * of_logits + on_grid

    @cached_property
    def _errors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """How far float64 may be off: of the activations that differ, by layer, in levels; and of the logits, by output."""
        errors: dict[str, Tensor] = {}
        magnitudes = Magnitudes()

        def see(
            called: str, names: tuple[str, ...], module: Quantised[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if isinstance(module, Observable) and names:
                output, before = self._observed(names, module, args, kwargs)
                seen = dict(zip(names, before, strict=True))
            else:
                output = type(module).forward(module, *args, **kwargs)
                seen = self._by_its_output(called, module, output)
            for name, each in seen.items():
                layer = self._layers.get(name)
                if layer is not None and len(layer.at) and layer.fault is None:
                    errors[name] = each[layer.at.unbind(1)] * magnitudes.relative_error
            return output

        logits = run_observed(self._ann, self._q, self._program, self._named, see, float64=True, within=magnitudes)
        of_logits = {name: each * magnitudes.relative_error for name, each in logits.items()}
        return errors, {name: torch.where(each.isfinite(), each, 0.0) for name, each in of_logits.items()}


def _is_wrong(layer: LayerLowering | None) -> bool:
    return layer is not None and layer.wrong > 0


def _readout_errors(snn: SpikingModel, program: Program) -> dict[str, float]:
    """How far the reference's logits may be off, by output, because the weights of one map, the last, are on a grid."""
    weights = (op.tensors().get("weight") for op in snn.operations())
    terms = max((weight[0].numel() for weight in weights if weight is not None and weight.dim() > 1), default=1)
    readouts = zip(program.returned.names, program.outputs, strict=True)
    return {
        name: abs(readout.scale) * 2.0**readout.exponent * (terms + 1) / 2
        for name, readout in readouts
        if isinstance(readout, Readout)
    }


class _Compared:
    """The logits of one output, the network's own beside what was found.

    Attributes:
        own, found: the logits. alike: they have one shape. off: by how much they differ.
    """

    def __init__(self, own: Tensor, found: Tensor) -> None:
        self.own, self.found, self.alike = own, found, own.shape == found.shape
        self.off = absolute_difference(own, found.double()) if self.alike else torch.full((1,), torch.inf)

    def compared(self, name: str, allowed: Tensor) -> LayerLowering:
        """`allowed`: how far they may be off."""
        if not self.alike:
            fault = Fault(None, str(list(self.own.shape)), str(list(self.found.shape)))
            return LayerLowering(name, self.found.numel(), self.found.numel(), 0, fault)
        wrong, first = (~(self.off <= allowed)).nonzero(), None
        if len(wrong):
            at = tuple(int(index) for index in wrong[0])
            first = Fault(at, f"{float(self.own[at]):.6g}", f"{float(self.found[at]):.6g}")
        return LayerLowering(name, self.own.numel(), len(wrong), 0, first)
