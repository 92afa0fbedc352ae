"""The benchmark of recurrent networks of torch's own, converted as they are: the task that needs memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import agnews_rnn
import pytest
import torch
from recipe_runs import run_here

import casc_core
import casc_seq

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


def test_costs_alone_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = "--texts", 128, "--epochs", 1, "--limit", 20, "--max-len", 10
    (row,) = run(monkeypatch, tmp_path, "--cell", "gru", *few, "--q", 2, "--cost")
    assert row.keys() == {"q", "words", "spikes", "energy_ratio", "time_ratio"}
    assert row["words"] == 10
    assert min(row.values()) > 0


def test_what_a_recipe_has_left_is_measured_beside_torchs_own_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = "--hidden 6 --embedding 8 --epochs 1 --max-len 8 --no-bidirectional --pooling last".split()
    made = "--data", "sample", "--out", tmp_path / "made", "--threads", 1, "--quiet"
    run_here(agnews_rnn, "--cell", "gru", "--q", 4, "--T", 4, *size, *made)
    monkeypatch.setattr(sys, "argv", ["gated.py", "--recipe", str(tmp_path / "made"), "--out", str(tmp_path)])
    gated.main()
    (row,) = json.loads((tmp_path / "gated.json").read_text())["rows"]
    assert row.keys() == {"q", "words", "spikes", "energy_ratio", "time_ratio"}
    assert row["q"] == 4
    run_here(agnews_rnn, "--q", 2, "--T", 2, *size, *made)
    with pytest.raises(casc_core.ConfigError, match="holds no GRU or LSTM: train one with --cell gru"):
        gated.main()


@pytest.mark.parametrize("kind", [casc_seq.GRU, casc_seq.LSTM])
def test_torchs_own_layers_do_not_read_behind_the_end_of_a_text(kind: type[Any]) -> None:
    ours = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(3, 5, 3), torch.tensor([2, 5, 1])
    states, _ = gated.TorchLayers(ours)(x, lengths)
    torch.testing.assert_close(states, ours(x, lengths=lengths)[0])
