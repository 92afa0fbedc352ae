"""Adapters are found by name, by entry point, or by what the model holds."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from torch import nn

import casc_core
from casc_core import Adapter, ConfigError, CQReLU
from casc_core.activation import Quantised
from casc_core.conversion import adapter as registry
from casc_core.conversion.adapter import adapter_named, adapter_names, choose_adapter


class Signed(nn.Module):
    """An activation only the third party knows."""


third_party = Adapter(
    "signed",
    lambda model: any(isinstance(m, Signed) for m in model.modules()),
    {Signed: lambda m, q, theta: CQReLU(q, theta)},
)
not_an_adapter = 3


@pytest.fixture
def installed(monkeypatch):
    def install(**entries):
        real = registry.entry_points
        found = [EntryPoint(name, f"{__name__}:{value}", registry.GROUP) for name, value in entries.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: [*real(group=group), *found])
        registry._entries.cache_clear()
        adapter_named.cache_clear()

    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(**globals()))
    yield install
    monkeypatch.undo()
    registry._entries.cache_clear()
    adapter_named.cache_clear()


def test_by_name():
    assert "rnn" in adapter_names()
    assert adapter_named("rnn").name == "rnn"


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"no adapter named 'resnet-99'; installed: .*'rnn'"):
        casc_core.prepare(nn.Sequential(nn.ReLU()), adapter="resnet-99", q=2)


def test_a_name_that_two_packages_claim(installed):
    installed(rnn="third_party")
    with pytest.raises(
        ConfigError, match=r"'rnn' is claimed by casc_seq\.adapter:adapter and .*:third_party; uninstall one"
    ):
        adapter_named("rnn")


def test_a_third_party_adds_one(installed):
    installed(signed="third_party")
    assert adapter_names() == sorted({*adapter_names(), "signed"})
    assert isinstance(casc_core.prepare(nn.Sequential(Signed()), adapter="signed", q=3)[0], CQReLU)
    assert choose_adapter(nn.Sequential(Signed()), None) is third_party


def test_an_entry_point_that_is_none(installed):
    installed(wrong="not_an_adapter")
    with pytest.raises(ConfigError, match=r"of adapter 'wrong' is not an Adapter: 3"):
        adapter_named("wrong")


def test_none_picks_by_the_models_modules():
    assert choose_adapter(nn.Sequential(nn.Embedding(3, 2)), None).name == "rnn"
    assert choose_adapter(nn.RNN(2, 2), None).name == "rnn"
    assert choose_adapter(nn.Sequential(nn.Conv2d(1, 1, 1)), None).name == "cnn"
    assert choose_adapter(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), None).name == "cnn"
    assert choose_adapter(nn.GRUCell(1, 1), None).name == "rnn"  # which refuses it by name
    with pytest.raises(ConfigError, match=r"no installed adapter recognises Foreign; name one: 'cnn', 'rnn'"):
        choose_adapter(Foreign(4), None)


class Foreign(Quantised[int]):
    """Of a family that is not installed."""


def test_an_adapter_itself():
    assert choose_adapter(nn.ReLU(), third_party) is third_party
