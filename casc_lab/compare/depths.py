"""How deep each layer lies: which layers follow one another, and which lie side by side."""

from __future__ import annotations

from collections.abc import Mapping

from casc_core.engine.program import refs
from casc_core.spiking_model import SpikingModel


def layer_depths(snn: SpikingModel) -> dict[str, int]:
    """By layer, from 1: the most layers that its spikes have come through, itself among them.

    Both directions of a recurrent layer lie side by side, and so do the branches of a block.

    >>> import casc_core
    >>> from torch import nn
    >>> layers = nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 6), casc_core.CQReLU(q=2), nn.Linear(6, 2)
    >>> layer_depths(casc_core.convert(nn.Sequential(*layers)))
    {'1': 1, '3': 2}
    """
    depths: dict[str, int] = {}
    operations = snn.operations()
    for program in snn.programs.values():
        behind: dict[str, int] = {}
        for step in program.steps:
            read = refs((step.args, dict(step.kwargs)))
            behind[step.result] = max((behind.get(name, 0) for name in read), default=0)
            op = operations[step.op]
            if op.is_layer:
                behind[step.result] += 1
                name = op.settings["name"]
                depths[name] = max(depths.get(name, 0), behind[step.result])
    return {name: depths[name] for name in snn.layers}


def by_depth(depths: Mapping[str, int]) -> list[list[str]]:
    """The layers of each depth, the shallowest first.

    >>> by_depth({"a": 1, "b": 1, "c": 3})
    [['a', 'b'], ['c']]
    """
    return [[name for name, depth in depths.items() if depth == each] for each in sorted(set(depths.values()))]
