"""The replayer knows an export alone, and reproduces every spike, potential and logit from it."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import replay
import torch
from exported import CASES, Attention, converted
from pages import ROOT
from safetensors.numpy import load_file, save_file

import casc_core
from casc_core import AsTrained, Exact
from casc_core.engine.ops import Multiply

REPLAYER = ROOT / "examples" / "replay.py"
PROFILE = Exact(8, bias_on_weight_grid=True)


@pytest.mark.parametrize("numerics", [AsTrained(), PROFILE], ids=["as trained", "8 bits"])
@pytest.mark.parametrize("name", CASES)
def test_everything_is_reproduced(name: str, numerics: AsTrained | Exact, tmp_path: Path) -> None:
    snn, made = converted(name, numerics)
    snn.export(tmp_path / "export", made.inputs, T=made.T)
    found = replay.replay(tmp_path / "export")
    assert len(found) == 2 * len(snn.layers) + (2 if name == "two_outputs" else 1)
    assert set(found.values()) == {0}


def test_products_of_currents_are_reproduced(tmp_path: Path) -> None:
    """As trained they are rounded, and held where neurons read them."""
    torch.manual_seed(0)
    snn = casc_core.convert(Attention(of_currents=True).eval())
    rounded = [op for op in snn.operations() if isinstance(op, Multiply) and op.settings["arriving"] is not None]
    assert any(op.settings["held"] is not None for op in rounded)
    snn.export(tmp_path / "export", 3 * torch.randn(3, 3, 4))
    assert set(replay.replay(tmp_path / "export").values()) == {0}


def test_it_imports_nothing_of_ours_and_is_short() -> None:
    text = REPLAYER.read_text(encoding="utf-8")
    imported = {
        name.name.partition(".")[0]
        for statement in ast.walk(ast.parse(text))
        if isinstance(statement, ast.Import)
        for name in statement.names
    } | {
        str(statement.module).partition(".")[0]
        for statement in ast.walk(ast.parse(text))
        if isinstance(statement, ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "safetensors"}
    assert len(text.splitlines()) <= 150


@pytest.mark.parametrize(
    ("name", "weight", "layer", "axis"),
    [
        ("mlp", "2.weight", "1", -1),
        ("mlp", "4.weight", "3", -1),
        ("max_pool_cnn", "3.weight", "2", 3),
        ("bidirectional_rnn", "rnn.l0.weight", "rnn.l0", -1),
    ],
)
def test_one_flipped_bit_in_a_weight_is_caught(name: str, weight: str, layer: str, axis: int, tmp_path: Path) -> None:
    snn, made = converted(name, Exact(8))
    snn.export(tmp_path, made.inputs)
    spikes = np.abs(load_file(tmp_path / "traces.safetensors")[f"spikes.{layer}"])
    busiest = np.moveaxis(spikes, axis, 0).reshape(spikes.shape[axis], -1).sum(1).argmax()
    integers = load_file(tmp_path / "integers.safetensors")
    integers[weight][0, busiest] ^= 1 << 6
    save_file(integers, tmp_path / "integers.safetensors")
    assert any(replay.replay(tmp_path).values())


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    snn, made = converted("mlp", Exact(8))
    snn.export(tmp_path, made.inputs)
    monkeypatch.setattr(sys, "argv", ["replay.py", str(tmp_path)])
    runpy.run_path(str(REPLAYER), run_name="__main__")
    assert "logits.logits: 0 differ" in capsys.readouterr().out
    assert json.loads((tmp_path / "integers.json").read_text())["samples"] == len(made.inputs[0]) == 3
    assert torch.equal(snn(*made.inputs), snn.reference(*made.inputs))
