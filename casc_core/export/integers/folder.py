"""The folder of an export: JSON for what the network is, safetensors for its integers, `$readmemh` if it is asked for."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save as tensors_to_bytes

from casc_core.engine.network import Settings
from casc_core.errors import StorageError
from casc_core.export.integers.golden import Golden
from casc_core.export.integers.numbers import Array, bits_in, stored
from casc_core.storage.checksum import sha256
from casc_core.storage.files import whole_folder, write_whole

FORMAT, VERSION = "casc-integers", 1
DESCRIPTION, INTEGERS, TRACES = "integers.json", "integers.safetensors", "traces.safetensors"
SCHEMA = Path(__file__).parents[1] / "integers.schema.json"
"""The JSON Schema of the description."""
HEX = "hex"


def write_folder(found: Golden, settings: Settings, returned: list[str], folder: str | Path, with_hex: bool) -> None:
    """Write an export, whole or not at all; an earlier one there is replaced.

    Args:
        returned: the names of the outputs that the inputs alone decide.

    Raises:
        StorageError: the folder cannot be written, or holds something else.
    """
    files = {INTEGERS: found.constants, TRACES: found.traces}
    integers = {file: {name: stored(values) for name, values in held.items()} for file, held in files.items()}
    content = {file: tensors_to_bytes(held) for file, held in integers.items()}
    tensors = {
        name: _about(file, values, integers[file][name], found.exponents.get(name))
        for file, held in files.items()
        for name, values in held.items()
    }
    for name, about in tensors.items() if with_hex else ():
        about["hex"] = _hex_name(name, tensors)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "network": _about_network(settings),
        "T": found.steps,
        "samples": len(found.traces["silent_at"]),
        "awake": found.awake,
        "files": {file: sha256([data]) for file, data in content.items()},
        "nodes": found.nodes,
        "outputs": found.outputs,
        "outputs_of_inputs_alone": returned,
        "layers": found.layers,
        "readout": found.readout,
        "tensors": tensors,
    }
    with whole_folder(_path(folder), DESCRIPTION) as staging:
        for file, data in content.items():
            write_whole(staging / file, data)
        for name, about in tensors.items() if with_hex else ():
            held = files[about["file"]]
            write_whole(staging / about["hex"], _readmemh(held[name], about["bits"]))
        write_whole(staging / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False) + "\n")


def _path(folder: str | Path) -> Path:
    if not isinstance(folder, (str, os.PathLike)) or "\0" in os.fspath(folder):
        raise StorageError(f"an export is kept in a folder, named by a string or a path; got {folder!r}")
    return Path(folder)


def _about_network(settings: Settings) -> dict[str, Any]:
    return {
        "q": settings.q,
        "levels": settings.levels,
        "neuron": repr(settings.neuron),
        "schedule": repr(settings.schedule),
        "numerics": repr(settings.numerics),
        "adapter": settings.adapter,
    }


def _about(file: str, values: Array, as_stored: Array, exponent: int | None) -> dict[str, Any]:
    """What is said of a tensor: numbers of inputs and readouts are integers times a power of two."""
    limbs = as_stored.shape[0] if as_stored.ndim > values.ndim else 0
    about: dict[str, Any] = {
        "file": file, "shape": list(values.shape), "bits": bits_in(values), "limbs": limbs, "by_sample": file == TRACES
    }  # fmt: skip
    return about if exponent is None else about | {"exponent": exponent}


def _hex_name(name: str, taken: Mapping[str, Any]) -> str:
    """A file for a tensor of this name, which no other has."""
    plain = re.sub("[^A-Za-z0-9_.-]", "_", name)
    return (
        f"{HEX}/{plain}.hex"
        if plain == name or plain not in taken
        else f"{HEX}/{plain}_{sha256([name.encode()])[:8]}.hex"
    )


def _readmemh(values: Array, bits: int) -> str:
    """One number a line, two's complement of so many bits, the last dimension fastest.

    >>> import numpy as np
    >>> _readmemh(np.asarray([5, -1]), 4)
    '5\\nf\\n'
    """
    digits, mask = -(-bits // 4), (1 << bits) - 1
    return "".join(f"{int(each) & mask:0{digits}x}\n" for each in values.reshape(-1))
