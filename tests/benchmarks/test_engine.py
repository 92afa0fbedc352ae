"""The benchmark of the engine, at tiny sizes: that it works, not how fast it is."""

from __future__ import annotations

import json
import math
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

ENGINE = Path(__file__).parents[2] / "benchmarks" / "engine.py"


def run(*arguments: object) -> None:
    """The benchmark in this process, which need not load torch again."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ENGINE.parent)
        patch.setattr(sys, "argv", [str(ENGINE), "--quick", *map(str, arguments)])
        try:
            runpy.run_path(str(ENGINE), run_name="__main__")
        finally:
            torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    # One thread, because two on a machine at work wait for each other.
    options = "--threads 1 --repeats 1 --only recurrent,feedforward,convolution --data sample".split()
    with redirect_stdout(StringIO()) as printed:
        run(*options, "--out", folder)
    assert "## Recurrent classifier" in printed.getvalue()
    return folder


@pytest.fixture(scope="module")
def sections(out: Path) -> dict[str, Any]:
    results = json.loads((out / "engine.json").read_text())
    assert results["machine"]["torch"]
    return dict(results["sections"])


def test_every_ratio_is_a_positive_number(sections: dict[str, Any]):
    assert set(sections) == {"recurrent", "feedforward", "convolution"}
    for section in sections.values():
        timed = [row for row in section["rows"] if row["wall_s"]]
        assert len(timed) >= 10  # more where the peers are installed
        for row in timed:
            for value in (row["wall_ratio"], row["cpu_ratio"], row["wall_ms"], row["cpu_ms"]):
                assert math.isfinite(value)
                assert value > 0


def test_what_cannot_be_run_says_why(sections: dict[str, Any]):
    for section in sections.values():
        for row in section["rows"]:
            assert row["wall_s"] or row["note"]


def test_every_network_spikes_and_falls_silent(sections: dict[str, Any]):
    assert [fact["network"].split(",")[0] for fact in sections["recurrent"]["networks"]] == ["q=2", "q=2", "q=8"]
    for section in sections.values():
        for fact in section["networks"]:
            assert fact["spikes_per_neuron"] > 0
            assert fact["silent_at_max"] >= 1


def test_it_compares_with_the_peers_or_says_that_they_are_absent(sections: dict[str, Any], out: Path):
    table = (out / "engine.md").read_text()
    for section in ("feedforward", "convolution"):
        entries = {row["entry"] for row in sections[section]["rows"]}
        for peer in ("SpikingJelly", "sinabs"):
            assert any(entry.startswith(peer) for entry in entries)
            assert peer in table


def test_what_is_exact_is_off_by_nothing_and_the_rest_by_something(sections: dict[str, Any]):
    errors = {(row["entry"], row["against"]): row for row in sections["convolution"]["errors"]}
    silent = errors["snn(...), until silent", "snn.reference(...)"]
    assert silent["images"] == 8
    assert silent["logits_percent"] == silent["counts_percent"] == silent["predictions_that_differ"] == 0
    for entry, against in errors:
        if "T=2" in entry:
            assert errors[entry, against]["logits_percent"] > 1


def test_layers_are_timed_on_both_paths(sections: dict[str, Any]):
    ways = sections["convolution"]["ways"]
    assert all(sum(used.values()) == 2 for used in ways["used"].values())
    cases = {row["case"].split(":")[0] for row in ways["rows"]}
    assert {"snn(...), layer 5", "snn(...), layer 9", "snn.reference(...), layer 5"} < cases
    assert all(row["wall_ratio"] > 0 for row in ways["rows"])


def test_the_picture_is_there(out: Path):
    assert (out / "engine.png").read_bytes().startswith(b"\x89PNG")


def test_trained_networks_are_found_again(out: Path):
    trained = sorted((out / "networks").glob("q*/classifier-*/classifier.safetensors"))
    assert [file.parents[1].name for file in trained] == ["q2", "q8"]
    assert len(list((out / "networks" / "convolution").glob("classifier-*/classifier.safetensors"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "everything"], "there is no section everything"),
        (["--repeats", 0], "--repeats and --threads must be at least 1"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: list[object], message: str, tmp_path: Path):
    with pytest.raises(SystemExit) as stopped:
        run("--out", tmp_path, *arguments)
    said = str(stopped.value.code)  # which Python prints, and exits with status 1
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
