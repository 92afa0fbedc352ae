"""Saving and loading a converted network: safetensors for its numbers, JSON for everything else, never pickle.

Nothing in the files is executed or trusted: operations, functions and types are found in closed tables, and everything
that is read is of the kind, range and shape that is declared for it, or refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from casc_core.activation import check_levels
from casc_core.conversion.adapter import adapter_named
from casc_core.conversion.convert import convert
from casc_core.engine.ops import Op
from casc_core.engine.program import Program, in_order_of_calls
from casc_core.engine.saved import program_from_json, program_to_json
from casc_core.errors import CascError, StorageError
from casc_core.neuron import NEURONS
from casc_core.numerics import Exact, Float
from casc_core.schedule import Continuous, WakeSleep
from casc_core.spiking_model import Settings, SpikingModel
from casc_core.storage.checksum import OPEN, is_whole, sealed
from casc_core.storage.files import has_file, read_bytes, whole_folder, write_whole
from casc_core.storage.strict import of, parsed, record, strings

FORMAT = "casc-network"
VERSION, UNSEALED = 2, 1
"""What is written; and what is still read: there the description has no checksum."""
DESCRIPTION, TENSORS = "network.json", "network.safetensors"
_CONFIGS: dict[str, dict[str, type]] = {
    "neuron": dict(NEURONS),
    "schedule": {kind.__name__: kind for kind in (WakeSleep, Continuous)},
    "numerics": {kind.__name__: kind for kind in (Exact, Float)},
}
# What reading a file that makes no sense may raise.
_SENSELESS = (
    SafetensorError, ArithmeticError, AssertionError, AttributeError, CascError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


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
    ops = snn.operations()
    tensors = tensors_to_bytes({name: tensor.contiguous().cpu() for name, tensor in _tensors(ops).items()})
    description = _description(snn.settings, snn.layers, ops, snn.programs)
    text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    with whole_folder(_path(folder), DESCRIPTION) as staging:
        write_whole(staging / TENSORS, tensors)
        write_whole(staging / DESCRIPTION, sealed(text.encode(), tensors))


def _path(folder: str | Path) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise StorageError(f"a network is kept in a folder, named by a string or a path; got {folder!r}")
    if "\0" in os.fspath(folder):
        raise StorageError(f"no folder can be named {folder!r}")
    return Path(folder)


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
    path = _path(folder)
    if not has_file(path / DESCRIPTION):
        raise StorageError(f"there is no network saved by casc in {path}: it holds no {DESCRIPTION}")
    text, tensors = read_bytes(path / DESCRIPTION), read_bytes(path / TENSORS)
    description = _read_description(path, text, tensors)
    try:
        adapter_named(description["settings"]["adapter"])  # brings in the family's operations
        snn = _rebuilt(description, tensors_from_bytes(tensors))
    except _SENSELESS as error:
        raise StorageError(
            f"{path / DESCRIPTION} does not describe a network: {type(error).__name__}: {' '.join(str(error).split()):.500}"
        ) from error
    if model is not None:
        _attach(snn, model, path)
    return snn


def _tensors(ops: Sequence[Op]) -> dict[str, Tensor]:
    return {f"{index}.{name}": tensor for index, op in enumerate(ops) for name, tensor in op.tensors().items()}


def _description(
    settings: Settings, layers: Sequence[str], ops: Sequence[Op], programs: Mapping[frozenset[str], Program]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": OPEN,
        "settings": {
            "adapter": settings.adapter,
            "q": settings.q,
            "arguments": list(settings.arguments),
            **{key: _config_to_json(getattr(settings, key)) for key in _CONFIGS},
        },
        "layers": list(layers),
        "ops": [{"kind": op.kind, "settings": op.settings, "tensors": sorted(op.tensors())} for op in ops],
        "programs": [program_to_json(program) for program in programs.values()],
    }


def _config_to_json(config: Any) -> dict[str, Any]:
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def _config_from_json(value: Any, what: str) -> Any:
    kinds = _CONFIGS[what]
    kind = kinds[of(str, of(dict, value, what).get("kind"), f"the kind of {what}")]
    fields = record(value, ("kind", *(field.name for field in dataclasses.fields(kind))), what)
    return kind(**{name: content for name, content in fields.items() if name != "kind"})


def _read_description(path: Path, text: bytes, tensors: bytes) -> dict[str, Any]:
    """What the description says, once both files are known to be undamaged.

    Raises:
        StorageError: they are not; or it is of another version, or not ours.
    """
    where = path / DESCRIPTION
    try:
        # Version 1 wrote infinities as JSON does not have them.
        description = parsed(text.decode(), finite=False)
    except ValueError as error:
        raise StorageError(f"{where} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StorageError(f"{where} was not written by casc: it does not say 'format': {FORMAT!r}")
    version = description.get("version")
    if version not in (VERSION, UNSEALED) or isinstance(version, (bool, float)):
        raise StorageError(f"{where} has version {version!r:.40}; this casc reads versions {UNSEALED} and {VERSION}")
    if version == UNSEALED:
        if hashlib.sha256(tensors).hexdigest() != description.get("sha256"):
            raise StorageError(
                f"{path / TENSORS} is damaged: its checksum is not the one in {DESCRIPTION}; save it again"
            )
    elif not is_whole(text, tensors):
        raise StorageError(
            f"{where} or {TENSORS} beside it is damaged: their checksum is not the one that they were saved with; save the "
            "network again"
        )
    return description


def _rebuilt(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> SpikingModel:
    whole = record(description, ("format", "version", "sha256", "settings", "layers", "ops", "programs"), "the network")
    settings = _settings(whole["settings"])
    older = whole["version"] == UNSEALED
    ops = [_operation(index, op, tensors, older) for index, op in enumerate(of(list, whole["ops"], "ops"))]
    if tensors:
        raise ValueError(f"tensors that no operation uses: {sorted(tensors)!r:.200}")
    if isinstance(settings.numerics, Exact):
        for op in ops:
            op.check_grids()
    layers = tuple(strings(whole["layers"], "layers"))
    unknown = {op.settings["name"] for op in ops if op.is_layer} - set(layers)
    if unknown:
        raise ValueError(f"populations that are not among its layers: {sorted(unknown)!r:.200}")
    programs: dict[frozenset[str], Program] = {}
    for item in of(list, whole["programs"], "programs"):
        program = program_from_json(item)
        program.check(ops)
        key = frozenset(program.inputs)
        if key in programs or not key or not key <= set(settings.arguments):
            raise ValueError(
                f"a program of the inputs {program.inputs!r:.200}: there is one, or the network has none such"
            )
        programs[key] = program
    if not programs:
        raise ValueError("it has no program")
    return SpikingModel(ops, programs, layers, settings)


def _settings(value: Any) -> Settings:
    stored = record(value, ("adapter", "q", "arguments", *_CONFIGS), "settings")
    q = of(int, stored["q"], "q")
    check_levels(q)
    settings = Settings(
        of(str, stored["adapter"], "adapter"),
        q,
        **{key: _config_from_json(stored[key], key) for key in _CONFIGS},
        arguments=tuple(strings(stored["arguments"], "arguments")),
    )
    of(int, settings.levels, "the number of levels")  # known, whatever the schedule
    return settings


def _operation(index: int, value: Any, tensors: dict[str, Tensor], older: bool) -> Op:
    """The operation of this number; its tensors are taken from `tensors`.

    `older`: settings that there were not yet may be missing, where the operation has a default.
    """
    what = f"operation {index}"
    fields = record(value, ("kind", "settings", "tensors"), what)
    name = of(str, fields["kind"], f"{what}: its kind")
    if name not in Op.kinds:
        raise ValueError(f"{what}: there is no operation {name!r:.80}; is the package of its adapter installed?")
    kind = Op.kinds[name]
    settings, there = (
        of(dict, fields["settings"], f"{what}: its settings"),
        strings(fields["tensors"], f"{what}: tensors"),
    )
    record(settings, set(kind.SETTINGS) & set(settings) if older else kind.SETTINGS, f"{what}, a {name}")
    unknown = set(there) - set(kind.TENSORS)
    if unknown:
        raise ValueError(f"{what}: a {name} has no tensors {sorted(unknown)!r:.200}")
    own = {each: tensors.pop(f"{index}.{each}") if each in there else None for each in kind.TENSORS}
    return kind(**settings, **own)  # type: ignore[arg-type]  # each kind checks what it is given


def _attach(snn: SpikingModel, model: nn.Module, path: Path) -> None:
    settings = snn.settings
    again = convert(
        model, settings.adapter, neuron=settings.neuron, schedule=settings.schedule, numerics=settings.numerics
    )
    for given in snn.programs:  # ways of calling it that were added after the conversion
        again.program_for(given)
    if not _are_alike(again, snn):
        raise StorageError(f"{path} was converted from another network than the {type(model).__name__} given as model")
    snn.origin = again.origin


def _are_alike(snn: SpikingModel, other: SpikingModel) -> bool:
    """Whether both call the same operations in the same order, but for what a file of the first version does not say."""
    descriptions, tensors = [], []
    for network in (snn, other):
        ops, programs = in_order_of_calls(network.operations(), network.programs)
        descriptions.append(_without_grids(_description(network.settings, network.layers, ops, programs)))
        tensors.append(_tensors(ops))
    own, others = tensors
    return descriptions[0] == descriptions[1] and all(torch.equal(own[name].cpu(), others[name].cpu()) for name in own)


def _without_grids(description: dict[str, Any]) -> dict[str, Any]:
    """Without what the first version did not say: the grids of what arrives at a map."""
    for op in description["ops"]:
        op["settings"] = {name: value for name, value in op["settings"].items() if name != "train_exponent"}
    return description
