"""`compare` and the command on a network with several outputs: each by its own measure."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.rivals.methods import FOUR
from casc_lab.cli import main
from casc_lab.compare.comparison import compare
from casc_lab.compare.measure import by_output
from casc_lab.compare.network_and_data import NetworkAndData
from casc_lab.compare.page import page
from casc_lab.compare.terminal_summary import terminal_summary


class Two(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b = nn.Linear(5, 12), act or CQReLU(3), nn.Linear(12, 8)
        self.act2, self.kind, self.size = act or CQReLU(3), nn.Linear(8, 3), nn.Linear(8, 2)
        self.a.weight.data *= 3
        self.b.weight.data *= 2

    def forward(self, x):
        h = self.act2(self.b(self.act(self.a(x))))
        return {"kind": self.kind(h), "size": self.size(h)}


X = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


def overshoot(found, wanted):
    return (found - wanted).clamp_min(0).amax(1)


@pytest.fixture(scope="module")
def compared():
    snn = casc_core.convert(Two())
    reference = snn.reference(X)
    labels = {"kind": reference["kind"].argmax(1), "size": reference["size"] + 0.5}
    data = [
        (X[:20], {name: each[:20] for name, each in labels.items()}),
        (X[20:], tuple(labels[name][20:] for name in labels)),
    ]
    return NetworkAndData(snn, None, lambda: data, None, "two heads", "noise", {}), labels


@pytest.fixture(scope="module")
def result(compared):
    return compare(compared[0], T=4, methods=dict(FOUR))


def test_figures_of_each_output_are_its_own(compared, result):
    (network, labels), T = compared, 4
    assert result["equivalence"]["exact"]
    assert result["ann_accuracy"] is result["ann_error"] is None
    assert result["outputs"]["kind"]["reference_accuracy"] == 100.0
    assert result["outputs"]["size"]["reference_error"] == pytest.approx(0.25, rel=1e-5)
    for row, method in zip(result["methods"], FOUR.values(), strict=True):
        simulated = method.network(network.snn, []).simulate(X, T=T).outputs
        kinds = simulated["kind"].argmax(2) != labels["kind"]
        sizes = (simulated["size"] != network.snn.reference(X)["size"]).any(2)
        assert row["outputs"]["kind"]["mismatches"] == kinds.sum(1).tolist()
        assert row["outputs"]["size"]["mismatches"] == sizes.sum(1).tolist()
        assert row["mismatches"] == (kinds | sizes).sum(1).tolist()
        assert row["outputs"]["kind"]["accuracy"] == pytest.approx(
            (100 - kinds.double().mean(1) * 100).tolist(), abs=1e-3
        )
        off = (simulated["size"] - labels["size"]).double().square().mean((1, 2))
        assert row["outputs"]["size"]["error"] == pytest.approx(off.tolist(), rel=1e-5)
    json.dumps(result, allow_nan=False)


def test_the_report_and_the_summary_show_each_output(result):
    assert [name for name, _ in by_output(result)] == ["kind", "size"]
    said, text = terminal_summary(result), page(result)
    for words in (
        "accuracy of 'kind' (%)",
        "mean squared error of 'size' (MSE)",
        "samples whose predictions of 'kind' differ",
    ):
        assert words in said
    assert "samples whose outputs of 'size' differ" in said
    assert "Accuracy of 'kind': ANN as trained" in said
    assert "How fast they vanish: output &#x27;kind&#x27;" in text
    assert "Output &#x27;size&#x27;: mean squared error" in text


def test_a_function_of_the_users_is_named(compared):
    network, _ = compared
    own = NetworkAndData(network.snn, None, network.batches, None, "two", "noise", {}, measures={"size": overshoot})
    found = compare(own, T=4, methods=dict(FOUR))
    assert found["outputs"]["size"]["reference_error"] == 0.0
    assert "overshoot of 'size' (overshoot)" in terminal_summary(found)
    assert "overshoot against the labels" in page(found)


MODULE = """
import torch
from torch import nn
from test_several_outputs_compared import Two, X

def load():
    model = Two(nn.ReLU())
    with torch.no_grad():
        found = model(X)
    data = torch.utils.data.TensorDataset(X, found["kind"].argmax(1), found["size"])
    return model, torch.utils.data.DataLoader(data, batch_size=12)

def load_measured():
    return Two(), [X], {"size": "numbers"}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "two_heads_for_casc.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(sys.modules, "test_several_outputs_compared", sys.modules[__name__])
    monkeypatch.delitem(sys.modules, "two_heads_for_casc", raising=False)
    return "two_heads_for_casc"


def test_the_command_calibrates_and_compares_several_outputs(module, capsys):
    arguments = ["--q", "4", "--T", "4", "--methods", "baseline", "--limit", "20", "--out", "out", "--quiet"]
    assert main(["compare", f"{module}:load", *arguments]) == 0
    said = capsys.readouterr().out
    assert "accuracy of 'kind' (%)" in said
    assert "NOT LOSSLESS" in said


def test_the_command_verifies_several_outputs(module, capsys):
    assert main(["verify", f"{module}:load_measured", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"]
    assert [(each["name"], each["equal"], each["prediction_mismatches"]) for each in found["outputs"]] == [
        ("kind", True, 0), ("size", True, None),
    ]  # fmt: skip
