"""The files of a saved network: safetensors for its numbers, JSON for everything else, never pickle.

Nothing in the files is executed or trusted: operations, functions and types are found in closed tables, and everything
that is read is of the kind, range and shape that is declared for it, or refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from casc_core.activation import check_levels
from casc_core.engine.network import Network, Settings
from casc_core.engine.ops import Op
from casc_core.engine.program import Program
from casc_core.engine.program_json import program_from_json, program_to_json
from casc_core.errors import CascError, StorageError
from casc_core.neuron import Neuron
from casc_core.numerics import AsTrained, Exact
from casc_core.schedule import Continuous, WakeSleep
from casc_core.storage.checksum import BLANK, is_whole, sha256, with_checksum
from casc_core.storage.files import has_file, read_bytes, whole_folder, write_whole
from casc_core.storage.kinds import Kinds
from casc_core.storage.strict import of, parsed, record, strings

FORMAT = "casc-network"
VERSION, SEVERAL, READ = 3, 4, (1, 2, 3, 4)
"""What is written, of a network with several outputs too; and what is read. Before 3 no inputs were left unrounded."""
WITHOUT_CHECKSUM = 1
"""The version whose description has no checksum."""
DESCRIPTION, TENSORS = "network.json", "network.safetensors"
_CONFIGS: dict[str, Kinds[Any]] = {
    "neuron": Neuron.kinds,
    "schedule": Kinds("schedule", WakeSleep, Continuous),
    "numerics": Kinds("arithmetic", AsTrained, Exact),
}
# What reading a file that makes no sense may raise.
_SENSELESS = (
    SafetensorError, ArithmeticError, AssertionError, AttributeError, CascError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def write(network: Network, folder: str | Path) -> None:
    """Write `network` to `folder`, whole or not at all; an earlier network there is replaced, and other files stay.

    Raises:
        StorageError: the folder cannot be written, or holds something that is not a saved network; or the network's
            neuron cannot be read again from its fields.
    """
    _require_readable(network.settings)
    tensors = tensors_to_bytes({name: tensor.contiguous().cpu() for name, tensor in network.tensors().items()})
    text = json.dumps(_description(network), indent=1, allow_nan=False) + "\n"
    with whole_folder(folder_path(folder), DESCRIPTION, keeps_others=True) as staging:
        write_whole(staging / TENSORS, tensors)
        write_whole(staging / DESCRIPTION, with_checksum(text.encode(), tensors))


def read(folder: str | Path, bring_in: Callable[[str], object]) -> Network:
    """The network that `write` wrote to `folder`.

    Args:
        folder: where it was saved.
        bring_in: called with the name of the network's adapter, to import the package that defines its operations; raises
            `StorageError` if it cannot.

    Raises:
        StorageError: no such folder, not a network of ours, or a damaged one; or `bring_in` raised it.
    """
    path = folder_path(folder)
    if not has_file(path / DESCRIPTION):
        raise StorageError(f"there is no network saved by casc in {path}: it holds no {DESCRIPTION}")
    text, tensors = read_bytes(path / DESCRIPTION), read_bytes(path / TENSORS)
    description = _read_description(path, text, tensors)
    try:
        bring_in(description["settings"]["adapter"])
        return _rebuilt(description, tensors_from_bytes(tensors))
    except StorageError:
        raise
    except _SENSELESS as error:
        raise StorageError(
            f"{path / DESCRIPTION} does not describe a network: {type(error).__name__}: {' '.join(str(error).split()):.500}"
        ) from error


def are_saved_alike(network: Network, other: Network) -> bool:
    """Whether both call the same operations in the same order, on the same numbers.

    What results are called is left out, and which lines of the user's code they come from; so is what a file of the first
    version does not say.
    """
    network, other = network.in_order_of_calls(), other.in_order_of_calls()
    if _comparable(network) != _comparable(other):
        return False
    own, others = network.tensors(), other.tensors()
    return all(torch.equal(own[name].cpu(), others[name].cpu()) for name in own)


def folder_path(folder: str | Path) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise StorageError(f"a network is kept in a folder, named by a string or a path; got {folder!r}")
    if "\0" in os.fspath(folder):
        raise StorageError(f"no folder can be named {folder!r}")
    return Path(folder)


def _description(network: Network) -> dict[str, Any]:
    settings = network.settings
    return {
        "format": FORMAT,
        "version": VERSION if all(program.returned.is_single for program in network.programs.values()) else SEVERAL,
        "sha256": BLANK,
        "settings": {
            "adapter": settings.adapter,
            "q": settings.q,
            "arguments": list(settings.arguments),
            **{what: _config_to_json(getattr(settings, what), what) for what in _CONFIGS},
        },
        "layers": list(network.layers),
        "ops": [{"kind": op.kind, "settings": op.settings, "tensors": sorted(op.tensors())} for op in network.ops],
        "programs": [program_to_json(program) for program in network.programs.values()],
    }


def _require_readable(settings: Settings) -> None:
    """Refuse a configuration that a loader could not make again."""
    for what in _CONFIGS:
        config = getattr(settings, what)
        try:
            again = _config_from_json(json.loads(json.dumps(_config_to_json(config, what), allow_nan=False)), what)
        except (TypeError, ValueError, CascError) as error:
            raise StorageError(f"cannot save a network of {config}: {error}") from error
        if again != config:
            raise StorageError(
                f"cannot save a network of {config}: read again, it would be {again}; make it a frozen dataclass whose "
                "fields are numbers or strings"
            )


def _config_to_json(config: Any, what: str) -> dict[str, Any]:
    given = dataclasses.asdict(config)
    fields = [field.name for field in dataclasses.fields(config) if not _is_left_out(field, given[field.name])]
    return {"kind": _CONFIGS[what].name_of(config), **{name: given[name] for name in fields}}


def _is_left_out(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field is not written: networks that were saved before it was there have none."""
    return "written" in field.metadata and value == field.default


