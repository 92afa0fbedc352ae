"""What is written: integers alone, by a published schema, whole or not at all; and what is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from exported import CASES, LENGTHS, TOKENS, converted, perceptron
from pages import ROOT
from safetensors.numpy import load_file
from torch import Tensor, nn

import casc_core
from casc_core import AsTrained, ConfigError, ConversionError, Exact, InputError, StorageError
from casc_core.export.integers import rules
from casc_core.export.integers.folder import SCHEMA
from casc_core.extend import Connection, Op
from casc_core.numerics import Unrounded

VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def export(name: str, folder: Path, numerics: AsTrained | Exact | None = None, **options: Any) -> dict[str, Any]:
    """The description of an export of a case."""
    snn, made = converted(name, numerics or Exact(8))
    snn.export(folder, made.inputs, T=made.T, **options)
    return described(folder)


def described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "integers.json").read_text(encoding="utf-8"))
    return found


def tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: x for file in ("integers", "traces") for name, x in load_file(folder / f"{file}.safetensors").items()}


def test_the_schema_is_one() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("name", CASES)
def test_it_is_by_the_schema_and_of_integers_alone(name: str, tmp_path: Path) -> None:
    found = export(name, tmp_path)
    VALIDATOR.validate(found)
    held = tensors(tmp_path)
    assert held.keys() == found["tensors"].keys()
    for key, about in found["tensors"].items():
        assert held[key].dtype.kind == "i"
        assert list(held[key].shape)[about["limbs"] > 0 :][about["by_sample"] :] == about["shape"][about["by_sample"] :]
    assert {path.name for path in tmp_path.iterdir()} == {"integers.json", *found["files"]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("nodes", 0, "kind"), "softmax"),
        (("nodes", 1, "rule"), "LIF"),
        (("tensors", "2.weight", "bits"), 0),
        (("layers", "1", "bits", "proven"), {}),
        (("awake", 0), 2),
        (("files", "integers.safetensors"), "no checksum"),
        (("secret",), 1),
    ],
)
def test_the_schema_refuses_what_is_none(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    found = export("mlp", tmp_path)
    *before, last = path
    place: Any = found
    for key in before:
        place = place[key]
    place[last] = value
    assert not VALIDATOR.is_valid(found)


def test_traces_are_what_simulate_records(tmp_path: Path) -> None:
    snn, made = converted("max_pool_cnn", Exact(8))
    snn.export(tmp_path, made.inputs)
    found, held = described(tmp_path), tensors(tmp_path)
    simulation = snn.simulate(*made.inputs, record=("spikes", "potentials"))
    assert found["T"] == simulation.T
    assert held["silent_at"].tolist() == simulation.silent_at.tolist()
    units = {node["layer"]: node["unit"] for node in found["nodes"] if node["kind"] == "population"}
    for layer, spikes in simulation.spikes.items():
        assert spikes.train is not None
        assert spikes.potentials is not None
        assert np.array_equal(held[f"spikes.{layer}"][:, :, 0], spikes.train.transpose(0, 1))
        potentials = spikes.potentials.transpose(0, 1) * 2.0 ** -units[layer]
        assert np.array_equal(held[f"potentials.{layer}"][:, :, 0], potentials)
        about = found["layers"][layer]
        assert about["spikes"] == int(spikes.train.abs().sum())
        assert about["accumulates"] == spikes.operations.long().tolist()
        assert about["neurons"] == spikes.neurons / len(made.inputs[0])
    logits = held["logits.logits"].view(np.float32)[:, :, 0]
    assert np.array_equal(logits, simulation.logits.transpose(0, 1))


@pytest.mark.parametrize("name", ["mlp", "residual", "max_pool_cnn", "lstm", "if_with_continuous_input"])
def test_what_is_observed_is_within_what_is_proven(name: str, tmp_path: Path) -> None:
    for layer in export(name, tmp_path)["layers"].values():
        for what, bits in layer["bits"]["proven"].items():
            assert 1 <= layer["bits"]["observed"][what] <= bits


def test_bits_by_hand(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 2), casc_core.CQReLU(2), nn.Linear(2, 1), casc_core.CQReLU(2), nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].bias.fill_(2.0)
        model[2].weight.copy_(torch.tensor([[0.75, -0.25]]))
    casc_core.convert(model, numerics=Exact(8, bias_on_weight_grid=True)).export(tmp_path, torch.zeros(1, 1))
    found, held = described(tmp_path), tensors(tmp_path)
    assert held["2.weight"].tolist() == [[3, -1]]
    # Within two steps of +-4 quarters each and two resets of 4: 16 units need a sign and 5 bits.
    node = next(node for node in found["nodes"] if node.get("layer") == "3")
    unit = int(held["3.threshold"]) // 4
    assert node["bits"] == {"sum": int(4 * unit).bit_length() + 1, "potential": int(16 * unit).bit_length() + 1}
    assert held["spikes.1"][0, :, 0].tolist() == [[1, 1], [1, 1]]
    assert (held["potentials.3"][0, :2, 0] // unit).tolist() == [[2], [0]]


def test_potentials_beyond_32_bits_are_said(tmp_path: Path) -> None:
    found = export("mlp", tmp_path, AsTrained())
    assert found["layers"]["3"]["bits"]["proven"]["potential"] > 32
    assert tensors(tmp_path)["potentials.3"].dtype == np.int64


def test_networks_with_several_outputs_keep_their_names(tmp_path: Path) -> None:
    found = export("two_outputs", tmp_path)
    assert [output["name"] for output in found["outputs"]] == ["logits", "parts.0"]
    assert found["outputs_of_inputs_alone"] == ["parts.1"]


def test_a_recurrent_network_has_its_tokens_and_lengths(tmp_path: Path) -> None:
    found, held = export("bidirectional_rnn", tmp_path), tensors(tmp_path)
    assert np.array_equal(held["input.tokens"][:, 0], TOKENS)
    assert np.array_equal(held["input.lengths"][:, 0], LENGTHS)
    drives = [node for node in found["nodes"] if node["kind"] == "drive" and "made" in node]
    assert [node["made"]["kind"] for node in drives] == ["table", "table"]
    for node in drives:
        made = node["made"]
        rows = held[made["table"]][held[made["input"]]].astype(np.int64) << made["exponent"] - node["exponent"]
        assert np.array_equal(rows.reshape(held[node["drive"]].shape), held[node["drive"]])


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(8)], ids=str)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_first_drive_follows_from_the_integers_of_the_input(
    name: str, numerics: AsTrained | Exact, tmp_path: Path
) -> None:
    """As the schema says: the exact product in float64, rounded, the bias, rounded to the unit."""
    found, held = export(name, tmp_path, numerics), tensors(tmp_path)
    node = next(node for node in found["nodes"] if "made" in node)
    made = node["made"]
    x, weight, bias = (torch.from_numpy(held[made[key]].astype(np.float64)) for key in ("input", "weight", "bias"))
    x = x[:, 0] * 2.0 ** found["tensors"][made["input"]]["exponent"]
    weight, bias = weight * 2.0 ** made["weight_exponent"], bias * 2.0 ** made["bias_exponent"]
    if made["kind"] == "linear":
        value = nn.functional.linear(x, weight)
    else:
        (before, after), _ = made["padding"]
        assert before == after
        value = nn.functional.conv2d(x, weight, None, made["stride"], before, made["dilation"], made["groups"])
        bias = bias[:, None, None]
    if made["rounds_to"] is not None:
        value = (value * 2.0 ** -made["rounds_to"]).round() * 2.0 ** made["rounds_to"]
    drive = ((value + bias) * 2.0 ** -node["exponent"]).round()
    differing = (drive != torch.from_numpy(held[node["drive"]].astype(np.float64))[:, 0]).double().mean()
    # In float64 a product is not exact; a few fall to the other side of a half.
    assert differing <= (0.0 if numerics == Exact(8) else 0.05)


def test_hex_files_hold_the_same_numbers(tmp_path: Path) -> None:
    found, held = export("mlp", tmp_path, hex=True), tensors(tmp_path)
    for name, about in found["tensors"].items():
        lines = (tmp_path / about["hex"]).read_text().split()
        assert {len(line) for line in lines} == {-(-about["bits"] // 4)}
        values = [int(line, 16) for line in lines]
        signed = [value - (1 << about["bits"]) if value >> (about["bits"] - 1) else value for value in values]
        assert signed == held[name].reshape(-1).tolist()
    VALIDATOR.validate(found)


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    export("mlp", tmp_path)
    assert len(export("residual", tmp_path)["layers"]) == 3


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds other files \(no integers\.json\)"):
        export("mlp", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_saved_network_is_not_overwritten(tmp_path: Path) -> None:
    snn, made = converted("mlp", Exact(8))
    snn.save(tmp_path / "network")
    with pytest.raises(StorageError, match="holds other files"):
        snn.export(tmp_path / "network", made.inputs)
    casc_core.load(tmp_path / "network")


@pytest.mark.parametrize("folder", [None, 3, "a\0b"])
def test_what_names_no_folder_is_refused(folder: Any) -> None:
    snn, made = converted("mlp", Exact(8))
    with pytest.raises(StorageError, match="named by a string or a path"):
        snn.export(folder, made.inputs)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="cannot write"):
            export("mlp", place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export("mlp", tmp_path / "export")
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        export("residual", tmp_path / "export")
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(3, 5), "expected an input whose last dimension is 6"),
        (torch.zeros(0, 6), "empty|no samples|at least"),
        (torch.full((1, 6), torch.nan), "must be finite"),
        ((torch.randn(3, 6), torch.randn(3, 6)), "takes"),
    ],
)
def test_samples_that_do_not_fit_are_refused(inputs: Any, message: str, tmp_path: Path) -> None:
    snn, _ = converted("mlp", Exact(8))
    with pytest.raises(InputError, match=message):
        snn.export(tmp_path / "export", inputs)
    assert list(tmp_path.iterdir()) == []


def test_tokens_out_of_range_are_refused(tmp_path: Path) -> None:
    snn, _ = converted("bidirectional_rnn", Exact(8))
    with pytest.raises(InputError, match="token id 11 is out of range"):
        snn.export(tmp_path / "export", (TOKENS + 2, LENGTHS))
    with pytest.raises(InputError, match=r"lengths must lie in 1\.\.5"):
        snn.export(tmp_path / "export", (TOKENS, LENGTHS + 1))
    assert list(tmp_path.iterdir()) == []


def test_inputs_by_name(tmp_path: Path) -> None:
    snn, _ = converted("bidirectional_rnn", Exact(8))
    snn.export(tmp_path / "export", {"tokens": TOKENS, "lengths": LENGTHS})
    assert described(tmp_path / "export")["samples"] == 3


def test_samples_that_meet_are_refused(tmp_path: Path) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = perceptron()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x - x.mean(0))

    snn = casc_core.convert(Normalised())
    with pytest.raises(InputError, match="cannot be taken apart"):
        snn.export(tmp_path / "export", torch.randn(3, 6))


def test_other_neurons_are_refused_by_name(tmp_path: Path) -> None:
    snn = casc_core.convert(perceptron(), numerics=Exact(8), neuron=casc_core.Burst(), schedule=casc_core.Continuous())
    with pytest.raises(ConfigError, match=r"Burst\(.*has no integer form"):
        snn.export(tmp_path / "export", torch.randn(3, 6), T=8)


def test_numbers_on_no_grid_are_refused(tmp_path: Path) -> None:
    snn, made = converted("mlp", AsTrained())
    unrounded = replace(snn.settings, numerics=Unrounded())
    with pytest.raises(ConfigError, match=r"Unrounded\(\) puts nothing on a grid"):
        casc_core.SpikingModel(snn.network._replace(settings=unrounded)).export(tmp_path / "export", made.inputs)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_never_sleeps_needs_its_steps(tmp_path: Path) -> None:
    snn, made = converted("if_with_continuous_input", Exact(8))
    with pytest.raises(ConfigError, match="never falls silent"):
        snn.export(tmp_path / "export", made.inputs)


def test_every_operation_has_an_integer_form() -> None:
    """Of its own, or that of operations that only move entries; samples in one row cannot be taken apart anyway."""
    ours = {kind for kind in Op.kinds.values() if kind.__module__.startswith(("casc_core.", "casc_seq."))}
    moving = {kind for kind in ours if kind.connection in (Connection.KEEPS, Connection.MOVES)}
    without = rules.integer_form.dispatch(Op)
    assert {kind.__name__ for kind in ours - moving if rules.integer_form.dispatch(kind) is without} == {"PaddedBags"}


def test_an_operation_without_an_integer_form_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snn, made = converted("mlp", Exact(8))
    monkeypatch.setattr(rules, "integer_form", rules.integer_form.dispatch(Op))
    with pytest.raises(ConversionError, match=r"Encode.*no integer form"):
        snn.export(tmp_path / "export", made.inputs)


def test_the_schema_is_in_the_documentation() -> None:
    assert (ROOT / "docs" / SCHEMA.name).read_bytes() == SCHEMA.read_bytes()
