"""`casc export` on a network of the user's own."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import replay
import torch
from safetensors.torch import load_file

import casc_core
from casc_lab.cli import main

MODULE = """
import casc_core, torch
from torch import nn
IMAGES = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    batches = [(IMAGES, torch.zeros(5).long())]
    return model, batches, batches
def prepared():
    model, batches, _ = network()
    return casc_core.prepare(model, q=4), batches
def nothing():
    return network()[0], []
"""


NETWORK = ["export", "exported_by_a_user:network", "--q", "4"]


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported_by_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_it_writes_integers_and_says_how_wide_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "integers"
    command = [*NETWORK, "--weight-bits", "8", "--out", str(out), "--hex"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "potential, proven" in said
    assert f"MiB in {out}" in said
    assert "beyond 32 bits" not in said
    assert json.loads((out / "integers.json").read_text())["samples"] == 4
    assert (out / "hex").is_dir()
    assert not any(replay.replay(out).values())


def test_as_trained_it_says_which_potentials_are_wide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*NETWORK, "--out", str(tmp_path / "wide"), "--limit", "2"]
    assert main(command) == 0
    assert "potentials beyond 32 bits: 1" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2


@pytest.mark.parametrize("bits", [[], ["--weight-bits", "6"]])
def test_the_hardware_profile(bits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "integers"
    assert main([*NETWORK, "--hardware", *bits, "--out", str(out)]) == 0
    assert "beyond 32 bits" not in capsys.readouterr().out
    written = json.loads((out / "integers.json").read_text())
    assert written["network"]["numerics"] == f"Exact(weight_bits={6 if bits else 8}, bias_on_weight_grid=True)"
    population = next(node for node in written["nodes"] if node.get("layer") == "3")
    assert population["shift"] == 0
    assert main(["verify", *NETWORK[1:], "--hardware", *bits, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grid"] is not None


def test_it_writes_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose logits are those of the network in spikes."""
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    assert main([*NETWORK, "--onnx", str(file)]) == 0
    assert f"the quantised network in {file}: input [batch, 6] to logits [batch, 3]" in capsys.readouterr().out
    own = importlib.import_module("exported_by_a_user")
    model, batches, _ = own.network()
    (logits,) = runtime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"input": own.IMAGES.numpy()}
    )
    snn = casc_core.convert(casc_core.calibrate(model, [batches[0][:1]], q=4).model)
    assert torch.equal(torch.from_numpy(logits), snn(own.IMAGES))


def test_it_writes_nir_and_the_currents_that_it_begins_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nir = pytest.importorskip("nir")
    file = tmp_path / "net.nir"
    command = ["export", "exported_by_a_user:prepared", "--weight-bits", "8", "--nir", str(file)]
    assert main([*command, "--onnx", str(tmp_path / "model.onnx"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about.keys() == {"nir", "onnx"}
    assert about["nir"]["neurons"] == {"1": "layer_1", "3": "layer_3"}
    graph, held = nir.read(file), load_file(about["nir"]["currents"])
    assert held["current"].shape == (4, *graph.nodes["layer_1"].v_threshold.shape)
    assert float(held["scale"]) == about["nir"]["scale"]
    assert main(command) == 0
    assert "NIR has no consistent neurons" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["exported_by_a_user:network", "--q", "4"],
            "nothing is to be written: give --out FOLDER, --onnx FILE or --nir",
        ),
        (["exported_by_a_user:network", "--q", "4", "--nir", "x"], "its neurons begin with a potential"),
        (["exported_by_a_user:network", "--q", "4", "--onnx", "x", "--hex"], "--hex is for the integers that --out"),
        (["exported_by_a_user:network", "--q", "4", "--onnx", "x", "--T", "9"], "--T is for the integers that --out"),
        (
            ["exported_by_a_user:network", "--q", "4", "--hardware", "--weight-bits", "1", "--out", "x"],
            "weight_bits must",
        ),
        (["exported_by_a_user:network", "--q", "4", "--out", "."], "holds other files"),
        (["no-such-folder", "--out", "x"], "there is no folder 'no-such-folder'"),
        (["exported_by_a_user:network", "--q", "4", "--limit", "0", "--out", "x"], "--limit must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert line in capsys.readouterr().err
