"""Weights from files: what is read, what is left out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from image_recipes.weights import file_digest, load_weights
from torch import Tensor, nn

from casc_core.errors import DataError


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, classes))


def wrapped(state: dict[str, Tensor], wrapping: str) -> Any:
    if wrapping == "module.":
        return {f"module.{name}": value for name, value in state.items()}
    if wrapping == "no counters":
        return {name: value for name, value in state.items() if "num_batches" not in name}
    return {wrapping: state, "epoch": 3} if wrapping else state


@pytest.mark.parametrize("wrapping", ["", "state_dict", "model", "module.", "no counters"])
def test_what_torch_saved_is_read(wrapping: str, tmp_path: Path) -> None:
    given = network(seed=1).state_dict()
    torch.save(wrapped(given, wrapping), tmp_path / "weights.pth")
    model = network()
    assert load_weights(model, tmp_path / "weights.pth") == []
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


def test_safetensors_are_read_and_a_last_layer_of_other_classes_is_kept(tmp_path: Path) -> None:
    given = network(classes=5, seed=1).state_dict()
    safetensors.torch.save_file(given, tmp_path / "weights.safetensors")
    model = network()
    before = model[4].weight.clone()  # type: ignore[index]
    assert load_weights(model, tmp_path / "weights.safetensors") == ["4.bias", "4.weight"]
    assert torch.equal(model[0].weight, given["0.weight"])  # type: ignore[index]
    assert torch.equal(model[4].weight, before)  # type: ignore[index]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"0.weight": torch.ones(1)}, "0.bias is missing"),
        ("surplus", "5.weight is not part of it"),
        ("shape", r"0\.weight is \[4, 3, 5, 5\], but this network's is \[4, 3, 3, 3\]"),
        ([torch.ones(1)], "holds no state_dict .* list"),
        ({"weights": 3}, "holds no state_dict"),
        (network(), "cannot be read as weights"),
        (b"no file of torch", "cannot be read as weights"),
        (b"root:x:0:0:root:/root:/bin/bash", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        (None, "cannot be read as weights"),
    ],
)
def test_what_is_not_its_weights_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    file, state = tmp_path / "weights.pth", network().state_dict()
    if content == "surplus":
        content = {**state, "5.weight": torch.ones(1)}
    elif isinstance(content, str):
        content = {**state, "0.weight": torch.ones(4, 3, 5, 5)}
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(DataError, match=words):
        load_weights(network(), file)


def test_a_digest_names_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
    with pytest.raises(DataError, match="cannot read"):
        file_digest(tmp_path)
