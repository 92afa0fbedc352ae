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

An operation with populations of its own calls `run.fire(train, drive, threshold, dtype, potential)`, whose threshold is a
number, a tensor, or `LevelThresholds`: one for each level of a range of counts, which may be negative. With `numerics =
run.numerics`, `numerics.dtype(bound, exponent, name)` is a type that provably holds its sums. What two totals make
together is a running function of signals, of which `running_product` is one.

>>> from casc_core import CIF, AsTrained, LevelThresholds, WakeSleep
>>> from casc_core.extend import Signal, running_product
>>> from casc_core.engine.spiking_run import SpikingRun
>>> run = SpikingRun(AsTrained(), CIF(), WakeSleep(4, 4), steps=None)
>>> trains = torch.tensor([[1], [1]], dtype=torch.int8), torch.tensor([[-1], [1], [-1]], dtype=torch.int8)
>>> gate, value = (Signal(train, None, None, 1.0) for train in trains)
>>> running_product(run, gate, value, exponent=0, name="the gate").train[:, 0].tolist()  # adds up to 2 * -1
[-1, 1, -2]
>>> drive = torch.tensor([2.0, -2.0])
>>> thresholds = LevelThresholds(torch.tensor([-6.0, -2.0, 2.0, 6.0]), lowest=-2)  # levels -2..2
>>> run.fire(drive.new_zeros(0, 2), drive, thresholds, torch.float32).sum(0).tolist()  # of sums 8 and -8
[2, -2]
"""

from casc_core.activation import Observable, Quantised
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
from casc_core.conversion.grids import Form, Reach
from casc_core.conversion.passes import Reader
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import batch_norm, convolution, join, linear_map, neurons
from casc_core.conversion.snapping import grid_threshold, half_step
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
from casc_core.engine.running import running, running_product
from casc_core.engine.signal import Signal
from casc_core.export.integers.call import OperationCall
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Plain, Value
from casc_core.neuron import LevelThresholds
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
    "LevelThresholds",
    "LinearMap",
    "Node",
    "Numbers",
    "Observable",
    "OneOf",
    "Op",
    "OperationCall",
    "OrNone",
    "Otherwise",
    "PartsNode",
    "Plain",
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
    "Value",
    "Whole",
    "Work",
    "batch_norm",
    "convolution",
    "grid_threshold",
    "half_step",
    "integer_form",
    "join",
    "linear_map",
    "neurons",
    "running",
    "running_product",
    "settings",
    "stored",
    "tensors",
]
