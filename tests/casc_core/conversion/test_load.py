"""Saving and loading: the same bits, whole or not at all, and nothing foreign is read or overwritten."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from user_models import LENGTHS, TOKENS, user_model

import casc_core
from casc_core import CIF, IF, ConfigError, Continuous, CQReLU, Exact, InputError, Neuron, StorageError, WakeSleep
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.rule_table import RuleTable
from casc_core.engine.ops import Op
from casc_core.engine.saved import DESCRIPTION, TENSORS
from casc_core.storage.checksum import BLANK, with_checksum


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
@pytest.mark.parametrize("numerics", ["exact", Exact(8), "as trained"])
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
    with pytest.raises(
        StorageError, match=r"network\.json or network\.safetensors beside it is damaged: their checksum"
    ):
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
    """The description changed by someone who makes its checksum anew."""
    description = json.loads((saved / DESCRIPTION).read_text()) | {"sha256": BLANK}
    change(description)
    (saved / DESCRIPTION).write_bytes(with_checksum(json.dumps(description).encode(), (saved / TENSORS).read_bytes()))


def test_a_description_that_was_edited(saved):
    text = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(text.replace('"q": 4', '"q": 5'))
    with pytest.raises(
        StorageError, match=r"network\.json or network\.safetensors beside it is damaged: their checksum"
    ):
        casc_core.load(saved)


def test_another_version(saved):
    edited(saved, lambda d: d.update(version=99))
    with pytest.raises(StorageError, match="version 99; this casc reads versions 1, 2, 3"):
        casc_core.load(saved)


def _of_kind(description, kind):
    return next(op for op in description["ops"] if op["kind"] == kind)


CHANGES = {
    "unknown operation": lambda d: d["ops"][0].update(kind="Pickle"),
    "no settings": lambda d: d.pop("settings"),
    "unknown neuron": lambda d: d["settings"]["neuron"].update(kind="LIF"),
    "no such type": lambda d: d["programs"][0]["steps"][0]["args"]["tuple"].append({"dtype": "sys"}),
    "no such kind of argument": lambda d: d["programs"][0]["steps"][0]["args"]["tuple"].append({"code": "1"}),
    "an argument too many": lambda d: d["programs"][0]["steps"][0]["args"]["tuple"].append(7),
    "a name twice": lambda d: d["programs"][0]["steps"][1].update(result=d["programs"][0]["steps"][0]["result"]),
    "no program": lambda d: d["programs"].clear(),
    "a program of other inputs": lambda d: d["programs"][0].update(inputs=["elsewhere"]),
    "a field too many": lambda d: d.update(extra=1),
    "a field too few": lambda d: d.pop("layers"),
    "a setting too many": lambda d: d["ops"][0]["settings"].update(extra=1),
    "a setting too few": lambda d: d["ops"][0]["settings"].clear(),
    "a setting of another kind": lambda d: _of_kind(d, "Fire")["settings"].update(threshold="1"),
    "a threshold below zero": lambda d: _of_kind(d, "Fire")["settings"].update(threshold=-1.0),
    "a threshold off its grid": lambda d: _of_kind(d, "Fire")["settings"].update(threshold=1e-300),
    "a grid out of range": lambda d: _of_kind(d, "Fire")["settings"].update(exponent=-(10**9)),
    "weights off their grid": lambda d: _of_kind(d, "Linear")["settings"].update(exponent=0),
    "a population that is no layer": lambda d: _of_kind(d, "Fire")["settings"].update(name="elsewhere"),
    "q is no number": lambda d: d["settings"].update(q=True),
    "wake of 10**12": lambda d: d["settings"]["schedule"].update(wake=10**12),
    "sleep of 10**12": lambda d: d["settings"]["schedule"].update(cycles=2, sleep=10**12),
    "weight_bits of 99": lambda d: d["settings"]["numerics"].update(weight_bits=99),
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


def test_an_adapter_that_is_not_installed_is_asked_for(saved):
    edited(saved, lambda d: d["settings"].update(adapter="nothing"))
    with pytest.raises(StorageError, match=r"needs the adapter .* no adapter named 'nothing'.*entry points") as caught:
        casc_core.load(saved)
    assert str(saved) in str(caught.value)
    assert "does not describe" not in str(caught.value)


def test_an_adapter_that_has_no_package_is_given(tmp_path):
    rules = RuleTable()
    rules.module(Half)(lambda reader, module, x: reader.apply(Halves(), reader.signal(x)))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), CQReLU(2), Half(), torch.nn.Linear(4, 2))
    mine, x = Adapter("mine", lambda model: True, {}, rules), torch.randn(3, 4)
    snn = casc_core.convert(model, mine)
    snn.save(tmp_path / "net")
    with pytest.raises(StorageError, match="no adapter named 'mine'"):
        casc_core.load(tmp_path / "net")
    loaded = casc_core.load(tmp_path / "net", model, mine)
    assert torch.equal(loaded(x), snn(x))
    assert casc_core.verify(loaded, x).lowering.exact
    with pytest.raises(StorageError, match="was converted with the adapter 'mine'; got that of 'yours'"):
        casc_core.load(tmp_path / "net", adapter=replace(mine, name="yours"))
    with pytest.raises(ConfigError, match=r"adapter must be an Adapter, .* got 'mine'"):
        casc_core.load(tmp_path / "net", adapter="mine")


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


VERSION_1 = Path(__file__).parents[2] / "saved" / "version1"


def test_a_network_saved_as_version_1_gives_the_same_bits():
    answers = json.loads((VERSION_1 / "answers.json").read_text())
    tokens = torch.tensor(answers["tokens"])
    snn = casc_core.load(VERSION_1 / "network")
    assert torch.equal(snn(tokens), torch.tensor(answers["logits"]))
    assert torch.equal(snn.reference(tokens), torch.tensor(answers["logits"]))
    assert snn.simulate(tokens).silent_at.tolist() == answers["silent_at"]


def test_a_network_saved_as_version_1_is_that_of_its_model_and_is_saved_as_version_3(saved, tmp_path):
    def older(description):
        description.update(version=1, sha256=hashlib.sha256((saved / TENSORS).read_bytes()).hexdigest())
        for op in description["ops"]:
            op["settings"].pop("train_exponent", None)

    description = json.loads((saved / DESCRIPTION).read_text())
    older(description)
    (saved / DESCRIPTION).write_text(json.dumps(description))
    loaded = casc_core.load(saved, prepared())
    assert casc_core.verify(loaded, TOKENS).ann_predictions_moved == 0
    loaded.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / DESCRIPTION).read_text())["version"] == 3
    assert torch.equal(casc_core.load(tmp_path / "again")(TOKENS), loaded(TOKENS))


def test_nothing_is_executed(saved):
    """A chain that would run any Python: a module for a type of numbers, then attributes of it, then a call."""

    def attack(description):
        description["ops"] += [
            {"kind": "Call", "settings": {"function": "getattr"}, "tensors": []},
            {"kind": "Call", "settings": {"function": "operator.getitem"}, "tensors": []},
        ]
        read, item = len(description["ops"]) - 2, len(description["ops"]) - 1
        names = [({"dtype": "sys"}, "modules", read), ({"ref": "a0"}, "timeit", item), ({"ref": "a1"}, "repeat", read)]
        for program in description["programs"]:
            program["steps"][:0] = [
                {"op": op, "args": {"tuple": [of, name]}, "kwargs": {"dict": {}}, "result": f"a{number}"}
                for number, (of, name, op) in enumerate(names)
            ]

    edited(saved, attack)
    with pytest.raises(StorageError, match="no type of numbers is called 'sys'"):
        casc_core.load(saved)


@pytest.mark.parametrize("name", ["__class__", "__init__", "numpy", "register_hook", "_backward_hooks", "grad_fn"])
def test_no_attribute_but_those_listed_is_read(saved, name):
    def read(description):
        description["ops"].append({"kind": "Call", "settings": {"function": "getattr"}, "tensors": []})
        program = next(program for program in description["programs"] if program["inputs"] == ["tokens"])
        call = {"op": len(description["ops"]) - 1, "args": {"tuple": [{"ref": "tokens"}, name]}}
        program["steps"].insert(0, call | {"kwargs": {"dict": {}}, "result": "read"})

    edited(saved, read)
    with pytest.raises(InputError, match=f"a network cannot read '{name}' of a Tensor"):
        casc_core.load(saved)(TOKENS)


def test_a_recurrent_layer_whose_sizes_do_not_fit_is_refused_before_a_kernel_reads(tmp_path):
    casc_core.convert(casc_core.prepare(user_model(forward), q=4)).save(tmp_path / "net")
    tensors = safetensors.torch.load_file(tmp_path / "net" / TENSORS)
    for shape, message in (
        ((5, 4), r"'weight' must be \[hidden, hidden\]; got \[5, 4\]"),
        ((4, 4), "reads 4 currents"),
    ):
        description = json.loads((tmp_path / "net" / DESCRIPTION).read_text()) | {"sha256": BLANK}
        recurrent = description["ops"].index(_of_kind(description, "Recurrence"))
        name = f"{recurrent}.weight"
        data = safetensors.torch.save(tensors | {name: tensors[name][: shape[0], : shape[1]].contiguous()})
        (tmp_path / "net" / TENSORS).write_bytes(data)
        (tmp_path / "net" / DESCRIPTION).write_bytes(with_checksum(json.dumps(description).encode(), data))
        with pytest.raises(casc_core.CascError, match=message):
            casc_core.load(tmp_path / "net")(TOKENS)


HUGE = {
    "padding of a convolution": ("Convolution", {"padding": [20_000] * 4}),
    "padding of a maximum": ("MaxPool", {"kernel": [4_096, 4_096], "padding": [2_048, 2_048]}),
    "padding of an average": ("AveragePool", {"kernel": [4_096, 4_096], "padding": [2_048, 2_048]}),
    "parts of an average": ("AdaptiveAveragePool", {"outputs": [4_096, 4_096]}),
    "parts of a maximum": ("AdaptiveMaxPool", {"outputs": [4_096, 4_096]}),
    "stride": ("Convolution", {"stride": [10**9, 1]}),
    "stride of nothing": ("Convolution", {"stride": [0, 1]}),
    "dilation": ("Convolution", {"dilation": [2**16, 1]}),
    "groups": ("Convolution", {"groups": 3}),
}


@pytest.mark.parametrize("what", HUGE)
def test_sizes_that_would_take_gigabytes_are_refused_at_once(what, tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), CQReLU(2), torch.nn.MaxPool2d(2), torch.nn.AvgPool2d(2),
        torch.nn.AdaptiveMaxPool2d(2), torch.nn.AdaptiveAvgPool2d((2, 1)), torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )  # fmt: skip
    x = torch.rand(3, 2, 16, 16)
    casc_core.convert(model).save(tmp_path / "net")
    casc_core.load(tmp_path / "net")(x)
    kind, changed = HUGE[what]
    edited(tmp_path / "net", lambda d: _of_kind(d, kind)["settings"].update(changed))
    began = time.process_time()
    with pytest.raises(casc_core.CascError):
        casc_core.load(tmp_path / "net")(x)
    assert time.process_time() - began < 5


class Halves(Op):
    """An operation of someone else's."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, run, signal):
        return signal.map(lambda x: x[:, : x.shape[1] // 2])


def test_an_operation_of_someone_else_is_saved_under_its_qualified_name_and_found_there(tmp_path):
    class Linear(Halves):
        pass

    assert Op.kinds["Linear"].__module__ == "casc_core.engine.ops.affine"
    kind = f"{__name__}.Halves"
    assert Op.kinds[kind] is Halves
    rules = RuleTable()
    rules.module(Half)(lambda reader, module, x: reader.apply(Halves(), reader.signal(x)))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), CQReLU(2), Half(), torch.nn.Linear(4, 2))
    snn, x = casc_core.convert(model, Adapter("rnn", lambda model: True, {}, rules)), torch.randn(3, 4)
    snn.save(tmp_path / "net")
    kinds = [op["kind"] for op in json.loads((tmp_path / "net" / DESCRIPTION).read_text())["ops"]]
    assert kind in kinds
    assert "Linear" in kinds
    assert torch.equal(casc_core.load(tmp_path / "net")(x), snn(x))


