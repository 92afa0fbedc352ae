"""Saving and loading: the same bits, whole or not at all, and nothing foreign is read or overwritten."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from user_models import LENGTHS, TOKENS, user_model

import casc_core
from casc_core import CIF, IF, Continuous, Exact, Neuron, StorageError, WakeSleep
from casc_core.storage import DESCRIPTION, TENSORS


def forward(self, tokens, lengths=None):
    o = self.states(tokens)
    if lengths is None:
        return self.fc(self.act(self.h(o.max(1).values)))
    mask = torch.arange(tokens.shape[1])[None, :] < lengths[:, None]
    return self.fc(self.act(self.h((o * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1))))


def prepared(seed=0):
    return casc_core.prepare(user_model(forward, seed), adapter="rnn", q=4).eval()


@pytest.fixture(scope="module")
def snn():
    return casc_core.convert(prepared())


@pytest.fixture
def saved(snn, tmp_path):
    snn.save(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("neuron", [CIF(), IF()])
@pytest.mark.parametrize("schedule", [WakeSleep(), WakeSleep(2, 1, 2), Continuous()])
@pytest.mark.parametrize("numerics", ["exact", Exact(8), "float"])
def test_a_loaded_network_gives_the_same_bits(neuron, schedule, numerics, tmp_path):
    snn = casc_core.convert(prepared(), neuron=neuron, schedule=schedule, numerics=numerics)
    snn.save(tmp_path / "net")
    loaded = casc_core.load(str(tmp_path / "net"))
    assert loaded.settings == snn.settings
    assert loaded.layers == snn.layers
    assert loaded.ann is None
    for inputs in ((TOKENS,), (TOKENS, LENGTHS)):
        first, second = snn.simulate(*inputs, T=11), loaded.simulate(*inputs, T=11)
        assert torch.equal(first.logits, second.logits)
        assert torch.equal(first.silent_at, second.silent_at)
        assert torch.equal(snn.reference(*inputs), loaded.reference(*inputs))


def test_only_numbers_and_json_are_written(saved):
    assert sorted(path.name for path in saved.iterdir()) == [DESCRIPTION, TENSORS]
    json.loads((saved / DESCRIPTION).read_text())
    assert (saved / TENSORS).read_bytes()[8:9] == b"{"
    assert sorted(path.name for path in saved.parent.iterdir()) == ["net"]


def test_with_its_model_it_verifies_against_it(saved):
    loaded = casc_core.load(saved, prepared())
    assert casc_core.verify(loaded, TOKENS).ann_predictions_moved == 0
    assert casc_core.verify(casc_core.load(saved), TOKENS).ann_predictions_moved is None


def test_another_model_is_refused(saved):
    with pytest.raises(StorageError, match="converted from another network than the UserModel"):
        casc_core.load(saved, prepared(seed=1))


def test_damaged_numbers(saved):
    data = bytearray((saved / TENSORS).read_bytes())
    data[-1] ^= 1
    (saved / TENSORS).write_bytes(data)
    with pytest.raises(StorageError, match=r"network\.safetensors is damaged: its checksum"):
        casc_core.load(saved)


def test_truncated_numbers(saved):
    data = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match="damaged"):
        casc_core.load(saved)


def test_truncated_description(saved):
    text = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(text[: len(text) // 2])
    with pytest.raises(StorageError, match=r"network\.json is damaged"):
        casc_core.load(saved)


@pytest.mark.parametrize("name", [DESCRIPTION, TENSORS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(StorageError, match=f"(cannot read|holds no) .*{name}"):
        casc_core.load(saved)


def test_no_such_folder(tmp_path):
    with pytest.raises(StorageError, match=r"no network saved by casc in .*nowhere"):
        casc_core.load(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"format": "other", "version": 1}'])
def test_a_foreign_description(saved, text):
    (saved / DESCRIPTION).write_text(text)
    with pytest.raises(StorageError, match="was not written by casc"):
        casc_core.load(saved)


def edited(saved, change):
    description = json.loads((saved / DESCRIPTION).read_text())
    change(description)
    (saved / DESCRIPTION).write_text(json.dumps(description))


def test_another_version(saved):
    edited(saved, lambda d: d.update(version=99))
    with pytest.raises(StorageError, match="version 99; this casc reads versions 1 and 2"):
        casc_core.load(saved)


CHANGES = {
    "unknown operation": lambda d: d["ops"][0].update(kind="Pickle"),
    "no settings": lambda d: d.pop("settings"),
    "unknown neuron": lambda d: d["settings"]["neuron"].update(kind="LIF"),
    "unknown adapter": lambda d: d["settings"].update(adapter="nothing"),
    "operation that is not there": lambda d: d["programs"][0]["steps"][0].update(op=999),
    "undefined output": lambda d: d["programs"][0].update(output="nothing"),
    "tensor that is not there": lambda d: d["ops"][0].update(tensors=["nothing"]),
    "function that is not allowed": lambda d: d["ops"].append(
        {"kind": "Call", "settings": {"function": "os.system"}, "tensors": []}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_description_that_makes_no_sense(saved, change):
    edited(saved, CHANGES[change])
    with pytest.raises(StorageError, match="does not describe a network"):
        casc_core.load(saved)


def test_an_older_network_is_replaced(saved):
    other = casc_core.convert(prepared(seed=1))
    other.save(saved)
    assert torch.equal(casc_core.load(saved)(TOKENS), other(TOKENS))
    assert sorted(path.name for path in saved.parent.iterdir()) == ["net"]


def test_an_empty_folder_and_missing_parents_are_fine(snn, tmp_path):
    (tmp_path / "empty").mkdir()
    snn.save(tmp_path / "empty")
    snn.save(tmp_path / "a" / "b" / "c")
    assert torch.equal(casc_core.load(tmp_path / "a" / "b" / "c")(TOKENS), snn(TOKENS))


def test_a_folder_that_holds_other_files_is_left_alone(snn, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"it holds other files.*choose a new or an empty folder"):
        snn.save(folder)
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]
    assert (folder / "chapter.txt").read_text() == "years of work"


def test_a_file_in_the_way(snn, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="it is a file; choose a folder"):
        snn.save(tmp_path / "file")
    with pytest.raises(StorageError, match=r"cannot write .*choose a place that can be written"):
        snn.save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_network_and_nothing_half_written(saved, monkeypatch, failing):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(StorageError, match="No space left on device; choose a place"):
        casc_core.convert(prepared(seed=1)).save(saved)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


def test_failing_at_the_very_last_rename_puts_the_older_network_back(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    real = os.replace

    def replace(source, target):
        if os.fspath(target) == os.fspath(saved) and os.path.basename(source) != "was":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError):
        casc_core.convert(prepared(seed=1)).save(saved)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


class Own(Neuron):
    def fire(self, state, cap, threshold):
        return state.v >= threshold, None


def test_a_neuron_of_the_users_own_cannot_be_found_again(snn, tmp_path):
    with pytest.raises(StorageError, match="only IF, CIF, SNM, Burst, SRP can be loaded again"):
        snn.under(Own(), WakeSleep()).save(tmp_path / "net")
    assert not (tmp_path / "net").exists()
