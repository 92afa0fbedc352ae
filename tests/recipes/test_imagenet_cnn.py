"""The ImageNet recipe on small generated images: fine-tuning from weights in a file, processes, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagenet_cnn
import pytest
import safetensors.torch
import torch
from image_recipes.models import build
from pictures import write_pictures
from recipe_runs import TWO_PROCESSES, run_here, run_recipe

import casc_core

TINY = (
    "--model resnet20 --width 4 --stem small --size 16 --resize 18 --q 4 --T 2 --epochs 1 --batch-size 8 --workers 0 "
    "--eval-batch 5 --threads 1 --quiet"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"), side=20, train=9, test=4, evaluated="val")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the network with 1,000 classes, as torch.save writes them."""
    file = tmp_path_factory.mktemp("weights") / "resnet20.pth"
    torch.manual_seed(3)
    torch.save(build("resnet20", 1_000, width=4).state_dict(), file)
    return file


def recipe(out: Path, *arguments: object) -> dict[str, Any]:
    """The recipe in this process; returns results.json."""
    run_here(imagenet_cnn, *TINY, "--out", out, *arguments)
    return dict(json.loads((out / "results.json").read_text()))


def test_weights_are_fine_tuned_and_converted(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = recipe(tmp_path, "--data", data, "--weights", weights, "--lr", "1e-9")
    said = capsys.readouterr().err
    assert "resnet20.pth is of another number of classes: fc.bias, fc.weight start anew" in said
    assert (results["train_examples"], results["test_examples"], results["q"]) == (27, 12, 4)
    assert results["published"] is None
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert casc_core.load(tmp_path / "network")(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    # So small a learning rate leaves the weights where they were.
    kept = safetensors.torch.load_file(tmp_path / results["classifier"] / "classifier.safetensors")
    given = torch.load(weights, weights_only=True)
    assert torch.allclose(kept["conv1.weight"], given["conv1.weight"], atol=1e-6)
    assert kept["fc.weight"].shape == (3, 16)
    recipe(tmp_path, "--data", data, "--weights", weights, "--lr", "1e-9")
    assert "classifier found" in capsys.readouterr().err


@pytest.mark.slow  # as in the other recipes
def test_two_processes_give_what_one_does(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--out", tmp_path, "--device", "cpu", *TINY]
    two = run_recipe("imagenet_cnn.py", *options, launcher=TWO_PROCESSES)
    assert two.returncode == 0, two.stderr
    of_two = json.loads((tmp_path / "results.json").read_text())
    one = run_recipe("imagenet_cnn.py", *options)
    assert "classifier found" in one.stderr
    assert one.stdout == two.stdout
    of_one = json.loads((tmp_path / "results.json").read_text())
    for results in (of_two, of_one):
        del results["seconds"], results["machine"]
    assert of_one == of_two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such/folder"], "no such folder"),
        (["--workers", "-1"], "--workers must be at least 0; got -1"),
        (["--resize", "4"], "resize must be at least size"),
        (["--model", "resnet34", "--stem", "imagenet", "--weights", "WEIGHTS"], "not weights of this network"),
        (["--width", "8", "--weights", "WEIGHTS"], "bn1.bias is [4], but this network's is [8]"),
        (["--model", "regnet_x_8gf"], "regnet_x_8gf has no option 'width'"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str],
    message: str,
    data: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [] if "--data" in arguments else ["--data", data]
    with pytest.raises(SystemExit) as stopped:
        recipe(tmp_path, *given, *[str(weights) if word == "WEIGHTS" else word for word in arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    *_, last = said.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in said
