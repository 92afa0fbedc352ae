"""`casc compare` and `casc verify` on a user's own network and data, as a user runs them."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from casc_lab.cli import commands, main

MODULE = """
import torch
from torch import nn
from casc_core import CQReLU


def network(kind=CQReLU):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), kind(q=3), nn.Linear(12, 12), kind(q=3), nn.Linear(12, 3))
    return model


class Plain(nn.ReLU):
    def __init__(self, q):
        super().__init__()


def data(batches=2):
    torch.manual_seed(1)
    return [(torch.randn(20, 4), torch.randint(3, (20,))) for _ in range(batches)]


def load():
    return network(), data(), data(1)


def load_iterator():
    return network(), iter(data())


def load_unlabelled():
    return network(), [batch[0] for batch in data()]


def load_relu():
    return network(lambda q: nn.ReLU()), data(), data(1)


def load_shuffled():
    x, y = zip(*data())
    pairs = torch.utils.data.TensorDataset(torch.cat(x), torch.cat(y))
    return network(), torch.utils.data.DataLoader(pairs, 7, shuffle=True)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(x, int(y)) for x, y in zip(*data()[0])])


def load_stream():
    return network(), torch.utils.data.DataLoader(Stream(), 6)


def load_one_batch():
    return network(), data()[0]


def load_numpy():
    return network(), [(x.numpy(), y.numpy()) for x, y in data()]


def load_dicts():
    return network(), [{"x": x, "labels": y} for x, y in data()]


def load_one_hot():
    return network(), [(x, nn.functional.one_hot(y, 3)) for x, y in data()]


def load_few_labels():
    return network(), [(x, y[:5]) for x, y in data()]


def load_other_labels():
    return network(), [(x, y + 7) for x, y in data()]


def load_other_shape():
    return network(), [(x[:, :3], y) for x, y in data()]


def load_nan():
    return network(), [(x * float("nan"), y) for x, y in data()]


def load_nothing():
    return network(), []


def load_converted():
    import casc_core
    return casc_core.convert(network()), data()


def load_fails():
    raise RuntimeError("the disk is full")


def load_needs_more(path):
    return network(), data()


def load_model_alone():
    return network()


def load_tensor():
    return network(), data()[0][0]


def load_sigmoid():
    return nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3), CQReLU(2)), data()


number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_model_for_casc.py").write_text(MODULE)
    (tmp_path / "broken_model_for_casc.py").write_text("import no_such_package_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_model_for_casc", raising=False)
    return "own_model_for_casc"


