"""`casc export` on a network of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import replay

from casc_lab.cli import main

MODULE = """
import torch
from torch import nn
torch.manual_seed(0)
def network():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(5, 6), torch.zeros(5).long())]
    return model, batches, batches
def nothing():
    return network()[0], []
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported_by_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_it_writes_integers_and_says_how_wide_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "integers"
    command = ["export", "exported_by_a_user:network", "--q", "4", "--weight-bits", "8", "--out", str(out), "--hex"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "potential, proven" in said
    assert f"MiB in {out}" in said
    assert "beyond 32 bits" not in said
    assert json.loads((out / "integers.json").read_text())["samples"] == 4
    assert (out / "hex").is_dir()
    assert not any(replay.replay(out).values())


def test_as_trained_it_says_which_potentials_are_wide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "exported_by_a_user:network", "--q", "4", "--out", str(tmp_path / "wide"), "--limit", "2"]
    assert main(command) == 0
    assert "potentials beyond 32 bits: 1" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
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
