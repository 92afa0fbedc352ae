"""The benchmark that verifies weights over a whole test set, on a few digits: interrupted, it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

sys.path += [str(Path(__file__).parents[2] / folder) for folder in ("benchmarks", "recipes")]

import as_trained
from image_recipes import models


def run(monkeypatch: pytest.MonkeyPatch, out: Path, weights: Path, *more: object) -> dict[str, Any]:
    options = "--data digits --limit 4 --calibrate 12 --batch 2".split()
    given = ["--weights", weights, "--out", out, *options, *more]
    monkeypatch.setattr(sys, "argv", ["as_trained.py", *map(str, given)])
    as_trained.main()
    found: dict[str, Any] = json.loads((out / "as_trained.json").read_text())
    return found


def test_it_verifies_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build("resnet20a", 10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), weights)
    (case,) = run(monkeypatch, tmp_path / "one", weights, "--q", 2)["cases"]
    assert (case["q"], case["samples"], case["spikes"], case["inexact"]) == (2, 4, 0, 0)
    assert case["faults"] == case["predictions"] == case["logits"] == 0
    assert case["neurons"] == 4 * (7 * 16**3 + 6 * 32 * 8**2 + 6 * 64 * 4**2)

    verify, seen = as_trained.casc_core.verify, []

    def interrupted(*given: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return verify(*given)

    monkeypatch.setattr(as_trained.casc_core, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "two", weights, "--q", 2)
    assert json.loads((tmp_path / "two" / "as_trained.json").read_text())["cases"][0]["samples"] == 2
    state = tmp_path / "two" / "as_trained.json"
    state.write_text(state.read_text().replace('"samples"', '"images"'))  # as they were called
    (again,) = run(monkeypatch, tmp_path / "two", weights, "--q", 2)["cases"]
    assert len(seen) == 3
    timed = ("seconds", "memory")
    assert {name: again[name] for name in again if name not in timed} == {n: case[n] for n in case if n not in timed}
    assert "| accuracy in spikes (%)" in (tmp_path / "two" / "as_trained.md").read_text()
