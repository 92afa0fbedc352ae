"""The state of a training: any damage is noticed, and the message says what to do."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from blobs import Blobs, network, weights

from casc_core.errors import StorageError
from casc_lab.training.checkpoint import FORMAT, WITHOUT_CHECKSUM, load_checkpoint, save_checkpoint
from casc_lab.training.loop import train

FACTS, TENSORS = {"epoch": 3, "loss": 0.5}, {"weight": torch.arange(6.0), "state": torch.ones(2, dtype=torch.uint8)}


def test_no_flip_of_a_bit_goes_unnoticed(tmp_path: Path) -> None:
    path, rng = tmp_path / "state", random.Random(0)
    save_checkpoint(path, "ours", FACTS, TENSORS)
    whole = path.read_bytes()
    for bit in rng.sample(range(8 * len(whole)), 600):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(StorageError):
            load_checkpoint(path, "ours")
    path.write_bytes(whole)
    found = load_checkpoint(path, "ours")
    assert found is not None
    assert found[0] == FACTS
    assert all(torch.equal(found[1][name], TENSORS[name]) for name in TENSORS)


def test_one_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    metadata = {"format": WITHOUT_CHECKSUM, "owner": "ours", "facts": json.dumps(FACTS)}
    path.write_bytes(safetensors.torch.save(TENSORS, metadata))
    found = load_checkpoint(path, "ours")
    assert found is not None
    assert found[0] == FACTS
    path.write_bytes(safetensors.torch.save(TENSORS, metadata | {"format": FORMAT}))
    with pytest.raises(StorageError, match="its checksum is not the one"):
        load_checkpoint(path, "ours")


@pytest.mark.parametrize("facts", ["[]", "{", "3", '{"a": 1, "a": 2}', "[" * 100_000])
def test_facts_that_are_none(facts: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(safetensors.torch.save(TENSORS, {"format": WITHOUT_CHECKSUM, "owner": "ours", "facts": facts}))
    with pytest.raises(StorageError, match="cannot be read as a checkpoint"):
        load_checkpoint(path, "ours")


def test_the_state_of_another_training_is_no_traceback(tmp_path: Path) -> None:
    path, task = tmp_path / "state", Blobs()
    for facts, tensors in (({}, {}), (FACTS, TENSORS), ({}, {"model.weight": torch.ones(1)})):
        save_checkpoint(path, task.owner, facts, tensors)
        with pytest.raises(StorageError, match=r"is not the state of this training .*delete it to start anew"):
            train(network(), task, progress=False, checkpoint=path)
    path.unlink()
    model = network()
    train(model, task, progress=False, checkpoint=path)
    assert weights(model)
