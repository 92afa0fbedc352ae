"""The detection recipe on drawn shapes: everything it writes, resuming, processes, and mistakes."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yolo
from detection_recipes import experiment, paper
from recipe_runs import TWO_PROCESSES, run_here, run_recipe
from voc_files import two_splits, xml

import casc_core
from casc_core.errors import NotExactError, StorageError
from casc_lab import cli
from casc_lab.distributed import ALL
from casc_lab.evaluation.methods import Evaluation
from casc_lab.training.store import Store

TINY = (
    "--width 0.02 --size 48 --stride 8 --relu-epochs 2 --epochs 1 --batch-size 4 --limit-train 8 --limit-test 4 "
    "--eval-batch 3 --score 0.001 --threads 1 --quiet"
).split()
SAVED = Path(__file__).parents[2] / "saved"
METHODS = ["baseline", "baseline+WSC", "baseline+CIF", "baseline+CIF+WSC"]


def recipe(out: Path, *arguments: object) -> dict[str, Any]:
    """The recipe in this process; returns results.json."""
    run_here(yolo, *TINY, "--out", out, *arguments)
    file = out / "results.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """What the recipe leaves behind the first time: its folder, and what it has printed."""
    out, err, folder = io.StringIO(), io.StringIO(), tmp_path_factory.mktemp("yolo")
    with redirect_stdout(out), redirect_stderr(err):
        recipe(folder, "--q", 4, "--T", 6)
    return folder, out.getvalue(), err.getvalue()


def test_it_trains_converts_and_writes_everything(
    first: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, err = first
    results = json.loads((folder / "results.json").read_text())
    assert "detector trained" in err
    assert "| mAP@0.5 (%)" in out
    assert results["exact"] is True
    assert list(results["precision"]) == METHODS
    for method in METHODS:
        assert list(results["precision"][method]) == ["1", "2", "4", "6", "silent"]
        assert results["energy_nj"][method]["6"] > results["energy_nj"][method]["1"] > 0
    ours = results["precision"]["baseline+CIF+WSC"]["silent"]
    assert ours == results["reference_precision"]
    assert 0 <= ours["at_50_95"] <= ours["at_50"] <= 100
    assert results["differing"]["baseline+CIF+WSC"]["silent"] == {"missing": 0, "added": 0, "moved": 0}
    assert results["mismatches"]["baseline+CIF+WSC"]["silent"] == 0
    assert results["precision"]["baseline"]["silent"] is None
    assert results["exact_at"] <= results["steps_to_silence"]["max"]
    assert (results["train_examples"], results["test_examples"], results["q"]) == (8, 4, 4)
    for picture in ("precision.png", "detections.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    snn = casc_core.load(folder / "network")
    assert len(snn.layers) >= 20

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    again = recipe(tmp_path, "--q", 4, "--T", 2)
    assert "detector found" in capsys.readouterr().err
    assert again["training"] == results["training"]
    other = recipe(tmp_path, "--q", 2, "--T", 2)
    said = capsys.readouterr()
    assert "the detector with plain ReLU is found" in said.err
    assert other["classifier"] != results["classifier"]


@pytest.mark.slow
def test_two_processes_give_what_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--q", 4, "--T", 4, "--out", tmp_path, "--device", "cpu", *TINY]
    two = run_recipe("yolo.py", *options, launcher=TWO_PROCESSES)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("detector trained") == 1
    of_two = json.loads((tmp_path / "results.json").read_text())
    of_one = recipe(tmp_path, *options)
    said = capsys.readouterr()
    assert "detector found" in said.err
    assert said.out == two.stdout
    for name in ("precision", "differing", "exact_at", "steps_to_silence", "against_ann"):
        assert of_one[name] == of_two[name]


def test_figures_of_the_paper() -> None:
    voc, coco = (paper.over_time(name) for name in ("voc", "coco"))
    assert voc is not None
    assert coco is not None
    assert "| CASC (q=8), YOLO        | 72.92 | 24.96 | 73.03 | 72.94 | 72.94 |" in voc.table()
    assert "| Spiking-YOLO, Tiny-YOLO | 53.01 |     - |     - |     - | 51.83 |" in voc.table()
    assert "| ACP, Faster R-CNN    | 37.00 |     - |     - | 31.00 | 34.20 |" in coco.table()
    assert paper.over_time("shapes") is None


def test_its_network_is_found_again_by_name(
    first: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, *_ = first
    args = yolo.options().parse_args([*TINY, "--q", "4", "--out", str(folder)])
    found = yolo.experiment(args, torch.device("cpu"), {}, find_only=True)
    assert found.recipe == "yolo"
    batch = next(iter(found.batches(ALL)))
    assert casc_core.verify(casc_core.convert(found.network), *batch.inputs, measures=found.metric.measures).exact
    assert cli.main(["verify", str(folder), "--limit", "2"]) == 0
    assert "EXACT" in capsys.readouterr().out
    assert cli.main(["compare", str(folder), "--limit", "2", "--T", "4", "--out", str(tmp_path / "compared")]) == 0
    comparison = json.loads((tmp_path / "compared/comparison.json").read_text())
    assert list(comparison["outputs"]) == ["objectness", "classes", "boxes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "50"], "the sides of the image must be multiples of the stride, 8; got 50x50"),
        (["--width", "0"], "width must lie in (0, 16]; got 0.0"),
        (["--epochs", "0"], "epochs must be an integer of at least 1; got 0"),
        (["--relu-epochs", "-1"], "--relu-epochs must be at least 0; got -1"),
        (["--smallest", "0"], "--smallest must lie in (0, 1]; got 0.0"),
        (["--mosaic", "2"], "mosaic must lie in 0..1; got 2.0"),
        (["--overlap", "2"], "overlap must lie in 0..1; got 2.0"),
        (["--optimizer", "adam"], "optimizer must be one of"),
        (["--weights", "none.pth"], "cannot read none.pth: there is no such file"),
        (["--data", "no/such/place"], "no/such/place: there is no such folder or file"),
        (["--workers", "-1"], "--workers must be at least 0; got -1"),
        (["--limit-train", "0"], "--limit-train must be at least 1; got 0"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        recipe(tmp_path, *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_broken_annotation_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_splits(tmp_path / "data", xml([("cat", ("x", 1, 9, 9))]))
    with pytest.raises(SystemExit):
        recipe(tmp_path / "out", "--data", tmp_path / "data")
    assert "a.xml, object 1: bndbox/xmin must be a number; got 'x'" in capsys.readouterr().err


def test_what_is_not_exact_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluation, "exact", property(lambda self: False))
    args = yolo.options().parse_args([*TINY, "--q", "4", "--T", "2", "--out", str(tmp_path), "--relu-epochs", "0"])
    with pytest.raises(NotExactError, match="NOT EXACT"):
        yolo.main(args, torch.device("cpu"))
    assert (tmp_path / "table.md").exists()


def test_levels_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path, "--sweep", "none,4", "--calibrate-q", 8, "--T", 4)
    said = capsys.readouterr()
    assert said.err.count("the detector with plain ReLU is found") == 1  # trained for `none`, found for 4
    assert [row["q"] for row in json.loads((tmp_path / "sweep.json").read_text())["rows"]] == [None, 4]
    plain, four = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("qnone", "q4"))
    assert (plain["q"], four["q"]) == (None, 4)
    assert plain["training"]["calibration"]["q"] == 8
    assert plain["exact"]
    assert four["exact"]
    assert "differ from" not in said.err
    recipe(tmp_path, "--sweep", "4,none", "--calibrate-q", 8, "--T", 4)
    assert "q=4: found" in capsys.readouterr().err
    for folder in ("qnone", "q4"):
        assert cli.main(["verify", str(tmp_path / folder), "--limit", "1"]) == 0
        assert "EXACT" in capsys.readouterr().out


def test_results_of_before_there_was_one_evaluation_are_found_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(SAVED / "yolo", out)
    before = json.loads((out / "results.json").read_text())
    assert cli.main(["verify", str(out), "--limit", "1"]) == 0
    again = recipe(out, "--q", 4, "--T", 6)
    assert "detector found" in capsys.readouterr().err
    for name in (
        "precision",
        "differing",
        "energy_nj",
        "reference_precision",
        "exact_at",
        "steps_to_silence",
        "training",
    ):
        assert again[name] == before[name]
    assert again["mismatches"] == before["images_differing"]


def checked(*arguments: str) -> Any:
    args = yolo.options().parse_args(arguments)
    yolo.check(args)
    return args


def test_the_paper_s_own_training_is_one_option() -> None:
    args = checked("--data", "voc", "--paper")
    schedule = yolo.schedule(args, 8)
    assert (args.size, args.stride, args.width, args.smallest) == ((640, 640), 32, 1.0, 0.5)
    assert schedule.relu is None
    levels = schedule.levels
    assert (levels.optimizer, levels.learning_rate, levels.epochs) == ("sgd", 1e-3, 200)
    args = checked("--data", "voc", "--paper", "--size", "320", "--epochs", "3", "--relu-epochs", "2")
    schedule = yolo.schedule(args, 8)
    assert schedule.relu is not None
    assert (args.size, schedule.relu.epochs, schedule.levels.epochs) == ((320, 320), 2, 3)


def test_trainings_are_found_by_names_that_stay(tmp_path: Path) -> None:
    """Another name would leave trained networks, and the states of interrupted trainings, where nothing finds them."""
    args = checked("--out", str(tmp_path))
    data = yolo.load(args, {})
    with pytest.raises(StorageError, match="holds no network"):
        yolo.one(args, torch.device("cpu"), data, 8, tmp_path, {}, find_only=True)
    stores: list[str] = []

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "Store", lambda folder, key, *more: stores.append(key) or Store(folder, key, *more))
        patch.setattr(experiment, "_with_relu", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yolo.one(args, torch.device("cpu"), data, 8, tmp_path, {})
    assert stores == ["e2109da7f418", "33ffee365511"]
