"""The CIFAR recipe on small generated images: everything it writes, resuming, processes, the sweep, and mistakes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar_cnn
import pytest
import torch
from image_recipes.models import build
from pictures import CLASSES, write_pictures
from recipe_runs import TWO_PROCESSES, run_here, run_recipe
from safetensors.torch import save_file

import casc_core

TINY = "--width 8 --epochs 15 --batch-size 12 --lr 0.05 --augment none --eval-batch 9 --threads 1 --quiet".split()
METHODS = ["baseline", "baseline+WSC", "baseline+CIF", "baseline+CIF+WSC"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"), side=8, train=24, test=8)


def recipe(out: Path, *arguments: object, tiny: list[str] = TINY) -> dict[str, Any]:
    """The recipe in this process; returns results.json."""
    run_here(cifar_cnn, *tiny, "--out", out, *arguments)
    file = out / "results.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def test_it_trains_converts_and_writes_everything(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = recipe(tmp_path, "--data", data, "--q", 8, "--T", 5)
    said = capsys.readouterr()
    assert "classifier trained" in said.err
    assert "| baseline+CIF+WSC |" in said.out
    assert list(results) == [
        "ann_accuracy", "reference_accuracy", "accuracy", "mismatches", "differing", "energy_nj", "ann_energy_nj",
        "prediction_mismatches", "max_logit_difference", "ann_prediction_mismatches", "ann_differing",
        "ann_max_logit_difference", "exact", "against_ann", "steps_to_silence", "exact_at", "published",
        "train_examples", "test_examples", "data", "q", "T", "classifier", "recipe", "training", "seconds",
        "options", "machine", "versions",
    ]  # fmt: skip
    assert (results["train_examples"], results["test_examples"], results["q"], results["T"]) == (72, 24, 8, 5)
    assert list(results["accuracy"]) == METHODS
    for method in METHODS:
        assert list(results["accuracy"][method]) == ["1", "2", "4", "5", "silent"]
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert results["exact_at"] <= results["steps_to_silence"]["max"]
    assert results["accuracy"]["baseline+CIF+WSC"]["silent"] == results["reference_accuracy"] > 60
    assert results["seconds"].keys() >= {"data", "train", "convert", "evaluate"}
    assert str(data.parent) not in results["data"]
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    description = json.loads((tmp_path / results["classifier"] / "classifier.json").read_text())
    assert description["classes"] == list(CLASSES)
    snn = casc_core.load(tmp_path / "network")
    assert len(snn.layers) == 19
    assert snn(torch.zeros(2, 3, 8, 8)).shape == (2, 3)

    again = recipe(tmp_path, "--data", data, "--q", 8, "--T", 5, "--weight-bits", 8)
    assert "classifier found" in capsys.readouterr().err
    assert again["ann_accuracy"] == results["ann_accuracy"]
    assert again["training"] == results["training"]
    weights = tmp_path / results["classifier"] / "classifier.safetensors"
    other = recipe(
        tmp_path, "--data", data, "--q", 2, "--T", 1, "--weights", weights, "--epochs", 1, "--optimizer", "sgd"
    )
    assert "classifier trained" in capsys.readouterr().err
    assert other["classifier"] != results["classifier"]


def test_two_processes_give_what_one_does(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", data, "--q", 2, "--T", 2, "--device", "cpu", "--epochs", 1]
    two = run_recipe("cifar_cnn.py", *TINY, "--out", tmp_path, *options, launcher=TWO_PROCESSES)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("classifier trained") == 1
    of_two = json.loads((tmp_path / "results.json").read_text())
    table = (tmp_path / "table.md").read_text()
    of_one = recipe(tmp_path, *options)
    said = capsys.readouterr()
    assert "classifier found" in said.err
    assert said.out == two.stdout
    assert (tmp_path / "table.md").read_text() == table
    for results, processes in ((of_two, 2), (of_one, 1)):
        assert results.pop("machine")["processes"] == processes
        del results["seconds"]
    assert of_one == of_two


def test_levels_are_compared_and_not_run_twice(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", data, "--T", 2, "--epochs", 1, "--calibrate-q", 4]  # the last is for plain ReLU
    recipe(tmp_path, *options, "--sweep", "none,2")
    first = capsys.readouterr()
    assert first.err.count("classifier trained") == 2
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [row["q"] for row in rows] == [None, 2]
    for row in rows:
        results = json.loads((tmp_path / f"q{row['q'] or 'none'}" / "results.json").read_text())
        assert row["ann"] == results["ann_accuracy"]
        assert row["silent"] == results["reference_accuracy"] <= row["best"]
        assert row["silent_at"] == results["steps_to_silence"]["max"] >= row["exact_at"] == results["exact_at"]
        assert results["options"]["percentile"] == 99.9
        calibration = results["training"].get("calibration", {})
        assert calibration.get("q") == (4 if row["q"] is None else None)
    recipe(tmp_path, *options, "--sweep", "none,2,1")
    second = capsys.readouterr()
    assert second.err.count("found") == 2
    assert second.err.count("classifier trained") == 1
    assert first.out.splitlines()[-4].split() == second.out.splitlines()[-5].split()


def test_a_threshold_can_be_trained_and_precision_mixed(data: Path, tmp_path: Path) -> None:
    options = ["--trainable-threshold", "--precision", "bfloat16", "--T", 1, "--epochs", 2]
    results = recipe(tmp_path, "--data", data, *options)
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0


def test_plain_relu_is_calibrated(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = recipe(tmp_path, "--data", data, "--q", "none", "--calibrate-q", 16, "--per-channel", "--T", 2)
    assert results["q"] is None
    assert results["ann_accuracy"] > 90
    assert results["prediction_mismatches"] == 0
    assert results["training"]["calibration"]["q"] == 16
    assert "NOT LOSSLESS" in capsys.readouterr().err
    assert casc_core.load(tmp_path / "network").settings.q == 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of resnet20 without parameters in its shortcuts, under the names that its weight files have."""
    torch.manual_seed(0)
    model, file = build("resnet20a", len(CLASSES), width=4), tmp_path_factory.mktemp("weights") / "weights.safetensors"
    assert [name for name in model.state_dict() if "downsample" in name or "shortcut" in name] == []
    assert list(model.state_dict())[-2:] == ["linear.weight", "linear.bias"]
    save_file(model.state_dict(), file)
    return file


