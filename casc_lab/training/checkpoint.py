"""The state of an interrupted training on disk: one file of tensors and plain facts, whole or not at all, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from casc_core.errors import StorageError
from casc_core.storage.checksum import BLANK, is_whole, with_checksum
from casc_core.storage.files import read_bytes, write_whole
from casc_core.storage.strict import of, parsed

FORMAT, WITHOUT_CHECKSUM = "casc training checkpoint 2", "casc training checkpoint 1"


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
    metadata = {"format": FORMAT, "owner": owner, "facts": json.dumps(facts), "sha256": BLANK}
    write_whole(path, with_checksum(safetensors.torch.save(content, metadata)))


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
        data = read_bytes(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (FORMAT, WITHOUT_CHECKSUM):
                raise StorageError(f"{path} is not a training checkpoint; choose another place for the checkpoint")
            if metadata.get("owner") != owner:
                raise StorageError(
                    f"{path} belongs to a training with other options, sizes or data; "
                    "delete it to start anew, or choose another place for the checkpoint"
                )
        if metadata["format"] == FORMAT and not is_whole(data):
            raise ValueError("its checksum is not the one that it was saved with")
        return of(dict, parsed(metadata["facts"], finite=False), "the facts"), safetensors.torch.load(data)
    except StorageError:
        raise
    except (OSError, SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StorageError(f"{path} cannot be read as a checkpoint ({error}); delete it to start anew") from error
