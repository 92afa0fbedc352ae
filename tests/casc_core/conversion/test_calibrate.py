"""Calibration step by step: none makes the error larger, each does what it says, and all of it converts exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from gated_cnns import GatedConvolution, mobilenet_v3, se_resnet
from torch import nn

import casc_core
from casc_core import ConfigError, CQReLU
from casc_core.conversion.activation_values import Histogram
from casc_core.conversion.affine_sources import AffineSources
from casc_core.conversion.calibration_steps import STEPS, Calibrating
from casc_core.conversion.prepare import read_prepared


class Block(nn.Module):
    """A residual network with batch norm, channels of very different size, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.pool, self.fc1, self.relu3, self.fc2 = nn.AvgPool2d(2), nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 3)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)) + x)
        return self.fc2(self.relu3(self.fc1(self.pool(x).flatten(1))))


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            norm.weight.copy_(torch.tensor([0.1, 0.3, 1.0, 2.0, 4.0, 0.5]))
            norm.bias.copy_(torch.randn(6) * 0.3)
        for _ in range(50):
            model(torch.randn(32, 2, 6, 6))  # running statistics
    return model.eval()


def batches(labelled: bool = True) -> list:
    drawn = torch.Generator().manual_seed(1)
    images = torch.randn(60, 2, 6, 6, generator=drawn)
    with torch.no_grad():
        labels = trained()(images).argmax(1)
    return [(a, b) if labelled else a for a, b in zip(images.split(30), labels.split(30), strict=True)]


@pytest.mark.parametrize("q", [2, 4, 16])
@pytest.mark.parametrize("half_step", [True, False])
def test_no_step_makes_the_error_larger(q, half_step):
    calibration = casc_core.calibrate(trained(), batches(), q=q, half_step=half_step)
    assert [step.name for step in calibration.steps] == ["percentile", *STEPS]
    taken = [step for step in calibration.steps if step.taken]
    errors = [step.logit_error for step in taken]
    assert errors == sorted(errors, reverse=True)
    assert calibration.logit_error == errors[-1] < errors[0]
    left_out = [step for step in calibration.steps if not step.taken]
    assert all(step.logit_error > errors[-1] for step in left_out)
    # What is reported is what the model gives.
    model, plain = calibration.model, trained()
    with torch.no_grad():
        pairs = [(plain(images), model(images), labels) for images, labels in batches()]
    expected, found, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert calibration.logit_error == pytest.approx(float((expected - found).norm() / expected.norm()), rel=1e-5)
    assert taken[-1].accuracy == pytest.approx(100 * float((found.argmax(1) == labels).double().mean()))
    assert taken[-1].predictions_moved == int((found.argmax(1) != expected.argmax(1)).sum())
    assert calibration.trained_accuracy == 100.0


def test_a_step_that_makes_the_error_larger_is_undone(monkeypatch):
    def worse(state: Calibrating) -> None:
        for name in state.histograms:
            state.activation(name).set_threshold(1e-3)
        state.prepared.get_submodule("fc2").bias.data.add_(7.0)

    before = casc_core.calibrate(trained(), batches(), q=4, steps=["batch norm"])
    monkeypatch.setitem(STEPS, "worse", worse)
    calibration = casc_core.calibrate(trained(), batches(), q=4, steps=["batch norm", "worse"])
    assert not calibration.steps[-1].taken
    assert "worse: undone" in str(calibration)
    assert calibration.logit_error == before.logit_error
    for one, other in zip(calibration.model.state_dict().items(), before.model.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])


def test_thresholds_have_the_least_error_of_all_candidates():
    """Against a search of its own over the activations themselves."""
    torch.manual_seed(0)
    values = torch.rand(500, 3).pow(3) * torch.tensor([1.0, 0.2, 3.0])
    values[0, 0] = 8.0  # an outlier, that is better cut off
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
    chosen = casc_core.calibrate(model, [values], q=4, steps=["thresholds"]).thresholds["1"]

    def error(threshold: float, channel: int) -> float:
        x = values[:, channel].double()
        levels = (x * 4 / threshold + 0.5).floor().clamp(0, 4)
        return float((levels * threshold / 4 - x).square().sum())

    for channel in range(3):
        fine = min(error(threshold, channel) for threshold in torch.linspace(0.02, 8.0, 800).tolist())
        assert error(float(chosen[channel]), channel) < 1.1 * fine
    assert chosen[0] < 4.0


def test_the_rounding_error_of_a_histogram_is_that_of_its_values():
    values = torch.rand(2_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])
    histogram = Histogram(per_channel=True)
    histogram.add(values)
    threshold = torch.tensor([0.8, 2.0])
    for half_step in (False, True):
        found = histogram.rounding_error(threshold, 4, half_step)
        level = (values * 4 / threshold + half_step / 2).floor().clamp(0, 4) * threshold / 4
        torch.testing.assert_close(found, (level - values).double().square().sum(0), rtol=1e-2, atol=0)