FINE_TUNE = "--model resnet20a --fine-tune --q 4 --T 2".split()
TINY_FINE_TUNE = "--width 4 --epochs 2 --batch-size 24 --augment none --eval-batch 24 --threads 1 --quiet".split()


def test_weights_trained_with_relu_are_fine_tuned(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*FINE_TUNE, "--data", data, "--weights", weights]
    results = recipe(tmp_path, *options, tiny=TINY_FINE_TUNE)
    said = capsys.readouterr().err
    assert "classifier trained" in said
    assert "biases" in said
    assert results["options"]["fine_tune"] is True
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    description = json.loads((tmp_path / results["classifier"] / "classifier.json").read_text())
    assert description["thresholds"]["layer1.0.relu1"] == [4]

    again = recipe(tmp_path, *options, tiny=TINY_FINE_TUNE)
    assert "classifier found" in capsys.readouterr().err
    for name in ("classifier", "ann_accuracy", "accuracy"):
        assert again[name] == results[name]


def test_fine_tuning_goes_on_where_it_was(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Interrupted, the same command goes on, and ends with the weights and figures of one that was not."""
    options = [*FINE_TUNE, "--data", data, "--weights", weights, "--augment", "basic"]
    whole = recipe(tmp_path / "whole", *options, tiny=TINY_FINE_TUNE)
    clip, steps = torch.nn.utils.clip_grad_norm_, 0

    def step(*given: Any) -> Any:  # whatever the optimiser is, gradients are clipped in each step
        nonlocal steps
        steps += 1
        if steps > 4:  # within the second epoch of three
            raise KeyboardInterrupt
        return clip(*given)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", step)
        with pytest.raises(SystemExit) as stopped:
            recipe(tmp_path / "cut", *options, tiny=TINY_FINE_TUNE)
    assert stopped.value.code == 130
    assert "run the same command again" in capsys.readouterr().err
    assert len(list((tmp_path / "cut").glob("training-*"))) == 1
    resumed = recipe(tmp_path / "cut", *options, tiny=TINY_FINE_TUNE)
    assert list((tmp_path / "cut").glob("training-*")) == []
    for name in ("classifier", "ann_accuracy", "accuracy", "mismatches"):
        assert resumed[name] == whole[name]
    files = [tmp_path / one / whole["classifier"] / "classifier.safetensors" for one in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("options", ["--fine-tune --q 4", "--q none --calibrate-q 4"])
def test_weights_are_calibrated_without_training(
    options: str, data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "resnet20a", "--weights", weights, "--data", data, "--T", 2, "--epochs", 0, *options.split()]
    results = recipe(tmp_path, *given, tiny=TINY_FINE_TUNE)
    said = capsys.readouterr().err
    assert "NOT LOSSLESS" in said
    assert "classifier not trained" in said
    assert results["training"]["epochs"] == 0
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert casc_core.load(tmp_path / "network").settings.q == 4


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (dict, [], "conv1.weight is missing"),
        (lambda: build("resnet20", len(CLASSES), width=4).state_dict(), [], "these are not weights of this network"),
        (lambda: build("resnet20a", len(CLASSES), width=8).state_dict(), [], "is [8], but this network's is [4]"),
        (lambda: build("resnet20a", 7, width=4).state_dict(), ["--epochs", 0], "have to be trained"),
        (lambda: b"not weights", [], "cannot be read as weights"),
    ],
)
def test_foreign_weights_are_refused(
    content: Callable[[], Any], options: list[Any], message: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, given = tmp_path / "weights.safetensors", content()
    if isinstance(given, bytes):
        file.write_bytes(given)
    else:
        save_file(given, file)
    with pytest.raises(SystemExit) as stopped:
        recipe(tmp_path / "out", *FINE_TUNE, "--data", data, "--weights", file, *options, tiny=TINY_FINE_TUNE)
    assert stopped.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert str(file.name) in last
    assert message in last


def test_the_digits_are_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="needs the extra digits")
    results = recipe(
        tmp_path, "--data", "digits", "--limit-train", 60, "--limit-test", 20, "--width", 4, "--epochs", 1, "--T", 1,
        tiny=["--quiet", "--threads", "1"],
    )  # fmt: skip
    assert results["data"].startswith("scikit-learn digits: 60 of 1,437 training and 20 of 360 test images")
    assert results["prediction_mismatches"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such/folder"], "no such folder"),
        (["--model", "vgg16"], "vgg16 cannot take images of 8x8"),
        (["--lr", "1e30"], "the loss became nan in epoch 1, batch 3; lower lr (now 1e+30)"),
    ],
)
def test_a_mistake_is_one_clear_line(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--data" in arguments else ["--data", data]
    with pytest.raises(SystemExit) as stopped:
        recipe(tmp_path, *given, *arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    *_, last = said.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--q 40000", "--q must be at most 32,767; got 40000"),
        ("--sweep 8,40000", "--sweep must be at most 32,767; got 40000"),
        ("--sweep 8,0", "--sweep must be at least 1; got 0"),
        ("--q none --calibrate-q 40000", "--calibrate-q must be at most 32,767; got 40000"),
        ("--q none --percentile 200", "percentile must lie in (0, 100]; got 200.0"),
        ("--calibrate-q 16", "--calibrate-q is for a network trained with plain ReLU: add --q none, or leave"),
        ("--sweep 8,4 --per-channel", "--per-channel is for a network trained with plain ReLU"),
        ("--eval-batch 100000000000000000000", "--eval-batch must be at most 2,147,483,647; got 100000000000000000000"),
        ("--batch-size 100000000000000000000", "batch_size must be at most 2,147,483,647; got 100000000000000000000"),
        ("--limit-train 0", "--limit-train must be at least 1; got 0"),
        ("--width 100000000", "parameters takes"),
        ("--width 0", "width must be an integer of at least 1; got 0"),
        ("--model regnet_x_8gf", "has no option 'width'"),
        ("--q 0", "--q must be at least 1; got 0"),
        ("--lr nan", "lr must be positive and finite; got nan"),
        ("--optimizer adam", "optimizer must be one of 'adamw', 'sgd'; got 'adam'"),
        ("--eval-batch 0", "--eval-batch must be at least 1; got 0"),
        ("--epochs -1", "epochs must be an integer of at least 1; got -1"),
        ("--epochs 0", "--epochs 0 takes trained weights as they are: name their file by --weights"),
        ("--fine-tune", "--fine-tune starts from weights that were trained with plain ReLU"),
        ("--fine-tune --weights nowhere.pth --sweep none,8", "--fine-tune is for a network with levels"),
        ("--fine-tune --weights nowhere.pth --calibrate-q 8", "--calibrate-q is for a network trained with plain ReLU"),
        ("--weights nowhere.pth", "cannot read nowhere.pth: there is no such file"),
    ],
)
def test_a_mistake_is_told_before_the_images_are_loaded(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cifar_cnn, "load_images", lambda *args, **options: pytest.fail("loaded"))
    with pytest.raises(SystemExit) as stopped:
        recipe(tmp_path, *arguments.split())
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_real_images_are_exact(tmp_path: Path) -> None:
    folder = os.environ.get("CASC_DATA", "")
    if not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("set CASC_DATA to a folder with cifar-10-batches-py")
    options = "--epochs 2 --limit-train 5000 --limit-test 1000 --augment basic --quiet".split()
    results = recipe(tmp_path, "--data", folder, "--q", 8, "--T", 32, tiny=options)
    assert results["test_examples"] == 1000
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert results["ann_accuracy"] > 20
    assert results["accuracy"]["baseline+CIF+WSC"]["silent"] == results["reference_accuracy"]
