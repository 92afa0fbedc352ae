"""`casc compare`, `verify` and `classify` on the output folders of recipes."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import agnews_rnn
import cifar_cnn
import pytest
from recipe_runs import run_here

from casc_lab.cli import main
from casc_lab.compare import recipe_folder

SMALL: dict[ModuleType, str] = {
    agnews_rnn: "--data sample --epochs 1 --embedding 12 --hidden 12 --q 2",
    cifar_cnn: "--data digits --epochs 1 --width 4 --q 2 --limit-train 200 --limit-test 40",
}
NAMES = [recipe.__name__ for recipe in SMALL]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each recipe run once, small."""
    made = {}
    for recipe, options in SMALL.items():
        made[recipe.__name__] = tmp_path_factory.mktemp(recipe.__name__) / "out"
        run_here(recipe, "--T", 4, "--quiet", "--threads", 1, "--out", made[recipe.__name__], *options.split())
    return made


@pytest.mark.parametrize("name", NAMES)
def test_compare(folders, name, capsys):
    folder = folders[name]
    assert main(["compare", str(folder), "--T", "4", "--limit", "40", "--quiet", "--methods", "baseline,ACP"]) == 0
    assert "baseline+CIF+WSC" in capsys.readouterr().out
    compared = json.loads((folder / "comparison.json").read_text())
    recipe = json.loads((folder / "results.json").read_text())
    assert compared["title"].split(":")[0] in (folder / "report.html").read_text()
    assert compared["configuration"]["recipe"] == name
    assert compared["data"]["samples"] == 40
    if recipe["test_examples"] == 40:  # the same network on the same data gives the recipe's own figures
        assert compared["ann_accuracy"] == recipe["ann_accuracy"]
        for method in compared["methods"][:2]:
            assert method["accuracy"][3] == pytest.approx(recipe["accuracy"][method["name"]]["4"], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_verify(folders, name, capsys):
    assert main(["verify", str(folders[name]), "--json", "--quiet", "--limit", "40"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["exact"]
    assert report["samples"] == 40
    assert report["ann_predictions_moved"] is not None


def test_a_network_that_is_no_longer_there_is_not_trained_anew(folders, tmp_path, capsys):
    folder = folders["agnews_rnn"]
    (tmp_path / "results.json").write_text((folder / "results.json").read_text())
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no network that was trained with these options on this data" in capsys.readouterr().err
    assert not list(tmp_path.glob("training-*"))


def test_the_saved_network_is_the_one_that_is_verified(folders, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(folders["cifar_cnn"], folder)
    (folder / "network" / "network.safetensors").unlink()
    assert main(["verify", str(folder)]) == 2
    assert "network.safetensors" in capsys.readouterr().err
    assert main(["verify", str(folder / "network")]) == 2
    assert "take the folder that it lies in" in capsys.readouterr().err
    assert main(["verify", str(folder), "--q", "4"]) == 2
    assert "--q is for a network of your own" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_was_moved(folders, name, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "elsewhere" / "moved"
    shutil.copytree(folders[name], folder)
    results = (folder / "results.json").read_text()
    assert json.loads(results)["recipe"] == name
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "elsewhere/moved", "--quiet", "--limit", "10"]) == 0
    capsys.readouterr()


def test_nothing_that_a_folder_names_is_run(folders, tmp_path, capsys):
    folder, ran = tmp_path / "copy", tmp_path / "ran"
    shutil.copytree(folders["agnews_rnn"], folder)
    code = folder / "agnews_rnn_2.py"
    code.write_text(f"open({str(ran)!r}, 'w')")
    results = json.loads((folder / "results.json").read_text())
    for recipe in (
        {"recipe": str(code)},
        {"recipe": None, "script": str(code)},
        {"recipe": "os"},
        {"recipe": "casc_lab.cli:main"},
    ):
        (folder / "results.json").write_text(json.dumps(results | recipe))
        for command in ("verify", "compare"):
            assert main([command, str(folder)]) == 2
            assert "no installed recipe is called" in capsys.readouterr().err
    for classifier in ("../copy", "/etc", "..", 3):
        (folder / "results.json").write_text(json.dumps(results | {"classifier": classifier}))
        assert main(["classify", "text", "--network", str(folder)]) == 2
        assert "expected the name of a folder beside it" in capsys.readouterr().err
    assert not ran.exists()


def test_a_recipe_of_someone_else_is_found_by_its_entry_point(folders, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(folders["agnews_rnn"], folder)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"recipe": "theirs"}))
    real = recipe_folder.entry_points

    def installed(group):
        return [*real(group=group), EntryPoint("theirs", "casc_recipes.agnews_rnn", group)]

    monkeypatch.setattr(recipe_folder, "entry_points", installed)
    assert main(["verify", str(folder), "--quiet", "--limit", "10"]) == 0
    assert "exact" in capsys.readouterr().out.lower()


def test_classify(folders, capsys, tmp_path):
    folder, page = str(folders["agnews_rnn"]), tmp_path / "raster.html"
    text = "the match <b> zzyzx"
    assert main(["classify", text, "--network", folder, "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "silent after step" in said
    assert "the answer is the quantised ANN's, bit for bit" in said
    assert "(not in the vocabulary)" in said
    assert "probability (%)" in said
    drawn = page.read_text()
    assert "<b>" not in drawn
    assert "zzyzx" in drawn
    assert "http" not in drawn
    assert main(["classify", text, "--network", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"]
    assert main(["classify", text, "--network", folder, "--T", "1"]) == 0
    assert "cut off after step 1, not yet silent" in capsys.readouterr().out
    assert len(found["probabilities"]) >= found["silent_at"]
    assert all(sum(row) == pytest.approx(1.0) for row in found["probabilities"])
    for layer, spikes in found["positive"].items():
        assert len(spikes) == len(found["negative"][layer]) == len(found["words"]) == len(found["known"])
    assert found["class"] == found["classes"][max(range(4), key=found["probabilities"][-1].__getitem__)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--network", "nowhere"], "nowhere is not the output folder of a text recipe"),
        (["  "], "there is no word to read"),
        (["text", "--T", "0"], "--T must be at least 1; got 0"),
    ],
)
def test_mistakes_of_classify(folders, arguments, message, capsys):
    network = [] if "--network" in arguments else ["--network", str(folders["agnews_rnn"])]
    assert main(["classify", *arguments, *network]) == 2
    assert message in capsys.readouterr().err


def test_classify_needs_a_text_network(folders, capsys):
    assert main(["classify", "text", "--network", str(folders["cifar_cnn"])]) == 2
    assert "is damaged, or not that of a text recipe" in capsys.readouterr().err
