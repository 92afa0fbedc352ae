"""Where an experiment keeps a trained network, and the state of a training that has not ended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from casc_core.errors import StorageError
from casc_core.experiment import distributed
from casc_core.experiment.training import TrainingResult
from casc_core.files import read_whole, whole_folder, write_whole

DESCRIPTION, WEIGHTS = "classifier.json", "classifier.safetensors"


class Store:
    """The place of one training: a subfolder for the trained network, a file for the state until it is there.

    Under `torchrun` the main process writes and all read: machines need a folder that all of them see.

    Args:
        folder: output folder of the experiment.
        key: fingerprint of the training.
        retrain: forget what is there.
        find_only: complain where there is no trained network.

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

    def __init__(self, folder: Path, key: str, retrain: bool = False, find_only: bool = False) -> None:
        self.home, self.checkpoint = folder / f"classifier-{key}", folder / f"training-{key}.safetensors"
        if retrain and distributed.is_main():
            self.checkpoint.unlink(missing_ok=True)
        self.found = distributed.agreed(not retrain and (self.home / DESCRIPTION).is_file())
        if find_only and not self.found:
            there = sorted(path.name for path in folder.glob("classifier-*"))
            raise StorageError(
                f"{folder} holds no network that was trained with these options on this data"
                + (f" (it holds {', '.join(there)}); was the data the same? Name it with --data" if there else "")
            )

    def read(self, build: Callable[[dict[str, Any]], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network, which `build` makes from its description before its weights are filled in.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            description = dict(json.loads(read_whole(self.home / DESCRIPTION)))
            model = build(description)
            model.load_state_dict(safetensors.torch.load((self.home / WEIGHTS).read_bytes()))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"the classifier in {self.home} cannot be read ({reason}); delete the folder, or retrain"
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
            with whole_folder(self.home, DESCRIPTION) as staging:
                more(staging)
                weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
                write_whole(staging / WEIGHTS, safetensors.torch.save(weights))
                write_whole(staging / DESCRIPTION, json.dumps(description, indent=2) + "\n")
            self.checkpoint.unlink(missing_ok=True)
        distributed.barrier()


def training_facts(model: nn.Module, result: TrainingResult) -> dict[str, Any]:
    """What an experiment reports of a training."""
    accuracy = result.best.validation_accuracy
    return {
        "validation_accuracy": None if math.isnan(accuracy) else round(accuracy, 4),
        "best_epoch": result.best.epoch,
        "epochs": len(result.epochs),
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def describe(found: bool, facts: dict[str, Any]) -> str:
    """One line on a training, from its facts.

    >>> facts = {"validation_accuracy": 91.5, "best_epoch": 3, "epochs": 5, "seconds": 12.0, "parameters": 1234}
    >>> describe(True, facts)
    'classifier found: 1,234 parameters, epoch 3 of 5 picked at 91.50% in validation, 12 s of training'
    """
    accuracy = facts["validation_accuracy"]
    epochs = f" of {facts['epochs']}" if "epochs" in facts else ""
    why = "kept" if accuracy is None else f"picked at {accuracy:.2f}% in validation"
    return (
        f"classifier {'found' if found else 'trained'}: {facts['parameters']:,} parameters, epoch "
        f"{facts['best_epoch']}{epochs} {why}, {facts['seconds']:.0f} s of training"
    )
