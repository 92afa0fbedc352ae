"""A trained network is found again, whole, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from casc_core.errors import StorageError
from casc_core.experiment.store import Store, describe, training_facts
from casc_core.experiment.training import EpochResult, TrainingResult


def build(description: dict[str, int]) -> nn.Module:
    return nn.Linear(2, description["classes"])


def test_what_was_written_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path, "abc")
    assert not store.found
    store.checkpoint.write_text("state")
    model = nn.Linear(2, 3)
    store.write(model, {"classes": 3}, lambda folder: (folder / "words").write_text("a b") and None)
    assert not store.checkpoint.exists()
    again = Store(tmp_path, "abc")
    assert again.found
    found, description = again.read(build)
    assert description == {"classes": 3}
    assert isinstance(found, nn.Linear)
    assert torch.equal(found.weight, model.weight)
    assert (again.home / "words").read_text() == "a b"
    assert not Store(tmp_path, "abd").found


def test_retraining_forgets(tmp_path: Path) -> None:
    store = Store(tmp_path, "abc")
    store.write(nn.Linear(2, 3), {"classes": 3})
    store.checkpoint.write_text("state")
    again = Store(tmp_path, "abc", retrain=True)
    assert not again.found
    assert not again.checkpoint.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classifier.json", "{"),
        ("classifier.json", "{}"),
        ("classifier.json", '{"classes": 4}'),
        ("classifier.safetensors", "no tensors"),
        ("classifier.safetensors", None),
    ],
)
def test_a_damaged_network_is_named(file: str, content: str | None, tmp_path: Path) -> None:
    store = Store(tmp_path, "abc")
    store.write(nn.Linear(2, 3), {"classes": 3})
    if content is None:
        (store.home / file).unlink()
    else:
        (store.home / file).write_text(content)
    with pytest.raises(StorageError, match=r"classifier-abc cannot be read .*; delete the folder, or retrain"):
        store.read(build)


def test_facts_without_validation_are_json() -> None:
    epoch = EpochResult(2, 0.5, 80.0, float("nan"), float("nan"))
    facts = training_facts(nn.Linear(2, 3), TrainingResult((epoch, epoch), epoch, 61.04))
    assert facts == {"validation_accuracy": None, "best_epoch": 2, "epochs": 2, "seconds": 61.0, "parameters": 9}
    assert describe(False, facts) == "classifier trained: 9 parameters, epoch 2 of 2 kept, 61 s of training"
