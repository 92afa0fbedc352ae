"""Conversion: a trained network with CQReLU activations becomes a spiking network that gives the same answer."""

from __future__ import annotations

import copy
import warnings

from torch import nn

from casc_core.conversion.adapter import Adapter, choose_adapter
from casc_core.conversion.origin import lowered
from casc_core.conversion.prepare import levels_of, require_module, require_prepared
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.conversion.wrappers import bare
from casc_core.engine.network import Settings, resolved_schedule
from casc_core.errors import ConfigError
from casc_core.neuron import CIF, Neuron
from casc_core.numerics import Numerics, as_numerics
from casc_core.schedule import Schedule, WakeSleep
from casc_core.spiking_model import SpikingModel


def convert(
    model: nn.Module,
    adapter: str | Adapter | None = None,
    *,
    q: int | None = None,
    neuron: Neuron | None = None,
    schedule: Schedule | None = None,
    numerics: Numerics | str = "as trained",
) -> SpikingModel:
    """The spiking network of `model`; under CIF and WakeSleep it equals its quantised ANN bit for bit.

    The model's forward is traced, each operation is lowered by its rule, and each path from neuron to neuron becomes a
    linear map whose weights are snapped to a power-of-two grid on which no sum is ever rounded: the finest one there is, so
    that the answer is that of the network as trained. `model` is left alone. Of a
    model that `torch.compile`, `DataParallel`, `DistributedDataParallel` or `AveragedModel` wraps, what is inside is taken.
    Where the forward has optional arguments, each way of calling it is lowered: those that can be at once, or when it is
    first asked for.

    Args:
        model: a module with CQReLU activations (see `prepare`). An unprepared one is prepared first, with a warning.
        adapter: a name such as "rnn", an `Adapter`, or None to pick by the model's modules.
        q: levels, for an unprepared model only.
        neuron: `CIF()` (default) or `IF()`, the baseline's.
        schedule: `WakeSleep()` (default: q wake steps) or `Continuous()`, the baseline's.
        numerics: "as trained" (`AsTrained()`): inputs unrounded, weights on the finest grids on which every sum is provably
            exact; or "exact" (16-bit weights) or `Exact(weight_bits=...)`, coarser, for hardware and for speed: `verify`
            says what that moved.

    Raises:
        ConversionError: an operation cannot be converted exactly, or the forward cannot be traced; the message names
            the module, the line and the remedy.
        ConfigError: an argument out of range, or an unprepared model without `q`.

    >>> import torch
    >>> from casc_core import prepare
    >>> ann = prepare(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), q=4)
    >>> snn = convert(ann)
    >>> x = torch.randn(3, 4)
    >>> torch.equal(snn(x), snn.reference(x))
    True
    """
    require_module(model, "convert takes the trained")
    model = bare(model)
    chosen = choose_adapter(model, adapter)
    settled = as_numerics(numerics)
    ann, was_prepared = require_prepared(model, chosen, q)
    if not was_prepared:
        warnings.warn(
            f"{type(model).__name__} was not trained with CQReLU activations: it has been prepared with q={q}, and its "
            "answers will differ from the original's: casc_core.verify says by how much. Call casc_core.prepare(model, "
            "q=...), train, then convert",
            stacklevel=2,
        )
    trained = levels_of(ann)
    assert trained is not None
    resolved = resolved_schedule(WakeSleep() if schedule is None else schedule, trained)
    if neuron is not None and not isinstance(neuron, Neuron):
        raise ConfigError(f"neuron must be CIF(), IF() or another Neuron, an instance; got {neuron!r}")
    ann = ann.eval()
    settings = Settings(chosen.name, trained, neuron or CIF(), resolved, settled, arguments_of(ann))
    return lowered(ann, chosen, settings, None if was_prepared else copy.deepcopy(model).eval())
