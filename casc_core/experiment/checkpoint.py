"""The state of an interrupted training on disk: one file of tensors and plain facts, whole or not at all, no pickle."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from casc_core.errors import StorageError
from casc_core.files import write_whole

FORMAT = "casc training checkpoint 1"


def save_checkpoint(path: Path, owner: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint: a reader sees the one before or this one, never a part.

    Args:
        path: the file.
        owner: fingerprint of the training it belongs to.
        facts: what JSON can hold.
        tensors: copied to the CPU.

    Raises:
        StorageError: it cannot be written; the one before is left as it was.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "owner": owner, "facts": json.dumps(facts)}
    write_whole(path, safetensors.torch.save(content, metadata))
    # A killed process may have left a part behind under another name.
    for leftover in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def load_checkpoint(path: Path, owner: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The facts and tensors saved in `path`, or None if there is no such file.

    Raises:
        StorageError: the file is damaged, not a checkpoint, or belongs to another training.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "training.safetensors"
    >>> load_checkpoint(path, "ours") is None
    True
    >>> save_checkpoint(path, "ours", {"epoch": 3}, {"weight": torch.ones(2)})
    >>> load_checkpoint(path, "ours")
    ({'epoch': 3}, {'weight': tensor([1., 1.])})
    """
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StorageError(f"{path} is not a training checkpoint; choose another place for the checkpoint")
            if metadata.get("owner") != owner:
                raise StorageError(
                    f"{path} belongs to a training with other options, sizes or data; "
                    "delete it to start anew, or choose another place for the checkpoint"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return json.loads(metadata["facts"]), tensors
    except StorageError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{path} cannot be read as a checkpoint ({error}); delete it to start anew") from error
