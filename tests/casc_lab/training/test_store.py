"""A trained network is found again, whole, and a damaged one is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from casc_core.errors import StorageError
from casc_core.storage.checksum import BLANK, with_checksum
from casc_lab.training.loop import EpochResult, TrainingResult
from casc_lab.training.store import Store, component, describe, training_facts


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


def test_any_flip_of_any_bit_is_noticed(tmp_path: Path) -> None:
    store, rng = Store(tmp_path, "abc"), random.Random(0)
    store.write(nn.Linear(2, 3), {"classes": 3}, lambda folder: (folder / "words").write_text("a b") and None)
    for name in ("classifier.json", "classifier.safetensors", "words"):
        whole = (store.home / name).read_bytes()
        for bit in rng.sample(range(8 * len(whole)), min(8 * len(whole), 150)):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            (store.home / name).write_bytes(data)
            try:
                model, description = store.read(build)
            except StorageError:
                continue
            # A changed name of the field of the checksum: all else is as it was.
            assert name == "classifier.json"
            assert description["classes"] == 3
            assert isinstance(model, nn.Linear)
        (store.home / name).write_bytes(whole)
    store.read(build)


def test_a_network_trained_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    store, model = Store(tmp_path, "abc"), nn.Linear(2, 3)
    store.home.mkdir()
    (store.home / "classifier.json").write_text('{"classes": 3}')
    (store.home / "classifier.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    found, description = store.read(build)
    assert description == {"classes": 3}
    assert torch.equal(found.state_dict()["weight"], model.weight)


def test_sizes_that_are_not_those_of_the_weights_take_no_memory(tmp_path: Path) -> None:
    store = Store(tmp_path, "abc")
    store.write(nn.Linear(2, 3), {"classes": 10**12})
    with pytest.raises(StorageError, match=r"weight should be torch.float32 \[1000000000000, 2\]"):
        store.read(build)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_files_beside_it_lie_beside_it(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path, "abc")
    store.write(nn.Linear(2, 3), {"classes": 3})
    text = '{"sha256": "' + BLANK + '", "files": {"' + name + '": "0"}, "classes": 3}'
    (store.home / "classifier.json").write_bytes(with_checksum(text.encode()))
    with pytest.raises(StorageError, match="does not lie beside it"):
        store.read(build)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "..\\x", "C:", "a\0b", None, 3, ["x"]])
def test_what_names_a_folder_is_one_component(name: object) -> None:
    with pytest.raises(StorageError, match=r"results\.json: expected the name of a folder beside it"):
        component(name, Path("results.json"))
