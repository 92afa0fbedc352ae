"""`Exact(bias_on_weight_grid=True)`: one scale for each layer, and what it costs is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import converted

import casc_core
from casc_core import ConfigError, Exact

PLAIN, PROFILE = Exact(8), Exact(8, bias_on_weight_grid=True)


def exported(name: str, numerics: Exact, folder: Path) -> list[dict[str, Any]]:
    snn, made = converted(name, numerics)
    snn.export(folder, made.inputs, T=made.T)
    nodes: list[dict[str, Any]] = json.loads((folder / "integers.json").read_text())["nodes"]
    return nodes


@pytest.mark.parametrize("name", ["mlp", "max_pool_cnn", "bidirectional_rnn"])
def test_no_current_is_shifted_and_potentials_are_narrower(name: str, tmp_path: Path) -> None:
    found = {numerics: exported(name, numerics, tmp_path) for numerics in (PLAIN, PROFILE)}
    widths = {}
    for numerics, nodes in found.items():
        within = [each for node in nodes for each in (node, *node.get("body", ()))]
        populations = [node for node in within if node["kind"] == "population"]
        widths[numerics] = sum(node["bits"]["potential"] for node in populations)
        shifts = [shift for node in within if node["kind"] == "add" for shift in node["shifts"]]
        shifts += [node["shift"] for node in populations]
        assert (sum(shifts) == 0) == (numerics == PROFILE)
    assert widths[PROFILE] < widths[PLAIN]


@pytest.mark.parametrize("name", ["mlp", "residual", "half_step", "thresholds_per_channel", "sigmoid_and_tanh", "gru"])
def test_it_is_exact_and_its_price_is_reported(name: str) -> None:
    snn, made = converted(name, PROFILE)
    report = casc_core.verify(snn, *made.inputs)
    assert report.exact
    assert report.grid is not None
    assert report.grid.neurons > 0
    assert "Exact(weight_bits=8, bias_on_weight_grid=True)" in str(report)


def test_biases_and_thresholds_are_multiples_of_the_unit_of_the_weights() -> None:
    snn, _ = converted("mlp", PROFILE)
    linear, fire = (op for op in snn.operations() if op.settings.get("name") in ("2", "3"))
    unit = 2.0 ** linear.settings["exponent"]
    assert fire.settings["exponent"] == linear.settings["exponent"]
    for numbers in (linear.weight, linear.bias, torch.tensor(fire.settings["threshold"])):
        assert torch.equal((numbers / unit).round() * unit, numbers)
    assert fire.settings["threshold"] / unit >= 32


def test_a_saved_network_keeps_it_and_others_are_saved_as_before(tmp_path: Path) -> None:
    for numerics, fields in (
        (PLAIN, {"kind", "weight_bits"}),
        (PROFILE, {"kind", "weight_bits", "bias_on_weight_grid"}),
    ):
        snn, made = converted("mlp", numerics)
        snn.save(tmp_path)
        written = json.loads((tmp_path / "network.json").read_text())
        assert set(written["settings"]["numerics"]) == fields
        loaded = casc_core.load(tmp_path)
        assert loaded.settings.numerics == numerics
        assert torch.equal(loaded(*made.inputs), snn(*made.inputs))


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_it_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match="bias_on_weight_grid must be True or False"):
        Exact(8, bias_on_weight_grid=value)


def test_its_name_says_it() -> None:
    assert str(PLAIN) == "Exact(weight_bits=8)"
    assert str(PROFILE) == "Exact(weight_bits=8, bias_on_weight_grid=True)"
    assert eval(repr(PROFILE), {"Exact": Exact}) == PROFILE
