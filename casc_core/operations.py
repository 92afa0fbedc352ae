"""What operations with loops of their own, such as recurrent layers, need beside `casc_core.extend`. It is public.

A recurrent operation reads its input current as `TableRows` or as a drive and a train, multiplies the spikes of a
position by a `Product`, and fires the neurons of the next. A compiled kernel of `kernels` does all of that in one call.

>>> import torch
>>> from casc_core.operations import add_trains, by_step, running_total
>>> first, second = torch.tensor([[1], [0]], dtype=torch.int8), torch.tensor([[1], [1], [-1]], dtype=torch.int8)
>>> add_trains(first, second)[:, 0].tolist()
[2, 1, -1]
>>> running_total(second, 4)[:, 0].tolist()
[1.0, 2.0, 1.0, 1.0]
>>> by_step(torch.tensor([[1, 1], [0, 1]])).tolist()
[2.0, 1.0]
"""

from casc_core.engine import kernels
from casc_core.engine.batching.places import Axis, Samples
from casc_core.engine.batching.samples import Train, meta
from casc_core.engine.functions import name_of
from casc_core.engine.ops import Layout, Pick, entries
from casc_core.engine.products.exact_sums import exact_product, largest_row, weight_limbs
from casc_core.engine.products.spike_product import Product
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.spike_counts import LayerTrain, by_step
from casc_core.engine.run import LARGEST_TOTAL
from casc_core.engine.signal import TableRows, add_trains, running_total

__all__ = [
    "LARGEST_TOTAL",
    "Axis",
    "LayerTrain",
    "Layout",
    "Pick",
    "Product",
    "Recorder",
    "Samples",
    "TableRows",
    "Train",
    "WeightCache",
    "add_trains",
    "by_step",
    "entries",
    "exact_product",
    "kernels",
    "largest_row",
    "meta",
    "name_of",
    "running_total",
    "weight_limbs",
]
