"""Does a trace, which is what is lowered, do what the forward does?

A forward that goes another way while it is traced leaves out a branch, and the trace would be compared with nothing: a
prepared copy whose activations were calls of functions is made of a trace itself. So the forward runs beside its trace, in
its own types, on the inputs themselves: once for each way of calling it and each type, device and rank of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from casc_core.conversion.functional_activations import source_of
from casc_core.conversion.origin import TrainedOrigin, traced_again
from casc_core.conversion.tracing.trace import argument_name, way
from casc_core.engine.program import READOUT
from casc_core.engine.signal import without_repeats
from casc_core.evidence.ann_evaluation import evaluating, in_own_types, readouts_of
from casc_core.evidence.lowering_report import LayerLowering
from casc_core.evidence.own_forward import disagreement
from casc_core.spiking_model import SpikingModel

AS_TRACED = f"{READOUT} of the forward as traced"
"""What a trace that does not do what the forward does is called among layers."""


@torch.no_grad()
def traced_otherwise(snn: SpikingModel, named: Mapping[str, Any]) -> LayerLowering | None:
    """Where a trace of the network that was converted does not do what its forward does; None: nowhere."""
    origin = snn.origin
    assert isinstance(origin, TrainedOrigin)
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    called = tuple((name, value.dtype, value.device, value.dim()) for name, value in sorted(tensors.items()))
    if called in origin.traced:
        known: LayerLowering | None = origin.traced[called]
        return known
    found = origin.traced[called] = _compared(snn, origin, named)
    return found


def _compared(snn: SpikingModel, origin: TrainedOrigin, named: Mapping[str, Any]) -> LayerLowering | None:
    source = source_of(origin.ann)
    if source is None:
        if isinstance(origin.ann, fx.GraphModule):  # its forward is a trace
            return None
        source = origin.ann
    network, given = in_own_types(source, named)
    traced, again = in_own_types(source, named)
    returned = snn.program_for(frozenset(named)).returned
    with evaluating(network):
        own = readouts_of(returned, network(**given))
    graph, held = traced_again(traced, origin, frozenset(named)), way(traced, frozenset(named))
    values = held | again
    places = [argument_name(str(node.target), values) for node in graph.nodes if node.op == "placeholder"]
    found = readouts_of(returned, _Values(traced, graph=graph).run(*(values.get(place) for place in places)))
    return disagreement(AS_TRACED, own, found)


class _Values(fx.Interpreter):
    """Runs a trace as it is lowered: an operation gives a value of its own and leaves those that it reads as they were."""

    def run_node(self, n: fx.Node) -> Any:
        read = [self.env[each] for each in n.all_input_nodes if isinstance(self.env[each], Tensor)]
        before = [each.clone() for each in read]
        result = super().run_node(n)
        if any(map(_differ, read, before)):
            result = fx.node.map_aggregate(result, _copied)
        for each, was in zip(read, before, strict=True):
            if _differ(each, was):
                own = without_repeats(each)
                own.copy_(was[tuple(map(slice, own.shape))])
        return result


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold other numbers; NaN is any."""
    if one.is_floating_point():
        one, other = one.nan_to_num(), other.nan_to_num()
    return not torch.equal(one, other)


def _copied(value: Any) -> Any:
    """A tensor of its own that lies in memory as this one does, so that it is computed with alike."""
    if not isinstance(value, Tensor):
        return value
    if without_repeats(value).shape != value.shape:
        return value.clone()
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(value)
