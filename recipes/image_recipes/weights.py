"""Trained weights from a file: a state_dict of torch or safetensors, under torchvision's names."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from casc_core.errors import DataError
from casc_core.storage.checksum import sha256


def load_weights(model: nn.Module, file: Path, unused: tuple[str, ...] = ()) -> list[str]:
    """Fill `model` with the weights in `file`.

    The last layer may be of another number of classes; it then keeps the weights it has.

    Args:
        model: as `image_recipes.models.build` makes it, before its activations are quantised.
        file: `.safetensors`, or what `torch.save` wrote of a state_dict, of which only tensors are read.
        unused: beginnings of names of which nothing is read: what a network that is a part of another does not have.

    Returns:
        Names of what was left out.

    Raises:
        DataError: no such file, not weights, or the weights of another network.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> safetensors.torch.save_file(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)).state_dict(), file)
    >>> load_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), file)
    ['1.bias', '1.weight']
    """
    found = {name: value for name, value in _read(file).items() if not name.startswith(unused)}
    expected = model.state_dict()
    last_layer = list(expected)[-1].rpartition(".")[0] + "."
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        what = f"{missing[0]} is missing" if missing else f"{surplus[0]} is not part of it"
        raise DataError(
            f"{file}: these are not weights of this network: {what} ({len(missing)} missing, {len(surplus)} too many); "
            "choose the model that they belong to"
        )
    other = sorted(name for name, value in found.items() if value.shape != expected[name].shape)
    for name in other:
        if not name.startswith(last_layer):
            raise DataError(
                f"{file}: {name} is {list(found[name].shape)}, but this network's is {list(expected[name].shape)}; choose "
                "the model and the sizes that the weights belong to"
            )
    model.load_state_dict({name: value for name, value in found.items() if name not in other}, strict=False)
    return other


def file_digest(file: Path) -> str:
    """Names the content of a file.

    Raises:
        DataError: it cannot be read.
    """
    if file.exists() and not file.is_file():  # a folder, or a device that never ends
        raise DataError(f"cannot read {file}: it is no file")
    try:
        with file.open("rb") as content:
            return sha256(iter(partial(content.read, 1 << 22), b""))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


# What torch's reader raises of a file that holds no weights, which may be anything that it stumbles over.
_UNREADABLE = (
    OSError, SafetensorError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    pickle.UnpicklingError,
)  # fmt: skip


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0]
        raise DataError(
            f"{file} cannot be read as weights ({reason}); pass a state_dict, .pth or .safetensors"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{file} holds no state_dict (names and tensors); it holds {type(content).__name__}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}