class Half(torch.nn.Module):
    def forward(self, x):
        return x[:, :4]


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(
        casc_core.ConfigError, match=r"the name 'Linear' belongs to the operation casc_core\.engine\.ops\.affine"
    ):

        class Mine(Op, saved_as="Linear"):
            pass

    assert Op.kinds["Linear"].__module__ == "casc_core.engine.ops.affine"


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[" * 100_000, "9" * 5_000, '{"version": 1e999}', "\x00", "\ud800"]
)
def test_malformed_text(saved, text):
    (saved / DESCRIPTION).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StorageError, match=r"is damaged|was not written by casc"):
        casc_core.load(saved)


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
    """On a system that cannot exchange two folders in one step."""
    monkeypatch.setattr("casc_core.storage.files._renameat2", lambda: None)
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


@dataclass(frozen=True, repr=False)
class Halved(Neuron):
    """A neuron of someone else's."""

    share_of_a_spike: float = 0.5

    def fire(self, state, cap, threshold):
        return (state.v >= threshold * self.share_of_a_spike) & (state.count < cap), None


def test_a_neuron_of_someone_else_is_saved_under_its_qualified_name_and_found_there(snn, tmp_path):
    other = snn.under(Halved(0.75))
    other.save(tmp_path / "net")
    described = json.loads((tmp_path / "net" / DESCRIPTION).read_text())["settings"]["neuron"]
    assert described == {"kind": f"{__name__}.Halved", "initial_potential": 0.0, "share_of_a_spike": 0.75}
    loaded = casc_core.load(tmp_path / "net")
    assert loaded.settings.neuron == Halved(0.75)
    assert torch.equal(loaded(TOKENS), other(TOKENS))