def of(model: nn.Module, q: int = 3) -> Calibrating:
    """A network that has only been prepared, every threshold 1."""
    prepared = casc_core.prepare(model, q=q).eval()
    plain = copy.deepcopy(prepared)
    for name, module in list(plain.named_children()):
        if isinstance(module, CQReLU):
            setattr(plain, name, nn.ReLU())
    inputs = [(images,) for images in batches(labelled=False)]
    returned = read_prepared(prepared, None).returned
    return Calibrating(prepared, plain, inputs, {}, AffineSources.of(prepared, None), returned)


def inputs_of(network: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = network.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


def test_biases_put_every_mean_back():
    state = of(trained())
    images = torch.cat([batch[0] for batch in state.batches])
    STEPS["biases"](state)
    for name in ("relu1", "relu2", "relu3"):
        a, b = (
            inputs_of(network, name, images).transpose(0, 1).flatten(1) for network in (state.plain, state.prepared)
        )
        torch.testing.assert_close(a.mean(1), b.mean(1), atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(state.plain(images).mean(0), state.prepared(images).mean(0), atol=1e-4, rtol=0)


def test_batch_norms_have_the_moments_of_the_network_as_trained():
    state = of(trained())
    images = torch.cat([batch[0] for batch in state.batches])
    before = {name: value.clone() for name, value in state.prepared.named_parameters()}
    STEPS["batch norm"](state)
    for name in ("bn1", "bn2"):
        found = []
        for network in (state.plain, state.prepared):
            module = network.get_submodule(name)
            with torch.no_grad():
                found.append(module(inputs_of(network, name, images)).transpose(0, 1).flatten(1))
        torch.testing.assert_close(found[0].mean(1), found[1].mean(1), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[0].std(1), found[1].std(1), atol=0, rtol=1e-3)
    for name, value in state.prepared.named_parameters():
        assert torch.equal(value, before[name])  # statistics alone


@pytest.mark.parametrize("per_channel", [None, True, False])
@pytest.mark.parametrize("half_step", [True, False])
def test_what_is_calibrated_converts_exactly(per_channel, half_step):
    calibration = casc_core.calibrate(trained(), batches(), q=4, per_channel=per_channel, half_step=half_step)
    snn = casc_core.convert(calibration.model)
    assert casc_core.verify(snn, batches()[0][0]).exact


def test_the_network_given_is_left_alone():
    model = trained()
    before = copy.deepcopy(model.state_dict())
    casc_core.calibrate(model, batches(), q=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_calibration_is_repeatable():
    one, other = (casc_core.calibrate(trained(), batches(), q=4) for _ in range(2))
    assert str(one) == str(other)
    assert all(torch.equal(a, b) for a, b in zip(one.thresholds.values(), other.thresholds.values(), strict=True))


def test_channels_are_where_a_layer_has_them():
    class Tokens(nn.Module):
        """A linear layer on `[N, length, features]`, whose dimension 1 is no channel."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.relu, self.outer = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)

        def forward(self, x):
            return self.outer(self.relu(self.inner(x)).mean(1))

    torch.manual_seed(0)
    calibration = casc_core.calibrate(Tokens(), [torch.rand(6, 3, 4), torch.rand(2, 7, 4)], q=4)
    assert calibration.thresholds["relu"].dim() == 0
    assert casc_core.calibrate(trained(), batches(), q=4).thresholds["relu2"].shape == (6,)


def test_an_activation_called_twice_has_channels_and_its_biases_are_corrected():
    """As in torchvision's residual blocks, where one ReLU stands at two places."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.last = nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x):
            x = self.relu(self.first(x))
            return self.last(self.relu(self.second(x) + x).mean((2, 3)))

    torch.manual_seed(0)
    calibration = casc_core.calibrate(Shared(), batches(), q=3)
    assert calibration.thresholds["relu"].shape == (4,)
    state = of(Shared())
    assert state.sources.layers == {("relu", 0): ("first",), ("relu", 1): ("second",), ("", 0): ("last",)}
    images = torch.cat([batch[0] for batch in state.batches])
    second = []
    for network in (state.plain, state.prepared):
        network.second.register_forward_hook(lambda module, inputs, output: second.append(inputs[0] + output))
    STEPS["biases"](state)
    second.clear()
    with torch.no_grad():
        state.plain(images), state.prepared(images)
    torch.testing.assert_close(second[0].mean((0, 2, 3)), second[1].mean((0, 2, 3)), atol=1e-4, rtol=0)


def test_a_layer_called_twice_keeps_its_bias():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.relu, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.relu(self.inner(self.relu(self.inner(self.relu(self.first(x)))))))

    torch.manual_seed(0)
    model = Twice()
    calibration = casc_core.calibrate(model, [torch.rand(16, 4)], q=2)
    assert torch.equal(calibration.model.inner.bias, model.inner.bias)
    assert casc_core.verify(casc_core.convert(calibration.model), torch.rand(3, 4)).exact


def test_without_labels_there_is_no_accuracy():
    calibration = casc_core.calibrate(trained(), batches(labelled=False), q=4)
    assert {step.accuracy for step in calibration.steps} == {calibration.trained_accuracy} == {None}
    assert "accuracy" not in str(calibration)
    assert "network as trained  " in str(casc_core.calibrate(trained(), batches(), q=4))


@pytest.mark.parametrize("steps", [["bias"], "biases", ["thresholds", 3]])
def test_steps_are_some_of_those_there_are(steps):
    with pytest.raises(ConfigError, match="steps are some of 'thresholds', 'batch norm', 'biases', 'scale'"):
        casc_core.calibrate(trained(), batches(), q=4, steps=steps)


def test_the_report_shows_what_each_step_gains():
    calibration = casc_core.calibrate(trained(), batches(), q=4)
    rows = [line.split("  ") for line in str(calibration).splitlines()]
    gains = {row[0].removesuffix(": undone"): [cell for cell in row if cell.strip()] for row in rows}
    before = calibration.steps[0].logit_error
    for step in calibration.steps[1:]:
        assert float(gains[step.name][2]) == pytest.approx(100 * (before - step.logit_error), abs=0.006)
        before = min(before, step.logit_error)


@pytest.mark.parametrize(
    "model",
    [
        se_resnet(nn.Sigmoid),
        se_resnet(nn.Hardsigmoid),
        mobilenet_v3(True),
        mobilenet_v3(False),
        GatedConvolution().eval(),
    ],
    ids=["sigmoid", "hardsigmoid", "timm", "torchvision", "functions"],
)
def test_gates_stay_and_the_rest_is_calibrated(model):
    drawn = torch.Generator().manual_seed(1)
    images = [torch.randn(8, 3, 16, 16, generator=drawn) for _ in range(2)]
    calibration = casc_core.calibrate(model, images, q=16, steps=["thresholds"])
    with torch.no_grad():
        expected = torch.cat([model(x) for x in images])
        # What it is measured against is the network as it was trained.
        found = calibration.model(torch.cat(images))
    error = float((found - expected).norm() / expected.norm())
    taken = [step for step in calibration.steps if step.taken][-1]
    assert abs(taken.logit_error - error) < 1e-3
    assert set(calibration.thresholds) == {
        name for name, module in calibration.model.named_modules() if isinstance(module, CQReLU)
    }
    assert casc_core.verify(casc_core.convert(calibration.model), images[0]).exact


def test_a_swish_is_clipped_where_its_values_end():
    model = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 6), nn.Hardswish(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.mul_(20)
        model[2].weight.zero_()
    calibration = casc_core.calibrate(model, [torch.randn(64, 4)], q=8, percentile=100, steps=[])
    largest = float(model[:2](torch.randn(64, 4)).detach().max())
    assert calibration.model[1].value.threshold > 3
    assert calibration.model[1].value.threshold == pytest.approx(largest, rel=0.5)
    assert calibration.model[3].value.threshold == 3.0


def test_a_clipped_relu_is_held_against_itself():
    model = nn.Sequential(nn.Linear(2, 3), nn.Hardtanh(0.0, 0.5), nn.Linear(3, 2)).eval()
    calibration = casc_core.calibrate(model, [10 * torch.randn(40, 2)], q=8)
    assert float(calibration.thresholds["1"].max()) <= 0.51
    assert calibration.errors["1"] < 0.2


def test_a_gru_stays_and_what_reads_it_is_calibrated():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(30, 6), nn.GRU(6, 8, batch_first=True)
            self.hidden, self.relu, self.fc = nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)

        def forward(self, tokens):
            return self.fc(self.relu(self.hidden(self.gru(self.embedding(tokens))[0].mean(1))))

    torch.manual_seed(0)
    tokens = torch.randint(0, 30, (40, 7))
    calibration = casc_core.calibrate(Reader().eval(), [tokens], q=16, adapter="rnn")
    assert list(calibration.thresholds) == ["relu"]
    assert calibration.logit_error < 0.2
    assert casc_core.verify(casc_core.convert(calibration.model, adapter="rnn"), tokens).exact


def test_what_is_another_function_with_levels_is_left_to_training():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.RNN(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.rnn(x)[0].mean(1))

    with pytest.raises(ConfigError, match="'rnn': a RNN with levels is another function than what was trained"):
        casc_core.calibrate(Reader(), [torch.randn(4, 5, 6)], q=4, adapter="rnn")
