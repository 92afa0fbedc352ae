"""The AG News recipe, run as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import random
from pathlib import Path
from typing import Any

import agnews_rnn
import pytest
from recipe_runs import TWO_PROCESSES, run_here, run_recipe, run_script

import casc_core
from casc_lab.cli import main

TINY = "--quiet --threads 1 --epochs 4 --batch-size 16 --lr 0.02 --embedding 12 --hidden 12".split()
METHODS = ["baseline", "baseline+WSC", "baseline+CIF", "baseline+CIF+WSC"]


def recipe(out: Path, *arguments: object) -> dict[str, Any]:
    """The recipe in this process; returns results.json."""
    run_here(agnews_rnn, *TINY, "--out", out, *arguments)
    return dict(json.loads((out / "results.json").read_text()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four topics of made-up words, a word of another topic in each text."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for split, count in (("train", 320), ("test", 60)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for index in range(count):
                topic = index % 4
                words = [f"topic{topic}word{rng.randrange(5)}" for _ in range(rng.randint(1, 9))]
                rows.writerow([topic + 1, " ".join([*words, f"topic{rng.randrange(4)}word0"]), f"number {index}"])
    return folder


def test_it_trains_converts_and_writes_everything(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    results = recipe(out, "--q", 2, "--T", 5, "--data", corpus)
    said = capsys.readouterr()
    assert results["train_examples"] == 320
    assert results["test_examples"] == 60
    assert list(results["accuracy"]) == METHODS
    for method in METHODS:
        assert list(results["accuracy"][method]) == ["1", "2", "4", "5", "silent"]
    assert results["accuracy"]["baseline"]["silent"] is None
    assert results["accuracy"]["baseline+CIF+WSC"]["silent"] == results["reference_accuracy"]
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    silence = results["steps_to_silence"]
    assert silence["p50"] <= silence["p99"] <= silence["max"]
    assert results["seconds"].keys() >= {"data", "train", "convert", "evaluate"}
    assert results["ann_accuracy"] > 50
    assert str(corpus.parent) not in results["data"]
    assert "| baseline+CIF+WSC |" in said.out
    assert "| baseline+CIF+WSC |" in (out / "table.md").read_text()
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert casc_core.load(out / "network").layers == ("rnn.l0", "rnn.l0_reverse")

    again = recipe(out, "--q", 2, "--T", 2, "--data", corpus, "--weight-bits", 8)
    assert "classifier found" in capsys.readouterr().err
    assert again["ann_accuracy"] == results["ann_accuracy"]

    recipe(out, "--q", 4, "--T", 2, "--data", corpus, "--epochs", 1)
    assert "classifier trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "methods", "layers"),
    [
        (["--cell", "gru"], ["baseline+WSC", "baseline+CIF+WSC"], "rnn.l0.reset"),
        (["--cell", "lstm"], ["baseline+WSC", "baseline+CIF+WSC"], "rnn.l0.input"),
        (["--model", "textcnn"], METHODS, "cnn.activations.0"),
    ],
)
def test_every_cell_and_model(
    corpus: Path, tmp_path: Path, options: list[str], methods: list[str], layers: str
) -> None:
    out = tmp_path / "out"
    results = recipe(out, "--q", 4, "--T", 5, "--data", corpus, *options)
    assert list(results["accuracy"]) == methods
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert results["ann_accuracy"] > 50
    assert casc_core.load(out / "network").layers[0] == layers
    shown = main(["classify", "topic1word2 topic1word0", "--network", str(out)])
    assert shown == 0


@pytest.mark.slow  # as in the other recipes
def test_two_processes_give_what_one_does(corpus: Path, tmp_path: Path) -> None:
    options = ["--q", 2, "--T", 5, "--data", corpus, "--out", tmp_path, "--device", "cpu", *TINY]
    two = run_recipe("agnews_rnn.py", *options, launcher=TWO_PROCESSES)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("classifier trained") == 1
    assert "Warning" not in two.stderr
    files = {
        name: (tmp_path / name).read_bytes() for name in ("table.md", "results.json", "network/network.safetensors")
    }

    one = run_recipe("agnews_rnn.py", *options)
    assert one.returncode == 0, one.stderr
    assert "classifier found" in one.stderr
    assert one.stdout == two.stdout
    for name, content in files.items():
        if name != "results.json":
            assert (tmp_path / name).read_bytes() == content
    of_two, of_one = json.loads(files["results.json"]), json.loads((tmp_path / "results.json").read_text())
    assert of_two.pop("machine")["processes"] == 2
    assert of_one.pop("machine")["processes"] == 1
    assert of_two.pop("seconds").keys() == of_one.pop("seconds").keys()
    assert of_two == of_one


def test_torchtext_is_one_option(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchtext", reason="needs the extra torchtext")
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"topic{topic}word0 {' '.join(['0.1'] * 12)}\n" for topic in range(4)))
    results = recipe(tmp_path / "out", "--tokenizer", "torchtext", "--vectors", vectors, "--T", 2, "--data", corpus)
    assert results["prediction_mismatches"] == 0


def test_a_mistake_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_script("agnews_rnn.py", "--data", "/no/such/folder", "--out", tmp_path)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "no such folder" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--q 0", "--q must be at least 1; got 0"),
        ("--T 0", "--T must be at least 1; got 0"),
        ("--out /dev/null/out", "cannot write /dev/null/out"),
        ("--q 40000", "--q must be at most 32,767; got 40000"),
        ("--hidden 1000000", "choose smaller --embedding, --hidden or --layers"),
        ("--layers 1001", "num_layers must be at most 1000; got 1001"),
        ("--batch-size 100000000000000000000", "batch_size must be at most 2,147,483,647"),
        ("--max-words 100000000000000000000", "max_words must be at most 2,147,483,647"),
        ("--max-len 0", "max_len must be an integer of at least 1; got 0"),
        ("--vectors nowhere.txt", "vectors must be 'corpus', 'random' or a file of vectors; there is no file"),
        ("--dropout 7", "dropout must be a probability in [0, 1); got 7.0"),
        ("--lr nan", "lr must be positive and finite; got nan"),
        ("--seed -1", "seed must be an integer from 0"),
    ],
)
def test_a_mistake_is_told_before_the_texts_are_read(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agnews_rnn, "load_corpus", lambda *args: pytest.fail("read"))
    with pytest.raises(SystemExit) as stopped:
        recipe(tmp_path, *arguments.split())
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_real_news_is_exact(tmp_path: Path) -> None:
    if "CASC_DATA" not in os.environ:
        pytest.skip("set CASC_DATA to a folder with AG News")
    options = ["--epochs", 1, "--embedding", 64, "--hidden", 64, "--max-words", 20_000]
    run_here(agnews_rnn, "--q", 2, "--T", 8, "--quiet", "--out", tmp_path, *options)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test_examples"] == 7_600
    assert results["prediction_mismatches"] == 0
    assert results["max_logit_difference"] == 0.0
    assert results["ann_accuracy"] > 85
    assert results["accuracy"]["baseline+CIF+WSC"]["silent"] == results["reference_accuracy"]
    assert results["accuracy"]["baseline+CIF+WSC"]["8"] > results["accuracy"]["baseline+CIF+WSC"]["1"]


@pytest.mark.slow
def test_a_gru_remembers_which_marker_came_last(tmp_path):
    """What no network that forgets can say, with four levels, and in spikes."""
    options = "--cell gru --no-bidirectional --pooling last --data markers --q 4 --T 16 --threads 1 --quiet".split()
    run_here(agnews_rnn, *options, "--out", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["exact"]
    assert results["accuracy"]["baseline+CIF+WSC"]["silent"] >= 99
