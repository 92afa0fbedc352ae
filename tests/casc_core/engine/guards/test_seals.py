"""A converted network is not to be edited: what can be refused is refused, the rest is noticed."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from user_cnns import Head, cnn, conv

import casc_core
from casc_core import ConfigError, CQReLU, SpikingModel
from casc_core.neuron import IF
from casc_core.rivals.methods import Calibrated
from casc_core.schedule import Continuous

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def forward(self, x):
    return self.head(self.act(self.b(self.act(self.a(x))) + self.gain.reshape(1, 6, 1, 1)))


def network(seed: int = 0, **options) -> SpikingModel:
    model = cnn(forward, seed, a=conv(), b=conv(6), act=CQReLU(4, half_step=True), head=Head())
    model.gain = nn.Parameter(torch.linspace(0.0, 0.5, 6))
    return casc_core.convert(model.eval(), adapter="cnn", **options)


def op_with(snn: SpikingModel, name: str):
    return next(op for op in snn.operations() if op.tensors().get(name) is not None)


def in_inference_mode(tensor: Tensor) -> None:
    with torch.inference_mode():
        tensor.add_(1)


def one_entry_through_numpy(tensor: Tensor) -> None:
    tensor.numpy()[0] += 1


def another_memory(tensor: Tensor) -> None:
    tensor.data = tensor * 2


# Noticed by the next call.
EDITS = {
    "in place": lambda tensor: tensor.add_(1),
    "without gradients": torch.no_grad()(lambda tensor: tensor.mul_(2)),
    "in inference mode": in_inference_mode,
    "one entry": lambda tensor: tensor.__setitem__(..., 7),
    "of a view": lambda tensor: tensor.detach().reshape(-1)[-1:].zero_(),
    "copied": lambda tensor: tensor.copy_(tensor * 2),
    "through data": lambda tensor: tensor.data.mul_(2),
    "through a storage": lambda tensor: tensor.untyped_storage().fill_(1),
    "through numpy": lambda tensor: tensor.numpy().__imul__(2),
    "other data": another_memory,
    "swapped": lambda tensor: torch.utils.swap_tensors(tensor, tensor * 2),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ["weight", "bias", "charge"])
def test_an_edit_is_noticed_by_whatever_comes_next(edit, name, tmp_path):
    snn = network()
    tensor = op_with(snn, name).tensors()[name]
    other = snn.under(IF())
    EDITS[edit](tensor)
    for use in (
        lambda: snn(IMAGES), lambda: snn.reference(IMAGES), lambda: snn.simulate(IMAGES, T=3), lambda: other(IMAGES),
        lambda: casc_core.verify(snn, IMAGES), lambda: snn.save(tmp_path / "network"), lambda: copy.deepcopy(snn),
        lambda: pickle.dumps(snn), lambda: snn.to("cpu"), lambda: snn.double(),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"'{name}' has been edited; .* convert it again"):
            use()
    assert not (tmp_path / "network").exists()


def test_what_a_glance_misses_verifying_and_saving_do_not(tmp_path):
    snn = network()
    weight = op_with(snn, "weight").weight
    weight.data.reshape(-1)[3] += 1
    for use in (
        lambda: casc_core.verify(snn, IMAGES),
        lambda: snn.save(tmp_path / "network"),
        lambda: casc_core.verify(copy.deepcopy(snn), IMAGES),
        lambda: casc_core.verify(copy.deepcopy(snn).double().share_memory(), IMAGES),
    ):
        with pytest.raises(ConfigError, match="'weight' has been edited"):
            use()


def test_what_can_be_refused_is_refused_at_once():
    snn = network()
    before, op = snn(IMAGES), op_with(snn, "weight")
    for edit in (
        lambda: setattr(op, "weight", op.weight * 2),
        lambda: setattr(op, "weight", None),
        lambda: delattr(op, "weight"),
        lambda: setattr(op, "settings", {}),
        lambda: op.settings.update(exponent=0),
        lambda: op.settings.__setitem__("exponent", 0),
        lambda: op.settings.pop("exponent"),
        lambda: op.change("weight", op.weight * 2),
        lambda: setattr(op_with(snn, "charge"), "charge", torch.zeros(())),
    ):
        with pytest.raises(ConfigError, match="convert it again"):
            edit()
    assert torch.equal(snn(IMAGES), before)
    op._buffers["weight"] = op.weight * 2
    with pytest.raises(ConfigError, match="'weight' has been edited"):
        snn(IMAGES)
    op.settings["stride"][0] = 2
    with pytest.raises(ConfigError, match="has been edited"):
        casc_core.verify(snn, IMAGES)


def test_loading_a_state_takes_the_networks_own_and_no_other():
    snn, same, other = network(), network(), network(seed=1)
    assert str(snn.load_state_dict(same.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(snn(IMAGES), same(IMAGES))
    wrapped = nn.ModuleDict({"snn": snn})
    for target, prefix in ((snn, ""), (wrapped, "snn.")):
        for assign in (False, True):
            state = {prefix + key: value for key, value in other.state_dict().items()}
            with pytest.raises(ConfigError, match=r"load_state_dict would replace '.*convert it again"):
                target.load_state_dict(state, assign=assign)
    with pytest.raises(RuntimeError, match="Missing key"):
        snn.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        snn.load_state_dict(snn.state_dict() | {"ops.0.another": torch.zeros(1)})
    assert torch.equal(snn(IMAGES), same(IMAGES))


def test_the_model_and_the_network_share_no_memory():
    model = cnn(forward, a=conv(), b=conv(6), act=CQReLU(4), head=Head())
    model.gain = nn.Parameter(torch.linspace(0.0, 0.5, 6))
    snn = casc_core.convert(model.eval(), adapter="cnn")
    before = snn(IMAGES)
    with torch.no_grad():
        for parameter in (*model.parameters(), *snn.ann.parameters()):
            parameter.add_(1)
    assert torch.equal(snn(IMAGES), before)


def saved_and_loaded(snn):
    memory = io.BytesIO()
    torch.save(snn, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn)), saved_and_loaded, lambda snn: snn.to("cpu"),
        lambda snn: snn.half(), lambda snn: snn.double(), lambda snn: snn.share_memory(), lambda snn: snn.under(),
        lambda snn: snn.with_layers(copy.deepcopy), lambda snn: snn.requires_grad_(False).eval(),
    ],
)  # fmt: skip
def test_copies_answer_the_same_and_are_sealed_too(copied, tmp_path):
    snn = network()
    snn.origin = None  # its class is none that could be pickled
    expected = snn(IMAGES)
    other = copied(snn)
    assert torch.equal(other(IMAGES), expected)
    assert casc_core.verify(other, IMAGES).exact
    other.save(tmp_path / "network")
    loaded = casc_core.load(tmp_path / "network")
    assert torch.equal(loaded(IMAGES), expected)
    for one in (other, loaded):
        with pytest.raises(ConfigError, match="cannot be replaced"):
            op_with(one, "weight").weight = torch.zeros(1)
        op_with(one, "weight").weight.mul_(2)
        with pytest.raises(ConfigError, match="'weight' has been edited"):
            one(IMAGES)


def test_a_network_converted_in_inference_mode_is_as_any_other():
    with torch.inference_mode():
        snn = network()
        found = snn(IMAGES)
    assert torch.equal(found, network()(IMAGES))
    op_with(snn, "weight").weight.add_(1)
    with pytest.raises(ConfigError, match="'weight' has been edited"):
        snn(IMAGES)


def test_calibration_changes_its_own_populations_and_leaves_them_sealed():
    snn = network()
    expected = snn(IMAGES)
    method = Calibrated(neuron=IF(), schedule=Continuous(), steps=4)
    calibrated = method.network(snn, [IMAGES])
    assert torch.equal(snn(IMAGES), expected)
    first, again = calibrated.simulate(IMAGES, T=4), copy.deepcopy(calibrated).simulate(IMAGES, T=4)
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, snn.under(IF(), Continuous()).simulate(IMAGES, T=4).logits)
    op_with(calibrated, "charge").charge.zero_()
    with pytest.raises(ConfigError, match="'charge' has been edited"):
        calibrated.simulate(IMAGES, T=4)


def test_what_a_network_is_made_of_cannot_be_replaced():
    def scaled(snn):
        given, program = next(iter(snn.programs.items()))
        readout = program.outputs[0]
        twice = dataclasses.replace(readout, scale=2 * readout.scale)
        snn.programs[given] = dataclasses.replace(program, outputs=(twice,))

    def with_another_layer(snn):
        snn.ops[len(snn.ops) - 1] = network().operations()[-1]

    def under_another_schedule(snn):
        snn.settings = dataclasses.replace(snn.settings, schedule=casc_core.WakeSleep(3, 3))

    for edit in (scaled, with_another_layer, under_another_schedule):
        snn = network()
        snn.reference(IMAGES)
        edit(snn)
        for call in (snn, snn.reference, lambda x, snn=snn: casc_core.verify(snn, x)):
            with pytest.raises(ConfigError, match="have been replaced"):
                call(IMAGES)


def test_a_network_trained_on_is_not_what_was_converted():
    snn = network()
    assert casc_core.verify(snn, IMAGES).exact
    with torch.no_grad():
        next(snn.ann.parameters()).add_(0)
        assert casc_core.verify(snn, IMAGES).exact
        next(snn.ann.parameters())[0] += 1
    with pytest.raises(ConfigError, match="has been trained or edited since"):
        casc_core.verify(snn, IMAGES)
