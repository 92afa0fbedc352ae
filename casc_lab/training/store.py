"""Where an experiment keeps a trained network, and the state of a training that has not ended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from casc_core.errors import CascError, StorageError
from casc_core.storage.checksum import BLANK, is_whole, sha256, with_checksum
from casc_core.storage.files import read_bytes, whole_folder, write_whole
from casc_core.storage.strict import of, parsed
from casc_lab import distributed
from casc_lab.training.loop import TrainingResult

CLASSIFIER = "classifier"
_UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, CascError, LookupError, RuntimeError, SafetensorError, TypeError,
    ValueError,
)  # fmt: skip


class Store:
    """The place of one training: a subfolder for the trained network, a file for the state until it is there.

    Under `torchrun` the main process writes and all read: machines need a folder that all of them see.

    Args:
        folder: output folder of the experiment.
        key: fingerprint of the training.
        retrain: forget what is there.
        find_only: raise an error where there is no trained network.
        kind: what the network is; names the folder and its files.

    Raises:
        StorageError: there is none, and `find_only`.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()), "0123abcd")
    >>> store.found, store.home.name
    (False, 'classifier-0123abcd')
    >>> store.write(nn.Linear(2, 2), {"classes": ["a", "b"]})
    >>> model, description = store.read(lambda description: nn.Linear(2, len(description["classes"])))
    >>> description["classes"]
    ['a', 'b']
    """

    def __init__(
        self, folder: Path, key: str, retrain: bool = False, find_only: bool = False, kind: str = CLASSIFIER
    ) -> None:
        self.home, self.checkpoint = folder / f"{kind}-{key}", folder / f"training-{key}.safetensors"
        self.kind = kind
        if retrain and distributed.is_main():
            self.checkpoint.unlink(missing_ok=True)
        self.found = distributed.agreed(not retrain and (self.home / f"{kind}.json").is_file())
        if find_only and not self.found:
            there = sorted(path.name for path in folder.glob(f"{kind}-*"))
            raise StorageError(
                f"{folder} holds no network that was trained with these options on this data"
                + (f" (it holds {', '.join(there)}); was the data the same? Name it with --data" if there else "")
            )

    def read(
        self,
        build: Callable[[dict[str, Any]], nn.Module],
        outline: Callable[[dict[str, Any]], nn.Module] | None = None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network, which `build` makes from its description before its weights are filled in.

        Args:
            build: makes it.
            outline: makes one with the same weights, or some of them, where `build` cannot be called on torch's device
                "meta"; it is to show that sizes fit before `build` takes memory for them.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            description = read_description(self.home, self.kind)
            weights = safetensors.torch.load(read_bytes(self._weights(self.home)))
            with torch.device("meta"):  # where sizes that are not those of the weights cost nothing
                _check_weights(weights, (outline or build)(description).state_dict())
            model = build(description)
            _check_weights(weights, model.state_dict())
            model.load_state_dict(weights)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"the {self.kind} in {self.home} cannot be read ({reason}); delete the folder, or retrain"
            ) from error
        return model, description

    def write(
        self, model: nn.Module, description: dict[str, Any], more: Callable[[Path], None] = lambda folder: None
    ) -> None:
        """Keep a trained network, whole or not at all, and forget the state of its training.

        Args:
            description: what JSON can hold; `read` hands it to `build`.
            more: writes further files to the folder it is given.

        Raises:
            StorageError: the folder cannot be written.
        """
        if distributed.is_main():
            with whole_folder(self.home, f"{self.kind}.json") as staging:
                more(staging)
                weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
                write_whole(self._weights(staging), safetensors.torch.save(weights))
                beside = sorted(path for path in staging.rglob("*") if path.is_file())
                files = {path.relative_to(staging).as_posix(): _digest(path) for path in beside}
                text = json.dumps({"sha256": BLANK, "files": files, **description}, indent=2) + "\n"
                write_whole(staging / f"{self.kind}.json", with_checksum(text.encode()))
            self.checkpoint.unlink(missing_ok=True)
        distributed.barrier()

    def _weights(self, folder: Path) -> Path:
        return folder / f"{self.kind}.safetensors"


def read_description(home: Path, kind: str = CLASSIFIER) -> dict[str, Any]:
    """What is said of the trained network in a folder, once nothing there is known to be damaged.

    Args:
        home: the folder.
        kind: what the network is, as `Store` takes it.

    Raises:
        StorageError: something is, or the folder is not one of a trained network.
    """
    where = home / f"{kind}.json"
    text = read_bytes(where)
    try:
        description = of(dict, parsed(text.decode(), finite=False), "a trained network")
        # Those trained before there were checksums have none.
        if "sha256" in description and not is_whole(text):
            raise ValueError("its checksum is not the one that it was saved with")
        for name, digest in of(dict, description.pop("files", {}), "files").items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r:.80} does not lie beside it")
            if digest != _digest(home / name):
                raise ValueError(f"the checksum of {name} beside it is not the one that it was saved with")
    except ValueError as error:
        raise StorageError(f"{where} is damaged: {error}") from error
    description.pop("sha256", None)
    return description


def component(name: Any, where: Path) -> str:
    """`name`, if it names something that lies in a folder, and nothing elsewhere.

    Args:
        where: what says so.

    Raises:
        StorageError: it does not.

    >>> component("classifier-0123abcd", Path("results.json"))
    'classifier-0123abcd'
    """
    if not isinstance(name, str) or name in ("", ".", "..") or not set(name).isdisjoint("/\\:\0"):
        raise StorageError(f"{where}: expected the name of a folder beside it; got {name!r:.80}")
    return name


def _digest(path: Path) -> str:
    return sha256([read_bytes(path)])


def _check_weights(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse weights that are not those that a network has.

    Raises:
        ValueError: one is missing, or of another shape or type.
    """
    for name, value in wanted.items():
        found = weights.get(name)
        if found is None or (found.shape, found.dtype) != (value.shape, value.dtype):
            there = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"{name} should be {value.dtype} {list(value.shape)}, and is {there}")


def training_facts(model: nn.Module, result: TrainingResult | None) -> dict[str, Any]:
    """What an experiment reports of a training; None: there was none, the weights were there."""
    accuracy = math.nan if result is None else result.best.validation_accuracy
    return {
        "validation_accuracy": None if math.isnan(accuracy) else round(accuracy, 4),
        "best_epoch": 0 if result is None else result.best.epoch,
        "epochs": 0 if result is None else len(result.epochs),
        "seconds": 0.0 if result is None else round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def describe(found: bool, facts: dict[str, Any], kind: str = CLASSIFIER) -> str:
    """One line on a training, from its facts.

    >>> facts = {"validation_accuracy": 91.5, "best_epoch": 3, "epochs": 5, "seconds": 12.0, "parameters": 1234}
    >>> describe(True, facts)
    'classifier found: 1,234 parameters, epoch 3 of 5 picked at 91.50% in validation, 12 s of training'
    >>> describe(False, training_facts(nn.Linear(2, 3), None))
    'classifier not trained: 9 parameters as they were given'
    """
    if facts["best_epoch"] == 0:
        return f"{kind} not trained: {facts['parameters']:,} parameters as they were given"
    accuracy = facts["validation_accuracy"]
    epochs = f" of {facts['epochs']}" if "epochs" in facts else ""
    why = "kept" if accuracy is None else f"picked at {accuracy:.2f}% in validation"
    return (
        f"{kind} {'found' if found else 'trained'}: {facts['parameters']:,} parameters, epoch "
        f"{facts['best_epoch']}{epochs} {why}, {facts['seconds']:.0f} s of training"
    )
