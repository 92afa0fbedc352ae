"""One sample's run of a network, and the nodes of integer arithmetic that it goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from casc_core.engine.network import Settings
from casc_core.engine.products.total_product import TotalProduct
from casc_core.engine.program import Program, Readout
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.signal import Signal, without_repeats
from casc_core.errors import InputError
from casc_core.export.integers.graph import Graph, Value, Weights
from casc_core.export.integers.numbers import bits_of, magnitude_units, units
from casc_core.export.integers.rules import written
from casc_core.export.walk import walking

Simulate = Callable[[Mapping[str, Any], Recorder], Any]
"""Simulates one sample, its inputs by name, and keeps what the recorder asks for."""


@dataclass(frozen=True)
class Sample:
    """One sample's run.

    Attributes:
        outputs: as JSON, but for bits.
        proven: of each readout by name, how many bits are proven to hold its sums.
        logits, signals: of each readout by name, what it says after each step, and what it is read from.
    """

    graph: Graph
    outputs: list[dict[str, Any]]
    proven: Mapping[str, int]
    recorder: Recorder
    simulation: Any
    logits: Mapping[str, Tensor]
    signals: Mapping[str, Signal]


def run_sample(
    settings: Settings, program: Program, inputs: Mapping[str, Any], simulate: Simulate, weights: Weights,
    awake: Sequence[int],
) -> Sample:  # fmt: skip
    """A sample, its inputs by name, simulated and written down."""
    graph = Graph(weights, settings.neuron.rate * sum(awake), sum(awake))
    graph.given(inputs)
    recorder = Recorder(keep_trains=True, keep_potentials=True, watch=walking(graph.values, partial(written, graph)))
    simulation = simulate(inputs, recorder)
    names = program.returned.names
    readouts = {name: each for name, each in zip(names, program.outputs, strict=True) if isinstance(each, Readout)}
    outputs = [_output(graph, name, readout) for name, readout in readouts.items()]
    for name, value in inputs.items():
        if isinstance(value, Tensor) and not value.is_floating_point():
            graph.own[f"input.{name}"] = units(value, 0, name)
    logits = program.returned.readouts_in(simulation.outputs)
    values = {name: graph.values[readout.ref.name] for name, readout in readouts.items()}
    signals = {name: value.signal for name, value in values.items()}
    proven = {
        name: bits_of(magnitude_units(value.signal.bound * graph.total, value.exponent))
        for name, value in values.items()
    }
    return Sample(graph, outputs, proven, recorder, simulation, logits, signals)


def _output(graph: Graph, name: str, readout: Readout) -> dict[str, Any]:
    """A readout: `logits = float32(((total + drive * wake steps) / divisor * scale) / wake steps)`, in float64."""
    value: Value = graph.values[readout.ref.name]
    signal, drive, divisor = value.signal, value.signal.drive, value.signal.divisor
    kept = None
    if drive is not None:
        drive = without_repeats(drive)
        if value.of_inputs:
            kept = graph.kept_real(f"{name}.drive", drive)
        else:
            kept = f"{name}.drive"
            graph.real[kept] = drive
    by = None if divisor is None else graph.kept(f"{name}.divisor", units(divisor, 0, "a divisor"), value.of_inputs)
    return {
        "name": name, "read": value.node, "shape": list(signal.shape), "exponent": value.exponent, "drive": kept,
        "divisor": by, "scale": readout.scale, "of_inputs": value.of_inputs,
        "is_rounded": isinstance(signal.lazy_train, TotalProduct),
    }  # fmt: skip


def require_alike(first: Sample, other: Sample, number: int) -> None:
    """Refuse a sample that does not go through the nodes of the first one.

    Raises:
        InputError: it does not.
    """
    one, two = first.graph, other.graph

    def equal(name: str) -> bool:
        return one.constants[name] is two.constants[name] or np.array_equal(one.constants[name], two.constants[name])

    same = one.nodes == two.nodes and first.outputs == other.outputs and one.constants.keys() == two.constants.keys()
    if not same or not all(map(equal, one.constants)):
        raise InputError(
            f"sample {number} does not fit sample 0: alone, it goes through other shapes or other constants. Give samples "
            "that are padded to one length, or of one size"
        )
