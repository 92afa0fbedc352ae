"""Lines of a forward: whole in an error, as their project names them in what is saved."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import casc_core
from casc_core import InputError
from casc_core.conversion.tracing.frames import in_project

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.relu, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        if x.shape[1] > 4:
            x = x[:, :4]
        first, second = self.relu(self.layer(x)).split([1, 3], 1)
        return self.last(torch.cat([second, first], 1))
"""


def _model(file: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("written_net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "written_net", module)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model: nn.Module = module.Net()
    return model.eval()


@pytest.mark.parametrize("place", ["working folder", "package", "elsewhere"])
def test_a_saved_network_names_lines_as_their_project_does(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home" / "somebody"
    file, shown = root / "models" / "net.py", "models/net.py"
    if place == "package":
        file, shown = root / "site-packages" / "nets" / "net.py", "nets/net.py"
        file.parent.mkdir(parents=True)
        (file.parent / "__init__.py").touch()
    if place == "elsewhere":
        shown = "net.py"
    model = _model(file, monkeypatch)
    if place == "working folder":
        monkeypatch.chdir(root)
    snn = casc_core.convert(casc_core.prepare(model, q=4))
    snn.save(tmp_path / "network")
    snn.export(tmp_path / "integers", torch.rand(3, 4))
    for written in tmp_path.glob("*/*.json"):
        assert "somebody" not in written.read_text()
    text = json.loads((tmp_path / "network" / "network.json").read_text())
    assert f'"{shown}:12: if x.shape[1] > 4:"' in json.dumps(text)
    loaded = casc_core.load(tmp_path / "network")
    with pytest.raises(InputError, match=rf"\n  at {shown}:12: if x\.shape\[1\] > 4:"):
        loaded(torch.rand(3, 5))


def test_an_error_of_a_conversion_names_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "SOURCE", SOURCE.replace("self.relu(self.layer(x))", "self.layer(x).sort()[0]")
    )
    with pytest.raises(casc_core.ConversionError, match=rf"at {tmp_path}/net\.py:14: "):
        casc_core.prepare(_model(tmp_path / "net.py", monkeypatch), q=4)


def test_a_file_is_named_from_the_innermost_folder_that_python_imports_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_project(str(tmp_path / "src" / "net.py")) == Path("src/net.py")
    monkeypatch.syspath_prepend(tmp_path / "src")
    assert in_project(str(tmp_path / "src" / "net.py")) == Path("net.py")
    assert in_project(nn.__file__) == Path("torch/nn/__init__.py")
