"""What adapters need: rules, nodes, grids and operations of your own. It is public: names stay, or are deprecated first.

>>> from torch import nn
>>> import torch, casc_core
>>> from casc_core import Adapter
>>> from casc_core.extend import Reader, RuleTable, SignalNode, linear_map
>>> class Doubled(nn.Linear):
...     def forward(self, x):
...         return 2 * super().forward(x)
>>> rules = RuleTable()
>>> @rules.module(Doubled)
... def doubled(reader: Reader, module: Doubled, x: SignalNode) -> SignalNode:
...     return linear_map(reader, reader.signal(x), 2 * module.weight, 2 * module.bias, reader.name)
>>> model = nn.Sequential(Doubled(4, 8), nn.ReLU(), nn.Linear(8, 2))
>>> adapter = Adapter("doubled", lambda model: isinstance(model[0], Doubled), rules=rules)
>>> snn = casc_core.convert(casc_core.prepare(model, adapter, q=4), adapter)
>>> casc_core.verify(snn, torch.randn(5, 4)).exact
True
"""

from casc_core.activation import Quantised
from casc_core.conversion.graph import (
    Folding,
    InputNode,
    LinearMap,
    Node,
    PartsNode,
    PopulationNode,
    SignalNode,
    Snapped,
    Snapping,
    TableLookup,
)
from casc_core.conversion.grids import Form, Reach, grid_threshold, half_step
from casc_core.conversion.passes import Reader
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import batch_norm, convolution, join, linear_map, neurons
from casc_core.engine.batching.samples import Abstract, Follower
from casc_core.engine.ops import Op
from casc_core.engine.ops.declared import (
    EXPONENT,
    Flag,
    Kind,
    Numbers,
    OneOf,
    OrNone,
    Otherwise,
    Positive,
    Several,
    Text,
    Whole,
    settings,
    tensors,
)
from casc_core.engine.recording.provenance import Connection, Provenance
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal
from casc_core.numerics import stored

__all__ = [
    "EXPONENT",
    "Abstract",
    "Connection",
    "Flag",
    "Folding",
    "Follower",
    "Form",
    "InputNode",
    "Kind",
    "LinearMap",
    "Node",
    "Numbers",
    "OneOf",
    "Op",
    "OrNone",
    "Otherwise",
    "PartsNode",
    "PopulationNode",
    "Positive",
    "Provenance",
    "Quantised",
    "Reach",
    "Reader",
    "RuleTable",
    "Run",
    "Several",
    "Signal",
    "SignalNode",
    "Snapped",
    "Snapping",
    "TableLookup",
    "Text",
    "Whole",
    "Work",
    "batch_norm",
    "convolution",
    "grid_threshold",
    "half_step",
    "join",
    "linear_map",
    "neurons",
    "settings",
    "stored",
    "tensors",
]
