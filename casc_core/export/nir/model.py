"""Writing a network as a NIR graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from casc_core.engine.guards.isolation import undisturbed
from casc_core.engine.leaves import leaves
from casc_core.engine.level_run import LevelRun
from casc_core.engine.network import Network
from casc_core.engine.program import Program, Readout
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.signal import Signal
from casc_core.errors import ConversionError
from casc_core.export.nir.graph import RULES, Graph, Source
from casc_core.export.nir.operations import first_layer
from casc_core.export.walk import Call, walking
from casc_core.neuron import IF
from casc_core.reporting.summaries import Summarised
from casc_core.schedule import Continuous
from casc_core.storage.files import write_whole

OUTPUT = "output"
_NEURON = "NIR's neurons have no negative spike and no count of their spikes"
_SCHEDULE = "a NIR graph gets the same input at every step, and has no step without biases"


@dataclass(frozen=True, repr=False)
class WrittenNir(Summarised):
    """What belongs to a NIR graph that has been written.

    Attributes:
        current: `[batch, *shape]` float64, the current of the first layer for the given inputs: what the graph is given at
            each step.
        scale: the logits after T steps are the sum of what the graph has given, times this, over T.
        neurons: the name of each layer's node in the graph.
    """

    current: Tensor
    scale: float
    neurons: Mapping[str, str]


def write_nir(file: str | Path, network: Network, program: Program, inputs: Mapping[str, Tensor]) -> WrittenNir:
    """Write a network to a file, whole or not at all.

    Args:
        inputs: of the network, by name; no number of them is in the file.

    Raises:
        ConfigError: the package nir is not installed.
        ConversionError: NIR cannot say what the network does; the message names it, and why.
        StorageError: the file cannot be written.
    """
    numerics = network.settings.numerics
    graph, output = Graph(numerics), _readout_of(network, program)
    values: dict[str, Any] = dict(inputs)
    recorder = Recorder(watch=walking(values, partial(_written, graph)))
    run = LevelRun(numerics, network.settings.levels, recorder)
    undisturbed(lambda: program.run(network.ops, run, inputs, lambda readout, value: value))
    source = values[output.ref.name]
    if not isinstance(source, Source) or graph.current is None:
        raise ConversionError("a network without a spiking layer cannot be written as NIR")
    graph.flow(network.ops[program.steps[-1].op], source.signal.drive, source)
    graph.add(OUTPUT, graph.nir.Output(output_type={"output": np.array(source.shape[1:])}), source.nodes)
    write_whole(Path(file), graph.content())
    return WrittenNir(graph.current, output.scale / source.divisor, graph.neurons)


def _readout_of(network: Network, program: Program) -> Readout:
    """The output of a network that NIR may be able to say.

    Raises:
        ConversionError: it has others, or other neurons, or another schedule.
    """
    settings, wrong = network.settings, None
    if type(settings.neuron) is not IF or settings.neuron.initial_potential:
        wrong = _NEURON
    elif not isinstance(settings.schedule, Continuous):
        wrong = _SCHEDULE
    if wrong is not None:
        raise ConversionError(
            f"{settings.neuron} under {settings.schedule} cannot be written as NIR: {wrong}. It can be under "
            "casc_core.IF() and casc_core.Continuous(), which are not exact: snn.under(...)"
        )
    (output,) = program.outputs if len(program.outputs) == 1 else (None,)
    if not isinstance(output, Readout):
        raise ConversionError("a network of several outputs cannot be written as NIR: a graph of one is")
    return output


def _written(graph: Graph, call: Call, *args: Any, **kwargs: Any) -> Any:
    """What a call of an operation gives: a source, where it comes of spikes; else what it is in the run."""
    read = leaves((args, kwargs))
    if not any(isinstance(leaf, Source) for leaf in read):
        return first_layer(graph, call) if call.op.is_layer else call.result
    if any(isinstance(leaf, Signal) for leaf in read):
        raise RULES.refused(call.op, "real-valued input meets spikes behind the first layer")
    return RULES.rule_of(call.op)(graph, call, *args, **kwargs)
