"""A conversion beside the network that was converted: what its lowering, its grid and float32 changed, each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import ConfigError
from casc_core.evidence.ann_evaluation import LogitsAndLevels, evaluate_ann, plainly_evaluated
from casc_core.evidence.differences import Differences, combine_differences, differences
from casc_core.evidence.lowering_check import held_against_ann, reference_of
from casc_core.evidence.lowering_report import LoweringReport, combine_lowering_reports
from casc_core.numerics import AsTrained, Numerics
from casc_core.reporting.predictions import Measure
from casc_core.spiking_model import SpikingModel


@dataclass(frozen=True)
class AgainstANN:
    """The reference of a conversion beside the network that was converted.

    Attributes:
        samples: how many were compared.
        numerics: the arithmetic of the conversion.
        lowering: neuron by neuron, in float64: whatever differs there, and is no tie, is a fault.
        grid: what a coarse grid moved, from the lowering without it to the reference; of the network as trained, what the
            ties did, from its evaluation in float64.
        float32: what the network's own types move, from its evaluation in float64 to that in them.
        own: the reference beside the network in its own types; None: they compute with another number of levels.
        prepared: what rounding the activations moved, from the network as it was given to the one that was converted, in
            their own types; None: it was given prepared.
    """

    samples: int
    numerics: Numerics
    lowering: LoweringReport
    grid: Differences
    float32: Differences
    own: Differences | None
    prepared: Differences | None = None

    @property
    def exact(self) -> bool:
        """Nothing is at fault."""
        return self.lowering.exact

    def after(self, samples: int) -> AgainstANN:
        """That of a part of a batch, as one that comes behind this many samples."""
        return replace(self, lowering=self.lowering.after(samples))

    def __str__(self) -> str:
        lines = [str(self.lowering)]
        if not isinstance(self.numerics, AsTrained):
            lines.append(self.grid.sentence(f"the grid of {self.numerics}", self.samples))
        elif self.lowering.ties or not self.exact:
            what = "ties between two levels" if self.exact else "the fault"
            lines.append(self.grid.sentence(what, self.samples))
        lines.append(self.float32.sentence("float32 itself", self.samples))
        if self.prepared is not None:
            lines.append(f"rounding the activations to levels moved {self.prepared.of_logits(self.samples)}")
        return "\n".join(lines)


def against_ann(
    snn: SpikingModel,
    reference: LogitsAndLevels,
    named: Mapping[str, Any],
    samples: int,
    measures: Mapping[str, Measure | None] = MappingProxyType({}),
) -> AgainstANN | None:
    """The reference, which gives this for inputs of so many samples, beside the network; None if that is not at hand.

    Args:
        measures: by output: what is measured as numbers predicts nothing.

    Raises:
        ConfigError: the network has been changed since. ExactnessError: it cannot be evaluated, or lowered, in float64.
    """
    if snn.origin is None or snn.ann is None:
        return None
    if snn.origin.is_changed:
        raise ConfigError(
            "the network that was converted (snn.ann) has been trained or edited since, so there is nothing to compare "
            "with: convert it again, or give the network of that time to load(folder, model=...)"
        )
    settings, program = snn.settings, snn.program_for(frozenset(named))

    def between(before: LogitsAndLevels, after: LogitsAndLevels) -> Differences:
        return differences(before, after, samples, measures)

    held = held_against_ann(snn, reference, named)
    own = evaluate_ann(snn.ann, settings.levels, program, named, float64=False)
    return AgainstANN(
        samples,
        settings.numerics,
        held.report,
        between(held.before_grid, reference),
        between(held.float64, own),
        between(own, reference) if settings.levels == settings.q else None,
        None if snn.origin.given is None else between(plainly_evaluated(snn.origin.given, program, named), own),
    )


def reference_against_ann(
    snn: SpikingModel,
    inputs: tuple[Any, ...],
    T: int | None = None,
    measures: Mapping[str, Measure | None] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], AgainstANN | None]:
    """The reference's logits, by output, and `against_ann`, of a batch: in parts that stay under the memory limit.

    `T` is for schedules without sleep, whose runs it limits.
    """
    parts = snn.parts(inputs, {}, T)
    logits: list[dict[str, Tensor]] = []
    found: list[AgainstANN] = []
    before = 0
    for part, samples in zip(parts, parts.sizes if parts.count > 1 else [parts.samples], strict=True):
        reference = reference_of(snn, (), part)
        logits.append(reference.logits)
        beside = against_ann(snn, reference, part, samples, measures)
        if beside is not None:
            found.append(beside.after(before))
        before += samples
    rows = {
        name: torch.cat([each[name] for each in logits]) if len(logits) > 1 else own for name, own in logits[0].items()
    }
    return rows, combine_against_ann(found) if found else None


def combine_against_ann(parts: Sequence[AgainstANN]) -> AgainstANN:
    """Over several batches, in order."""
    own = [part.own for part in parts if part.own is not None]
    prepared = [part.prepared for part in parts if part.prepared is not None]
    return AgainstANN(
        sum(part.samples for part in parts),
        parts[0].numerics,
        combine_lowering_reports([part.lowering for part in parts]),
        combine_differences([part.grid for part in parts]),
        combine_differences([part.float32 for part in parts]),
        combine_differences(own) if own else None,
        combine_differences(prepared) if prepared else None,
    )
