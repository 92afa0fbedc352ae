"""The integers of a network and golden traces: what every neuron did on some samples, one sample after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.network import Settings
from casc_core.engine.program import Program
from casc_core.errors import ConfigError
from casc_core.export.grids import finest_exponent
from casc_core.export.integers.graph import Graph, Weights
from casc_core.export.integers.numbers import Array, bits_in, units
from casc_core.export.integers.sample import Sample, Simulate, require_alike, run_sample
from casc_core.neuron import CIF, IF
from casc_core.reporting.series import last_repeated, zero_padded


@dataclass(frozen=True)
class Golden:
    """A network in integers, and what it did.

    Attributes:
        nodes, outputs: as JSON.
        constants: integers that are the same for all samples, by name.
        traces: those of each sample `[samples, ...]`, by name.
        exponents: of the units of those traces that are numbers of a model's inputs, or of its readouts.
        layers: what is said of each population, by name. readout: of the work in front of the readouts.
        steps: how many there are. awake: 1 for each wake step.
    """

    nodes: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    constants: dict[str, Array]
    traces: dict[str, Array]
    exponents: dict[str, int]
    layers: dict[str, dict[str, Any]]
    readout: dict[str, Any]
    steps: int
    awake: list[int]


def golden(
    settings: Settings, program: Program, samples: Iterable[Mapping[str, Any]], simulate: Simulate, awake: Sequence[int]
) -> Golden:
    """The integers of a network, and golden traces of these samples.

    Args:
        samples: the inputs of each, a batch of one, by name.
        awake: 1 for each wake step that a run may have.

    Raises:
        ConfigError: the neuron is neither CIF nor IF.
        ConversionError: an operation has no integer form.
        InputError: the samples are of shapes for which the network is not the same.
    """
    if type(settings.neuron) not in (CIF, IF):
        raise ConfigError(f"{settings.neuron} has no integer form: export a network of CIF() or IF()")
    if not settings.numerics.is_exact:
        raise ConfigError(
            f"{settings.numerics} puts nothing on a grid, so there are no integers: convert the model again"
        )
    weights = Weights()
    found: list[Sample] = []
    for number, inputs in enumerate(samples):
        sample = run_sample(settings, program, inputs, simulate, weights, awake)
        if found:
            require_alike(found[0], sample, number)
            sample.graph.constants = found[0].graph.constants
        found.append(sample)
    steps = max(sample.simulation.T for sample in found)
    return _together(found, steps, [*awake, *[0] * steps][:steps])


def _together(found: Sequence[Sample], steps: int, awake: list[int]) -> Golden:
    """All samples, each over so many steps: the shorter runs are silent by then."""
    first = found[0].graph
    _note_bits(first.nodes, [sample.graph.bits for sample in found])
    populations = [(node, shape) for node, shape in _populations(first.nodes) if node["layer"] is not None]
    traces = {name: np.stack([sample.graph.own[name] for sample in found]) for name in first.own}
    constants, exponents = dict(first.constants), {}
    by_sample = _by_sample(found[0].outputs, first)
    for name in first.real:
        numbers = [sample.graph.real[name] for sample in (found if name in by_sample else found[:1])]
        exponents[name] = min(map(finest_exponent, numbers))
        whole = [units(each, exponents[name], name) for each in numbers]
        (traces if name in by_sample else constants)[name] = np.stack(whole) if name in by_sample else whole[0]
    for output in found[0].outputs:
        output["drive_exponent"] = exponents.get(output["drive"], 0)
    layers = {}
    for node, shape in populations:
        spikes, potentials = (_recorded(found, node, shape, steps, kept) for kept in (True, False))
        layers[node["layer"]] = _layer(found, node, shape, steps, spikes, potentials)
        traces |= {f"spikes.{node['layer']}": spikes, f"potentials.{node['layer']}": potentials}
    for output in found[0].outputs:
        logits, totals = _readout(found, output, steps)
        traces[f"logits.{output['name']}"] = logits
        if totals is not None:
            traces[f"totals.{output['name']}"] = totals
        output["bits"] = {
            "proven": max(sample.proven[output["name"]] for sample in found),
            "observed": None if totals is None else bits_in(totals),
        }
    readout = _work([sample.simulation.readout_operations for sample in found], steps)
    traces["silent_at"] = np.asarray([int(sample.simulation.silent_at.max()) for sample in found])
    return Golden(first.nodes, found[0].outputs, constants, traces, exponents, layers, readout, steps, awake)


def _note_bits(nodes: Sequence[dict[str, Any]], proven: Sequence[Mapping[str, Mapping[str, int]]]) -> None:
    """Write into nodes how many bits hold what they compute, for all samples."""
    for node in nodes:
        of_each = [bits[node["name"]] for bits in proven if node["name"] in bits]
        if of_each:
            node["bits"] = {what: max(bits[what] for bits in of_each) for what in of_each[0]}
        _note_bits(node.get("body", ()), proven)


def _by_sample(outputs: Sequence[Mapping[str, Any]], graph: Graph) -> set[str]:
    """Which of the numbers on no grid in particular are those of one sample alone."""
    return {
        name for name in graph.real if name not in {output["drive"] for output in outputs if not output["of_inputs"]}
    }


def _populations(nodes: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """The nodes of populations, those of recurrent layers too, each with the shape of the whole population."""
    found = []
    for node in nodes:
        if node["kind"] == "population":
            found.append((node, node["shape"]))
        elif node["kind"] == "recurrence":
            found += [(each, [node["shape"][0], *shape]) for each, shape in _populations(node["body"])]
    return found


def _recorded(
    found: Sequence[Sample], node: Mapping[str, Any], shape: Sequence[int], steps: int, spikes: bool
) -> Array:
    """`[samples, steps, *shape]`: signed spikes, or potentials in units."""
    each = []
    for sample in found:
        layer = node["layer"]
        if spikes:
            each.append(zero_padded(sample.recorder.trains[layer], steps).numpy().astype(np.int64))
        else:
            over_time = last_repeated(sample.recorder.potentials[layer], steps)
            each.append(units(over_time, node["unit"], f"{layer}: potentials"))
    return np.stack(each).reshape(len(found), steps, *shape)


def _layer(
    found: Sequence[Sample], node: Mapping[str, Any], shape: Sequence[int], steps: int, spikes: Array, potentials: Array
) -> dict[str, Any]:
    """What is said of a population: its size, bits, and what was done in front of it."""
    layer = node["layer"]
    of_each = [sample.graph.own | sample.graph.constants for sample in found]
    charged, currents = (
        np.stack(each)
        for each in zip(
            *(
                _charged(node, own, *each)
                for own, each in zip(of_each, zip(spikes, potentials, strict=True), strict=True)
            ),
            strict=True,
        )
    )
    observed = {"sum": bits_in(currents), "potential": max(bits_in(potentials), bits_in(charged))}
    simulated = [sample.simulation.spikes[layer] for sample in found]
    return {
        "shape": list(shape),
        "neurons": math.prod(shape),
        "bits": {"proven": node["bits"], "observed": observed},
        "spikes": int(np.abs(spikes).sum()),
        **_work([each.operations for each in simulated], steps),
    }


def _work(operations: Sequence[Tensor], steps: int) -> dict[str, Any]:
    """Accumulates at each step, of all samples together."""
    summed = torch.stack([zero_padded(each, steps) for each in operations]).sum(0)
    return {"accumulates": [int(each) for each in summed]}


def _charged(
    node: Mapping[str, Any], own: Mapping[str, Array], spikes: Array, potentials: Array
) -> tuple[Array, Array]:
    """Potentials before the reset, and what has been received at each step, of one sample."""
    begins = 0 if node["potential"] is None else own[node["potential"]]
    threshold = 1 if node["threshold"] is None else own[node["threshold"]]
    lowest, highest = node["count"]
    levels = np.arange(1, highest + 1) if node["levels"] is None else own[node["levels"]]
    totals = np.concatenate([[0], levels])
    counts = np.concatenate([np.zeros_like(spikes[:1]), np.cumsum(spikes, 0)]) - lowest
    reached = totals[counts] * threshold
    reset, begins = reached[1:] - reached[:-1], begins - reached[0]
    charged = potentials + reset
    before = np.concatenate([np.broadcast_to(begins, potentials[:1].shape), potentials[:-1]])
    return charged, charged - before


def _readout(found: Sequence[Sample], output: Mapping[str, Any], steps: int) -> tuple[Array, Array | None]:
    """The bits of the float32 logits after each step, and the sums that they are made of, where these are not rounded."""
    logits, totals = [], []
    for sample in found:
        over_time = last_repeated(sample.logits[output["name"]], steps)
        logits.append(over_time.float().contiguous().numpy().view(np.int32))
        if not output["is_rounded"]:
            running = sample.signals[output["name"]].running(steps)
            totals.append(units(running, output["exponent"], f"{output['name']}: sums"))
    return np.stack(logits), np.stack(totals) if totals else None
