"""Populations of neurons as nodes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.neuron_loop import Threshold
from casc_core.engine.ops.population import Fire
from casc_core.engine.signal import TableRows, without_repeats
from casc_core.engine.spiking_run import SpikingRun
from casc_core.export.integers.call import OperationCall
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Value
from casc_core.export.integers.numbers import bits_of, magnitude_units, units
from casc_core.neuron import LevelThresholds
from casc_core.numerics import largest


def neuron_fields(
    call: OperationCall,
    name: str,
    exponent: int,
    threshold: Threshold,
    potential: Tensor | None,
    of_inputs: bool = False,
) -> dict[str, Any]:
    """What a population's node says of its neurons, but for bit widths and the layer's name.

    Args:
        name: of their tensors. exponent: of the unit of their potential.
        of_inputs: whether the inputs decide by what a threshold and a potential are multiplied.
    """

    def kept(what: str, x: Any, unit: int = exponent) -> str:
        numbers = units(without_repeats(torch.as_tensor(x, dtype=torch.float64)), unit, f"{name}: {what}")
        return call.graph.kept(f"{name}.{what}", numbers, of_inputs)

    fields: dict[str, Any] = {"rule": type(call.run.neuron).__name__, "unit": exponent}
    if isinstance(threshold, LevelThresholds):
        scaled = isinstance(threshold.scale, Tensor) or threshold.scale != 1.0
        fields |= {
            "threshold": kept("threshold", threshold.scale, 0) if scaled else None,
            "levels": call.graph.constant(f"{name}.levels", units(threshold.values, exponent, f"{name}: levels")),
            "count": [threshold.lowest, threshold.highest],
        }
    else:
        fields |= {"threshold": kept("threshold", threshold), "levels": None, "count": [0, call.run.total]}
    return fields | {"potential": None if potential is None else kept("potential", potential)}


def potential_bits(
    run: SpikingRun, received: float, threshold: Threshold, potential: Tensor | None, exponent: int
) -> int:
    """Bits that are proven to hold a potential: what can be received in a run, in units, less what spikes take off."""
    if isinstance(threshold, LevelThresholds):
        reset = magnitude_units(2 * largest(threshold.values) * float(torch.as_tensor(threshold.scale).max()), exponent)
    else:
        reset = run.total * magnitude_units(threshold, exponent)
    return bits_of(math.ceil(received + reset + magnitude_units(potential, exponent)))


@integer_form.register
def _fire(op: Fire, call: OperationCall, value: Value) -> Value:
    received, exponent, run = op.received(call.run, call.args[0]), op.settings["exponent"], call.run
    signal, name = received.signal, op.settings["name"]
    reads = Value(value.node, value.exponent, signal, value.of_inputs)
    origin = {} if op.bias is not None else made(call, value, exponent, received.most)
    arriving = call.driven(reads, exponent, **origin) or call.drive(torch.zeros(signal.shape), exponent, False)
    drive = magnitude_units(signal.drive, exponent)
    reach = magnitude_units(run.total * signal.bound, exponent) + drive * call.graph.wake_steps
    bits = {
        "sum": bits_of(math.ceil(magnitude_units(run.peak * signal.bound, exponent) + drive)),
        "potential": potential_bits(run, reach, received.threshold, received.potential, exponent),
    }
    of_inputs = value.of_inputs and signal.divisor is not None
    fields = neuron_fields(call, name, exponent, received.threshold, received.potential, of_inputs)
    node, _ = call.node("population", [arriving[0]], 0, layer=name, shift=arriving[1] - exponent, **fields)
    call.graph.bits[node] = bits
    return Value(node, 0, call.result)


def made(call: OperationCall, value: Value, exponent: int, most: float | None) -> dict[str, Any]:
    """Fields of a drive's node that say how a drive on the grid `2**exponent` is made of inputs; none: it is not known."""
    drive, graph = value.signal.lazy_drive, call.graph
    if isinstance(drive, TableRows):
        table = drive.table
        name, unit = graph.tensor(call.op, "table", lambda: call.run.numerics.snap(table, exponent))
        index = graph.kept(f"{call.name}.rows", units(drive.index, 0, f"{call.name}: rows"), True)
        return {"made": {"kind": "table", "table": name, "exponent": unit, "input": index}}
    if value.origin is None or "weight" not in value.origin:
        return {}
    return {"made": {**value.origin, "limit": None if most is None else round(math.ldexp(most, -exponent))}}
