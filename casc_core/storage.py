"""Saving and loading a converted network: safetensors for its numbers, JSON for everything else, never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from casc_core.adapters import adapter_named
from casc_core.convert import convert
from casc_core.errors import CascError, StorageError
from casc_core.files import read_whole, whole_folder, write_whole
from casc_core.neuron import NEURONS
from casc_core.numerics import Exact, Float
from casc_core.ops import Op
from casc_core.program import Program, program_from_json, program_to_json
from casc_core.schedule import Continuous, WakeSleep
from casc_core.spiking_model import Settings, SpikingModel

FORMAT = "casc-network"
VERSION = 1
DESCRIPTION, TENSORS = "network.json", "network.safetensors"
_CONFIGS = {kind.__name__: kind for kind in (WakeSleep, Continuous, Exact, Float, *NEURONS.values())}


def save(snn: SpikingModel, folder: str | Path) -> None:
    """Write `snn` to `folder`, whole or not at all; an earlier network there is replaced.

    Raises:
        StorageError: the folder cannot be written, or holds something that is not a saved network; or the network's
            neuron is none of ours, so that a loader could not find it.
    """
    if type(snn.settings.neuron) not in NEURONS.values():
        raise StorageError(
            f"cannot save a network of {snn.settings.neuron}: only {', '.join(NEURONS)} can be loaded again"
        )
    tensors = tensors_to_bytes({name: tensor.contiguous().cpu() for name, tensor in _tensors(snn).items()})
    description = _description(snn)
    description["sha256"] = hashlib.sha256(tensors).hexdigest()
    with whole_folder(Path(folder), DESCRIPTION) as staging:
        write_whole(staging / TENSORS, tensors)
        write_whole(staging / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def load(folder: str | Path, model: nn.Module | None = None) -> SpikingModel:
    """The network that `snn.save(folder)` wrote; it gives the same bits.

    Args:
        folder: where it was saved.
        model: the trained network it was converted from, if `verify` is to compare with it. It is checked to be that one.

    Raises:
        StorageError: no such folder, not a network of ours, or a damaged one; or `model` is another network.

    >>> import tempfile, casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> snn, x = casc_core.convert(model, adapter="rnn"), torch.randn(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snn.save(f"{folder}/network")
    ...     torch.equal(casc_core.load(f"{folder}/network")(x), snn(x))
    True
    """
    path = Path(folder)
    description = _read_description(path / DESCRIPTION)
    try:
        data = (path / TENSORS).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path / TENSORS}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise StorageError(f"{path / TENSORS} is damaged: its checksum is not the one in {DESCRIPTION}; save it again")
    try:
        adapter_named(description["settings"]["adapter"])  # brings in the family's operations
        snn = _rebuilt(description, tensors_from_bytes(data))
    except (CascError, SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StorageError(
            f"{path / DESCRIPTION} does not describe a network: {type(error).__name__}: {error}"
        ) from error
    if model is not None:
        _attach(snn, model, path)
    return snn


def _tensors(snn: SpikingModel) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": tensor for index, op in enumerate(snn.operations()) for name, tensor in op.tensors().items()
    }


def _description(snn: SpikingModel) -> dict[str, Any]:
    settings = snn.settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": {
            "adapter": settings.adapter,
            "q": settings.q,
            "arguments": list(settings.arguments),
            **{key: _config_to_json(getattr(settings, key)) for key in ("neuron", "schedule", "numerics")},
        },
        "layers": list(snn.layers),
        "ops": [
            {"kind": type(op).__name__, "settings": op.settings, "tensors": sorted(op.tensors())}
            for op in snn.operations()
        ],
        "programs": [program_to_json(program) for program in snn.programs.values()],
    }


def _config_to_json(config: Any) -> dict[str, Any]:
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def _config_from_json(value: dict[str, Any]) -> Any:
    fields = dict(value)
    return _CONFIGS[fields.pop("kind")](**fields)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StorageError(f"there is no network saved by casc in {path.parent}: it holds no {path.name}")
    text = read_whole(path)
    try:
        description = json.loads(text)
    except json.JSONDecodeError as error:
        raise StorageError(f"{path} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StorageError(f"{path} was not written by casc: it does not say 'format': {FORMAT!r}")
    if description.get("version") != VERSION:
        raise StorageError(f"{path} has version {description.get('version')!r}; this casc reads version {VERSION}")
    return description


def _rebuilt(description: dict[str, Any], tensors: dict[str, Tensor]) -> SpikingModel:
    ops = []
    for index, op in enumerate(description["ops"]):
        own = {name: tensors.pop(f"{index}.{name}") for name in op["tensors"]}
        missing: dict[str, None] = {name: None for name in Op.tensor_names(op["kind"]) if name not in own}
        kind: Callable[..., Op] = Op.kinds[op["kind"]]
        ops.append(kind(**op["settings"], **own, **missing))
    if tensors:
        raise ValueError(f"tensors that no operation uses: {sorted(tensors)}")
    stored = description["settings"]
    settings = Settings(
        str(stored["adapter"]),
        int(stored["q"]),
        _config_from_json(stored["neuron"]),
        _config_from_json(stored["schedule"]),
        _config_from_json(stored["numerics"]),
        tuple(stored["arguments"]),
    )
    programs: dict[frozenset[str], Program] = {}
    for item in description["programs"]:
        program = program_from_json(item)
        program.check(len(ops))
        programs[frozenset(program.inputs)] = program
    return SpikingModel(ops, programs, tuple(description["layers"]), settings)


def _attach(snn: SpikingModel, model: nn.Module, path: Path) -> None:
    settings = snn.settings
    again = convert(
        model, settings.adapter, neuron=settings.neuron, schedule=settings.schedule, numerics=settings.numerics
    )
    for given in snn.programs:  # ways of calling it that were added after the conversion
        again.program_for(given)
    same = _description(again) == _description(snn)
    for name, tensor in _tensors(again).items() if same else ():
        same = same and torch.equal(tensor.cpu(), _tensors(snn)[name].cpu())
    if not same:
        raise StorageError(f"{path} was converted from another network than the {type(model).__name__} given as model")
    snn.origin = again.origin