def test_compare_writes_a_report_and_prints_tables(module, tmp_path, capsys):
    assert main(["compare", f"{module}:load", "--T", "6", "--out", "out", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "| baseline+CIF+WSC " in said
    assert "report.html and comparison.json are in out" in said
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["command"] == f"casc compare {module}:load --T 6"
    assert result["data"]["samples"] == 40
    assert result["ann_accuracy"] is not None
    assert len(result["methods"]) == 10
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_json_for_machines(module, capsys):
    arguments = ["--methods", "baseline,SNM", "--limit", "30", "--ac-pj", "1.5", "--threads", "1"]
    assert main(["compare", f"{module}:load_iterator", "--T", "3", "--json", "--quiet", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in result["methods"]] == ["baseline", "baseline+CIF+WSC", "SNM"]
    assert result["data"]["samples"] == 30
    assert result["energy_table"]["ac_pj"] == 1.5
    assert "--ac-pj 1.5" in result["command"]
    assert "--limit 30" in result["command"]


def test_a_network_with_plain_relu_is_calibrated(module, capsys):
    assert main(["compare", f"{module}:load_relu", "--T", "4", "--q", "8", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["title"] == "Sequential, ReLU calibrated to q=8"
    assert result["network"]["q"] == 8
    # Rounded to the nearest level, potentials begin half way: IF is OPI, and it was not trained for QCFS.
    assert result["methods"][0]["label"] == "baseline (IF) = OPI"
    assert not {"OPI", "QCFS"} & {method["name"] for method in result["methods"]}
    # The chain from the network as trained: calibration moves some, the grid fewer.
    model, data, _ = __import__(module).load_relu()
    with torch.no_grad():
        expected = [100 * float((model(x).argmax(1) == y).double().mean()) for x, y in data]
    assert result["calibrated"]["trained_accuracy"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert result["calibrated"]["predictions_moved"] >= result["ann_predictions_moved"]


def test_calibration_says_that_it_is_not_lossless(module, capsys, tmp_path):
    assert (
        main(
            ["compare", f"{module}:load_relu", "--T", "2", "--q", "2", "--quiet", "--methods", "baseline", "--out", "o"]
        )
        == 0
    )
    assert "NOT LOSSLESS" in capsys.readouterr().out
    assert "NOT LOSSLESS" in (tmp_path / "o" / "report.html").read_text()
    assert main(["verify", f"{module}:load_relu", "--q", "2", "--quiet"]) == 0
    assert "NOT LOSSLESS against the network as trained" in capsys.readouterr().out


def test_a_limit_takes_the_same_samples_for_every_method(module, capsys):
    assert main(["compare", f"{module}:load_shuffled", "--T", "12", "--limit", "30", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    ours = result["methods"][3]
    assert ours["accuracy"][-1] == pytest.approx(result["reference_accuracy"], abs=1e-3)
    assert result["methods"][2]["mismatches"][0] == ours["mismatches"][0]


@pytest.mark.parametrize(("name", "samples"), [("load_stream", 20), ("load_one_batch", 20), ("load_numpy", 40)])
def test_other_kinds_of_batches(module, name, samples, capsys):
    assert main(["verify", f"{module}:{name}", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == samples


def test_an_error_that_nobody_foresaw_is_not_taken_for_inexactness(module, monkeypatch, capsys):
    def fail(*arguments, **named):
        raise AssertionError("a bug")

    monkeypatch.setattr("casc_lab.compare.command.load_network", fail)
    assert main(["verify", f"{module}:load"]) == 3
    assert "AssertionError: a bug" in capsys.readouterr().err


def test_labels_are_optional(module, capsys):
    assert main(["compare", f"{module}:load_unlabelled", "--T", "4", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ann_accuracy"] is None
    assert result["methods"][0]["accuracy"] is None


def test_verify_tells_by_its_exit_status(module, capsys):
    assert main(["verify", f"{module}:load", "--quiet"]) == 0
    assert "EXACT against the quantised ANN: 40 samples" in capsys.readouterr().out
    assert main(["verify", f"{module}:load", "--quiet", "--T", "1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["exact"] is False
    assert report["T"] == 1
    assert "may end before the network is silent" in report["note"]
    assert [layer["name"] for layer in report["layers"]] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere"], "there is no folder 'nowhere'; name the output folder of a recipe, or module:function"),
        (["verify", "."], "is not the output folder of a recipe: it holds no results.json"),
        (["verify", "no_such_module:load"], "there is no module 'no_such_module' here"),
        (["verify", "own_model_for_casc:nothing"], "module 'own_model_for_casc' has no function 'nothing'"),
        (["verify", "own_model_for_casc:number"], "has no function 'number'"),
        (["verify", "own_model_for_casc:load_model_alone"], "must return (model, batches) or (model, batches, calib"),
        (["verify", "own_model_for_casc:load_tensor"], "batches a list or a DataLoader; got Tensor"),
        (["verify", "own_model_for_casc:load_relu"], "has no CQReLU: give --q"),
        (["verify", "own_model_for_casc:load_sigmoid"], "Sigmoid"),
        (["verify", "own_model_for_casc:load_dicts"], "it holds dict"),
        (["verify", "own_model_for_casc:load_one_hot"], "labels of shape [20, 3] for 20 samples"),
        (["verify", "own_model_for_casc:load_few_labels"], "labels of shape [5] for 20 samples"),
        (["verify", "own_model_for_casc:load_other_labels"], "labels run from 7 to 9, but the network has 3 classes"),
        (
            ["verify", "own_model_for_casc:load_other_shape"],
            "does not take its first batch, torch.float32 [20, 3]: RuntimeError",
        ),
        (["verify", "own_model_for_casc:load_nan"], "gives NaN or infinite values on its first batch"),
        (["verify", "own_model_for_casc:load_nothing"], "returns no batch"),
        (["verify", "own_model_for_casc:load_converted"], "return the ANN, which is converted here"),
        (["verify", "own_model_for_casc:load_fails"], "failed: RuntimeError: the disk is full (line"),
        (["verify", "own_model_for_casc:load_needs_more"], "failed: TypeError"),
        (["verify", "own_model_for_casc.py:load"], "is a file; name its module: own_model_for_casc:load"),
        (["verify", "broken_model_for_casc:load"], "importing broken_model_for_casc failed: ModuleNotFoundError"),
        (
            ["verify", "own_model_for_casc:load", "--q", "8"],
            "was prepared with q=3; --q 8 is for a network with plain ReLU",
        ),
        (["verify", "own_model_for_casc:load", "--data", "x"], "--data is for a recipe's folder"),
        (["verify", "own_model_for_casc:load", "--limit", "0"], "--limit must be at least 1; got 0"),
        (["verify", "own_model_for_casc:load", "--weight-bits", "1"], "weight_bits"),
        (["verify", "own_model_for_casc:load", "--device", "abacus"], "no device is called 'abacus'"),
        (["compare", "own_model_for_casc:load", "--T", "0"], "--T must be at least 1; got 0"),
        (["compare", "own_model_for_casc:load", "--threads", "0"], "--threads must be at least 1; got 0"),
        (["compare", "own_model_for_casc:load", "--methods", "best"], "there is no method 'best' for this network"),
        (["compare", "own_model_for_casc:load", "--mac-pj", "-1"], "mac, in pJ, must be a finite number"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("casc: ")
    assert message in said.err
    assert "Traceback" not in said.err


def test_results_of_an_older_recipe_or_damaged_ones(tmp_path, capsys):
    for content, message in (
        ('{"options": {}}', "does not say which recipe wrote it"),
        (
            '{"options": {}, "recipe": "other"}',
            "no installed recipe is called 'other'; there are: agnews_rnn, cifar_cnn,",
        ),
        ('{"options": {}, "script": "/nowhere/recipe.py"}', "no installed recipe is called 'recipe'"),
        ('{"options": {}, "recipe": 3}', "does not say which recipe wrote it"),
        ('{"options": {"q": "two"}, "recipe": "agnews_rnn"}', "the option 'q' cannot be 'two'"),
        ('{"options": {"quiet": "yes"}, "recipe": "agnews_rnn"}', "the option 'quiet' cannot be 'yes'"),
        ('{"options": {"pooling": "os"}, "recipe": "agnews_rnn"}', "the option 'pooling' cannot be 'os'"),
        ("{", "is damaged, or not that of a recipe"),
        ("{}", "is damaged, or not that of a recipe"),
    ):
        (tmp_path / "results.json").write_text(content)
        assert main(["verify", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(module, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["compare", f"{module}:load", "--out", "file/out", "--T", "2", "--quiet"]) == 2
    assert "file" in capsys.readouterr().err


def test_an_interrupted_command(module, monkeypatch, capsys):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("casc_lab.compare.command.load_network", interrupt)
    assert main(["verify", f"{module}:load"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_parts_of_the_command():
    assert list(commands()) == ["classify", "compare", "detect", "verify"]
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
