"""`casc detect`: what it finds and draws, and the folders and images that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yolo
from detection_recipes.detect import detect, load_detector
from detection_recipes.shapes import drawn_shapes
from PIL import Image

from casc_core.errors import StorageError
from casc_lab.cli import main

TINY = "--width 0.02 --size 48 --relu-epochs 0 --epochs 1 --batch-size 4 --limit-train 4 --limit-test 1 --q 4 --T 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipe left a detector, of which nothing but its form matters."""
    out = tmp_path_factory.mktemp("detector")
    args = yolo.options().parse_args([*TINY.split(), "--quiet", "--score", "0.0001", "--out", str(out)])
    yolo.main(args, torch.device("cpu"))
    return out


@pytest.fixture
def image(tmp_path: Path) -> Path:
    drawn_shapes(1, 0).train[0].open().save(tmp_path / "shapes.jpg")
    return tmp_path / "shapes.jpg"


def test_it_draws_and_says_what_it_finds(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--network", str(folder), "--out", str(tmp_path / "out"), "--score", "0.0001"]
    assert main(["detect", str(image), *options]) == 0
    said = capsys.readouterr().out
    assert "the readouts are the quantised ANN's, bit for bit" in said
    assert "objects found: T=1: " in said
    assert (tmp_path / "out/shapes.png").read_bytes().startswith(b"\x89PNG")
    assert main(["detect", str(image), *options, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["exact"] is True
    last = told["steps"][str(told["silent_at"])]
    detector = load_detector(folder)
    expected = detect(detector, Image.open(image).convert("RGB")).found
    assert len(last) == len(expected) > 0
    assert last[0]["class"] == detector.classes[int(expected.labels[0])]
    assert last[0]["box"] == pytest.approx(expected.boxes[0].tolist(), abs=0.01)
    assert all(0 <= row["box"][0] <= row["box"][2] <= 96 for row in last)


def test_a_run_that_is_cut_off_says_so(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(image), "--network", str(folder), "--out", str(tmp_path / "out"), "--T", "2"]) == 0
    said = capsys.readouterr().out
    assert "cut off, not yet silent" in said
    assert "T=2: " in said


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        ([], ["--network", "none"], "none is not the output folder of a detection recipe: it holds no results.json"),
        ([], ["--T", "0"], "--T must be at least 1; got 0"),
        ([], ["--score", "2"], "--score must lie in 0..1; got 2.0"),
        (["none.png"], [], "none.png: missing, damaged or not an image"),
        (["else/shapes.jpg"], [], "several images would be written to"),
    ],
)
def test_mistakes_are_one_line(
    others: list[str],
    options: list[str],
    message: str,
    folder: Path,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ["--network", str(folder), "--out", str(tmp_path / "out")]
    assert main(["detect", str(image), *others, *usual, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("classes", ["one"], "they are of two trainings"),
        ("classes", 3, "is damaged, or not that of a detection recipe"),
        ("options", {}, "is damaged, or not that of a detection recipe"),
        ("options", {"size": [50, 48], "stride": 8, "score": 0.1, "overlap": 0.5}, "50x48 pixels are no whole cells"),
        (
            "options",
            {"size": [48], "stride": 8, "score": 0.1, "overlap": 0.5},
            "is damaged, or not that of a detection recipe",
        ),
        (
            "options",
            {"size": [48, 48], "stride": 8, "score": "x", "overlap": 0.5},
            "is damaged, or not that of a detection recipe",
        ),
    ],
)
def test_results_that_do_not_fit_are_refused(
    part: str, value: object, message: str, folder: Path, tmp_path: Path
) -> None:
    results = json.loads((folder / "results.json").read_text()) | {part: value}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "network").symlink_to(folder / "network")
    with pytest.raises(StorageError, match=message):
        detect(load_detector(tmp_path), Image.new("RGB", (60, 60)))