def _config_from_json(value: Any, what: str) -> Any:
    name = of(str, of(dict, value, what).get("kind"), f"the kind of {what}")
    if (what, name) == ("numerics", "Float"):
        raise ValueError("its sums were rounded, numerics='float', which is no more: convert its model again")
    kind = _CONFIGS[what].find(name)
    known = [field.name for field in dataclasses.fields(kind) if "written" not in field.metadata or field.name in value]
    fields = record(value, ("kind", *known), what)
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
    if version not in READ or isinstance(version, (bool, float)):
        raise StorageError(f"{where} has version {version!r:.40}; this casc reads versions {', '.join(map(str, READ))}")
    if version == WITHOUT_CHECKSUM:
        if sha256([tensors]) != description.get("sha256"):
            raise StorageError(
                f"{path / TENSORS} is damaged: its checksum is not the one in {DESCRIPTION}; save it again"
            )
    elif not is_whole(text, tensors):
        raise StorageError(
            f"{where} or {TENSORS} beside it is damaged: their checksum is not the one that they were saved with; save the "
            "network again"
        )
    return description


def _rebuilt(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> Network:
    whole = record(description, ("format", "version", "sha256", "settings", "layers", "ops", "programs"), "the network")
    settings = _settings(whole["settings"])
    older = whole["version"] == WITHOUT_CHECKSUM
    ops = [_operation(index, op, tensors, older) for index, op in enumerate(of(list, whole["ops"], "ops"))]
    if tensors:
        raise ValueError(f"tensors that no operation uses: {sorted(tensors)!r:.200}")
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
    return Network(ops, programs, layers, settings)


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
    kind = Op.kinds.find(name)
    settings, there = (
        of(dict, fields["settings"], f"{what}: its settings"),
        strings(fields["tensors"], f"{what}: tensors"),
    )
    record(settings, set(kind.SETTINGS) & set(settings) if older else kind.SETTINGS, f"{what}, a {name}")
    unknown = set(there) - set(kind.TENSORS)
    if unknown:
        raise ValueError(f"{what}: a {name} has no tensors {sorted(unknown)!r:.200}")
    own = {each: tensors.pop(f"{index}.{each}") if each in there else None for each in kind.TENSORS}
    return kind(**settings, **own)


_LINES = ("expect", "expect_parts")
"""Functions whose last argument is a line of the user's code."""


def _comparable(network: Network) -> dict[str, Any]:
    """The description of a network, but for lines, and for the grids of what arrives at a map (in no first version)."""
    functions = [op.settings.get("function") for op in network.ops]
    programs = {
        given: dataclasses.replace(
            program,
            steps=tuple(
                dataclasses.replace(step, args=step.args[:-1]) if functions[step.op] in _LINES else step
                for step in program.steps
            ),
        )
        for given, program in network.programs.items()
    }
    description = _description(network._replace(programs=programs))
    for op in description["ops"]:
        op["settings"] = {name: each for name, each in op["settings"].items() if name not in ("train_exponent", "line")}
    return description
