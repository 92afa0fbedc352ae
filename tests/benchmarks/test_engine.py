"""The benchmark of the engine, at tiny sizes: that it works, not how fast it is."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
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
    options = "--threads 1 --repeats 1 --only recurrent,feedforward,convolution,deep --data sample".split()
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
    assert set(sections) == {"recurrent", "feedforward", "convolution", "deep"}
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
    assert [fact["network"].split(",")[0] for fact in sections["recurrent"]["networks"]] == [
        "q=2",
        "q=2",
        "q=2",
        "q=8",
        "q=8",
    ]
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


def test_deep_networks_are_timed_with_both_numerics(sections: dict[str, Any]):
    deep = sections["deep"]
    assert [fact["network"].split(",")[0] for fact in deep["networks"]] == ["ResNet20", "VGG16", "detector"]
    for name in ("snn(...), until silent", "snn.reference(...)"):
        assert {name, f"{name}, 16 bits"} < {row["entry"] for row in deep["rows"]}


def test_the_roofline_counts_every_event_at_every_synapse(sections: dict[str, Any]):
    (layers, others) = (roof["layers"] for roof in sections["deep"]["rooflines"])
    assert [layer["layer"] for layer in layers] == [layer["layer"] for layer in others]
    blocks = {f"layer{stage}.{block}.relu1" for stage in (1, 2, 3) for block in range(3)}
    assert blocks <= {layer["layer"] for layer in layers}
    images, width = 4, 4
    inner = 30 * 30 * 9 + 4 * 30 * 6 + 4 * 4  # positions of a 3x3 window on 32x32 pixels that lie in the image
    assert layers[0]["synapses"] == images * inner * width * width
    for layer in layers:
        assert 0 < layer["additions"] / layer["synapses"] < len(layer["densities"])


def test_by_other_instructions_it_runs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a process whose libraries are kept to them."""
    asked: list[dict[str, str]] = []

    def started(command: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
        assert command[1] == str(ENGINE)
        asked.append(env)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", started)
    with pytest.raises(SystemExit) as stopped:
        run("--instructions", "avx2", "--out", tmp_path)
    assert stopped.value.code == 3
    assert asked[0]["CASC_KERNELS"] == asked[0]["ATEN_CPU_CAPABILITY"] == "avx2"


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
