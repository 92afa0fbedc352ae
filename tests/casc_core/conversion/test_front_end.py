"""What a trace or a rule would lose without a word: each is kept, or refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import casc_core
from casc_core import CIF, ConfigError, Continuous, ConversionError, CQReLU, InputError, WakeSleep
from casc_seq import RNN


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(F.relu(self.a(x)), 0.5, self.training))


class Branching(Functional):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if self.training:
            x = x * 2
        return self.b(x)


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_prepare_sets_the_levels_of_cq_relu_layers_that_are_there_already():
    model = nn.ModuleDict({"rnn": RNN(4, 4, threshold=0.5), "act": nn.ReLU(), "old": CQReLU(8, 2.0)})

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.fc = model, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.parts["old"](self.parts["act"](self.parts["rnn"](x)[0].sum(0))))

    prepared = casc_core.prepare(Model(), adapter="rnn", q=5)
    found = {name: (module.q, module.threshold) for name, module in prepared.parts.items()}
    assert found == {"rnn": (5, 0.5), "act": (5, 1.0), "old": (5, 2.0)}
    again = casc_core.prepare(prepared, adapter="rnn", q=3, threshold=1.5)
    assert {(module.q, module.threshold) for module in again.parts.values()} == {(3, 1.5)}
    assert casc_core.convert(again, adapter="rnn").settings.q == 3


@pytest.mark.parametrize("step", [casc_core.prepare, casc_core.convert])
def test_a_subclass_with_its_own_forward_is_refused(step):
    class Flat(nn.Flatten):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    model = nn.Sequential(Flat(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(ConversionError, match=r"module '0': Flat .* overrides the forward of Flatten"):
        step(model, adapter="rnn", q=2)


def test_a_layer_with_weights_and_its_own_forward_is_looked_into():
    model = nn.Sequential(Doubling(6, 16), CQReLU(4), nn.Linear(16, 3)).eval()
    x = torch.randn(50, 6)
    snn = casc_core.convert(model, adapter="rnn")
    assert casc_core.verify(snn, x).exact
    torch.testing.assert_close(casc_core.convert(model, adapter="rnn", numerics="as trained").reference(x), model(x))


def test_a_subclass_that_inherits_its_forward_is_taken():
    class Renamed(nn.Linear):
        pass

    model = nn.Sequential(Renamed(6, 16), CQReLU(2), nn.Linear(16, 3))
    assert casc_core.verify(casc_core.convert(model, adapter="rnn"), torch.randn(5, 6)).exact


@pytest.mark.parametrize("step", [casc_core.prepare, casc_core.convert])
@pytest.mark.parametrize("where", [lambda model: model, lambda model: model[0]], ids=["root", "layer"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_is_refused(step, where, kind):
    model = mlp()
    getattr(where(model), kind)(lambda *arguments: None)
    with pytest.raises(ConversionError, match="has a forward hook"):
        step(model, adapter="rnn", q=2)


def test_a_branch_on_training_beside_functional_activations_is_refused_and_dropout_is_kept():
    with pytest.raises(ConversionError, match=r"branches on self\.training"):
        casc_core.prepare(Branching(), adapter="rnn", q=2)
    for mode in (True, False):
        prepared = casc_core.prepare(Functional().train(mode), adapter="rnn", q=4)
        x = torch.randn(200, 6)
        assert not torch.equal(prepared.train()(x), prepared(x))
        assert torch.equal(prepared.eval()(x), prepared(x))


def test_a_prepared_model_can_be_pickled():
    prepared, x = casc_core.prepare(Functional(), adapter="rnn", q=4).eval(), torch.randn(4, 6)
    assert torch.equal(pickle.loads(pickle.dumps(prepared))(x), prepared(x))


class PaddedByFunctions(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        padded = torch.cat([x, torch.zeros(x.shape[0], 2)], 1)
        return self.fc(F.relu(padded * torch.arange(1, padded.shape[1] + 1)))


def test_it_is_converted_once_unpickled_and_others_after_it():
    prepared, x = casc_core.prepare(PaddedByFunctions(), adapter="cnn", q=4).eval(), torch.randn(4, 6)
    loaded = pickle.loads(pickle.dumps(prepared))
    assert torch.equal(casc_core.convert(loaded)(x), casc_core.convert(prepared)(x))
    assert casc_core.verify(casc_core.convert(loaded), x).exact


def test_casts_and_global_precision_do_not_change_a_bit():
    snn, x = casc_core.convert(casc_core.prepare(mlp(), adapter="rnn", q=4), adapter="rnn"), torch.randn(50, 6)
    expected = snn(x)
    for cast in ("half", "bfloat16", "double", "float"):
        assert torch.equal(getattr(snn, cast)()(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(snn(x), expected)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("medium", "high"):
            torch.set_float32_matmul_precision(precision)
            assert torch.equal(snn(x), expected)
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_saving_never_deletes_what_others_put_beside_a_network(tmp_path):
    snn = casc_core.convert(casc_core.prepare(mlp(), adapter="rnn", q=4), adapter="rnn")
    snn.save(tmp_path / "net")
    snn.save(tmp_path / "net")
    (tmp_path / "net" / "notes.txt").write_text("precious")
    snn.save(tmp_path / "net")
    assert (tmp_path / "net" / "notes.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    snn = casc_core.convert(casc_core.prepare(mlp(), adapter="rnn", q=4), adapter="rnn")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    snn.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert casc_core.load(tmp_path / "real").layers == snn.layers


def test_mistaken_arguments():
    ann = casc_core.prepare(mlp(), adapter="rnn", q=4)
    snn, x = casc_core.convert(ann, adapter="rnn"), torch.randn(3, 6)
    with pytest.raises(ConfigError, match="neuron must be"):
        casc_core.convert(ann, adapter="rnn", neuron=CIF)
    for schedule in (Continuous, "continuous"):
        with pytest.raises(ConfigError, match="schedule must be"):
            casc_core.convert(ann, adapter="rnn", schedule=schedule)
    with pytest.raises(ConfigError, match="convert takes the trained"):
        casc_core.convert(snn, adapter="rnn")
    with pytest.raises(ConfigError, match="verify takes the converted network first"):
        casc_core.verify(ann, x)
    with pytest.raises(InputError, match="must be a torch tensor; got ndarray"):
        snn(np.zeros((3, 6)))
    with pytest.raises(InputError, match=r"last dimension is 6; got \[3, 4\]"):
        snn(torch.zeros(3, 4))
    with pytest.warns(UserWarning, match="computes with 16 levels, but the model was trained with q=4"):
        snn.under(CIF(), WakeSleep(16))
