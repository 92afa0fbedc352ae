"""Loading a saved network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from casc_core.conversion.adapter import Adapter, adapter_named
from casc_core.conversion.convert import convert
from casc_core.engine.saved import DESCRIPTION, are_saved_alike, folder_path, read
from casc_core.errors import ConfigError, StorageError
from casc_core.export.hub import is_repository, repository_folder
from casc_core.spiking_model import SpikingModel
from casc_core.storage.files import has_file


def load(
    folder: str | Path,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    *,
    revision: str | None = None,
) -> SpikingModel:
    """The network that `snn.save(folder)` wrote, or `snn.push_to_hub("user/name")`; it gives the same bits.

    No code of a folder or a repository is run, and of a repository the two files of a network are fetched alone.

    Args:
        folder: where it was saved; or, if there is no such folder, the name of a repository of the Hugging Face hub.
        model: the trained network it was converted from, if `verify` is to compare with it. It is checked to be that one.
        adapter: the `Adapter` that it was converted with; None: the installed one of that name.
        revision: of a repository: branch, tag or commit; None: the main branch.

    Raises:
        ConfigError: `adapter` is no `Adapter`; or a revision of a folder is asked for.
        StorageError: no such folder, not a network of ours, or a damaged one; its adapter is not installed, or is another
            one than that given; or `model` is another network; or the hub refuses, or does not answer.

    >>> import tempfile, torch, casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> snn, x = casc_core.convert(model), torch.randn(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snn.save(f"{folder}/network")
    ...     torch.equal(casc_core.load(f"{folder}/network")(x), snn(x))
    True
    """
    if adapter is not None and not isinstance(adapter, Adapter):
        raise ConfigError(f"adapter must be an Adapter, or None for the installed one; got {adapter!r}")
    snn = SpikingModel(read(_found(folder, revision), partial(_require_adapter, folder, adapter)))
    return snn if model is None else _attached(snn, model, adapter, folder)


def _found(folder: str | Path, revision: str | None) -> Path:
    """A folder of this name, or else that of a repository."""
    path = folder_path(folder)
    is_local = has_file(path / DESCRIPTION) or path.exists()
    if is_local or not isinstance(folder, str) or not is_repository(folder):
        if revision is not None:
            raise ConfigError(f"revisions are of repositories of the hub, user/name; {folder} is a folder")
        return path
    return repository_folder(folder, revision)


def _require_adapter(folder: str | Path, adapter: Adapter | None, name: str) -> None:
    """That of the network in `folder`, given or imported: its package registers its operations."""
    if adapter is not None:
        if adapter.name != name:
            raise StorageError(f"{folder} was converted with the adapter {name!r}; got that of {adapter.name!r}")
        return
    try:
        adapter_named(name)
    except ConfigError as error:
        raise StorageError(f"the network in {folder} needs the adapter that it was converted with: {error}") from error


def _attached(snn: SpikingModel, model: nn.Module, adapter: Adapter | None, folder: str | Path) -> SpikingModel:
    """The network of this model; what it returns is of the model's own classes."""
    settings = snn.settings
    again = convert(
        model,
        adapter or settings.adapter,
        neuron=settings.neuron,
        schedule=settings.schedule,
        numerics=settings.numerics,
    )
    for given in snn.programs:  # ways of calling it that were added after the conversion
        again.program_for(given)
    if not are_saved_alike(again.network, snn.network):
        raise StorageError(
            f"{folder} was converted from another network than the {type(model).__name__} given as model, or by a version "
            "of casc that lowers it otherwise: load it without, or convert the model again"
        )
    programs = {
        given: replace(program, structure=again.programs[given].structure) for given, program in snn.programs.items()
    }
    attached = SpikingModel(snn.network._replace(programs=programs))
    attached.origin = again.origin
    return attached