def test_a_neuron_that_is_not_there_is_named(snn, tmp_path):
    snn.under(Halved()).save(tmp_path / "net")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(Neuron.kinds, f"{__name__}.Halved")
        with pytest.raises(
            StorageError, match=r"there is no neuron '.*Halved'; is the package that defines it installed"
        ):
            casc_core.load(tmp_path / "net")
        with pytest.raises(StorageError, match="Halved is no neuron that can be found again"):
            snn.under(Halved()).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@dataclass(frozen=True, repr=False)
class Paired(Halved):
    pair: tuple[int, int] = (1, 2)


def test_a_neuron_that_its_fields_do_not_make_again_is_refused(snn, tmp_path):
    with pytest.raises(StorageError, match="whose fields are numbers or strings"):
        snn.under(Paired()).save(tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_neurons_name_that_is_taken_is_refused():
    with pytest.raises(casc_core.ConfigError, match=r"the name 'CIF' belongs to the neuron casc_core\.neuron\.CIF"):

        class Mine(Neuron, saved_as="CIF"):
            pass

    assert Neuron.kinds["CIF"] is CIF


def test_a_network_saved_as_version_2_gives_the_same_bits(tmp_path):
    snn = casc_core.convert(prepared(), numerics=Exact())
    snn.save(tmp_path / "net")
    edited(tmp_path / "net", lambda description: description.update(version=2))
    loaded = casc_core.load(tmp_path / "net", snn.ann)
    assert loaded.settings.numerics == Exact()
    assert torch.equal(loaded(TOKENS), snn(TOKENS))


def test_sums_that_were_rounded_are_refused(saved):
    edited(saved, lambda description: description["settings"].update(numerics={"kind": "Float"}))
    with pytest.raises(
        StorageError, match="its sums were rounded, numerics='float', which is no more: convert its model"
    ):
        casc_core.load(saved)
