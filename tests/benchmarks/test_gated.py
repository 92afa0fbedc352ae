"""The benchmark of recurrent networks of torch's own, converted as they are: the task that needs memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gated

MEMORY = "--data markers --pooling last --word-dropout 0 --lr 0.01 --hidden 32 --embedding 32".split()


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *more: object) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["gated.py", *MEMORY, "--out", str(out), *map(str, more)])
    gated.main()
    rows: list[dict[str, Any]] = json.loads((out / "gated.json").read_text())["rows"]
    return rows


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_it_trains_converts_and_verifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell: str) -> None:
    few = "--texts", 128, "--epochs", 1, "--limit", 20, "--max-len", 10
    first = run(monkeypatch, tmp_path, "--cell", cell, *few, "--q", 2)
    (row,) = run(monkeypatch, tmp_path, "--cell", cell, *few, "--q", 4)
    assert row["float"] == first[0]["float"]  # the training was found again
    assert (row["q"], row["exact"], row["texts"], row["differ"], row["faults"]) == (4, True, 20, 0, 0)
    assert row["neurons"] == 20 * 10 * 32 * (4 if cell == "gru" else 6)
    assert row["rounded"] == row["spiking"]
    assert "| levels q" in (tmp_path / "gated.md").read_text()
