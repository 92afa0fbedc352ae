"""A NIR graph as it is written: nodes, edges, and what flows into it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.ops import Op
from casc_core.engine.signal import Signal
from casc_core.errors import ConfigError
from casc_core.export.rules import Rules
from casc_core.numerics import Numerics

RULES = Rules("NIR", "NIR has no such operation")
"""Each is called as `rule(graph, call, *args, **kwargs)`; each signal that comes of spikes is a `Source`, as is what it
gives."""
writes = RULES.writes


@dataclass(frozen=True)
class Source:
    """What comes of spikes: the sum of what some nodes of the graph give, over a divisor.

    Attributes:
        signal: as it is in the run beside which the graph is written.
    """

    nodes: tuple[str, ...]
    divisor: float
    signal: Signal

    @property
    def shape(self) -> torch.Size:
        return self.signal.shape


class Graph:
    """A graph that grows node by node.

    Attributes:
        nir: the package.
        current: of the first layer; None: there is none yet.
        neurons: the name of each layer's node.
    """

    def __init__(self, numerics: Numerics) -> None:
        self.nir, self.numerics = _nir(), numerics
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.neurons: dict[str, str] = {}
        self.current: Tensor | None = None
        self._biased: dict[str, Tensor] = {}

    def add(self, name: str, node: Any, sources: Sequence[str]) -> str:
        """The name of a new node that reads these."""
        plain = re.sub(r"\W", "_", name)
        plain = plain if plain.isidentifier() else f"layer_{plain}"
        count, unique = 1, plain
        while unique in self.nodes:
            count += 1
            unique = f"{plain}_{count}"
        self.nodes[unique] = node
        self.edges += [(each, unique) for each in sources]
        return unique

    def flow(self, op: Op, drive: Tensor | None, source: Source) -> None:
        """Let this flow at each step, `[batch, *shape]`: as the biases of a map among the nodes.

        Raises:
            ConversionError: there is no such map; the message names `op`.
        """
        if drive is None or not drive.any():
            return
        one = drive[0]
        by_channel = one.flatten(1)[:, 0] if one.dim() > 1 else one
        uniform = bool((one == by_channel.reshape([-1, *[1] * (one.dim() - 1)])).all())
        node = next((each for each in source.nodes if hasattr(self.nodes[each], "bias")), None)
        if node is None or not uniform or not torch.equal(self._biased.setdefault(node, by_channel), by_channel):
            raise RULES.refused(op, "its biases are not those of one linear map just before it")
        self.nodes[node].bias = by_channel.double().cpu().numpy().copy()

    def content(self) -> bytes:
        """The bytes of a file of it."""
        graph = self.nir.NIRGraph(nodes=self.nodes, edges=self.edges, type_check=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.nir"
            self.nir.write(path, graph)
            return path.read_bytes()


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ConfigError('NIR graphs are written with the package nir: pip install "casc[nir]"') from error
    return nir
