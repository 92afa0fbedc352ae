"""Loading a saved network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from casc_core.conversion.adapter import adapter_named
from casc_core.conversion.convert import convert
from casc_core.engine.saved import are_saved_alike, read
from casc_core.errors import ConfigError, StorageError
from casc_core.spiking_model import SpikingModel


def load(folder: str | Path, model: nn.Module | None = None) -> SpikingModel:
    """The network that `snn.save(folder)` wrote; it gives the same bits.

    Args:
        folder: where it was saved.
        model: the trained network it was converted from, if `verify` is to compare with it. It is checked to be that one.

    Raises:
        StorageError: no such folder, not a network of ours, or a damaged one; its adapter is not installed; or `model` is
            another network.

    >>> import tempfile, torch, casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> snn, x = casc_core.convert(model), torch.randn(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snn.save(f"{folder}/network")
    ...     torch.equal(casc_core.load(f"{folder}/network")(x), snn(x))
    True
    """
    snn = SpikingModel(read(folder, partial(_import_adapter, folder)))
    return snn if model is None else _attached(snn, model, folder)


def _import_adapter(folder: str | Path, name: str) -> None:
    """Import the adapter of the network in `folder`: its package registers its operations."""
    try:
        adapter_named(name)
    except ConfigError as error:
        raise StorageError(f"the network in {folder} needs the adapter that it was converted with: {error}") from error


def _attached(snn: SpikingModel, model: nn.Module, folder: str | Path) -> SpikingModel:
    """The network of this model; what it returns is of the model's own classes."""
    settings = snn.settings
    again = convert(
        model, settings.adapter, neuron=settings.neuron, schedule=settings.schedule, numerics=settings.numerics
    )
    for given in snn.programs:  # ways of calling it that were added after the conversion
        again.program_for(given)
    if not are_saved_alike(again.network, snn.network):
        raise StorageError(
            f"{folder} was converted from another network than the {type(model).__name__} given as model"
        )
    programs = {
        given: replace(program, structure=again.programs[given].structure) for given, program in snn.programs.items()
    }
    attached = SpikingModel(snn.network._replace(programs=programs))
    attached.origin = again.origin
    return attached
