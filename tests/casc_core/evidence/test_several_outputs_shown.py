"""What verify, analyse and calibrate say of networks with several outputs, each by its own measure."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import casc_core
from casc_core import ConfigError, CQReLU, Exact, InputError
from casc_core.evidence.equivalence import combine_reports


class Found(NamedTuple):
    classes: Tensor
    box: Tensor
    maps: Tensor


class Detector(nn.Module):
    """A class, a box and a map of classes for each image, at two strides; unlike any of ours in scale."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act1 = nn.Conv2d(2, 6, 3, padding=1), act or CQReLU(4)
        self.b, self.act2 = nn.Conv2d(6, 8, 3, 2, padding=1), act or CQReLU(4)
        self.maps, self.pool = nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1)
        self.classes, self.box = nn.Linear(8, 5), nn.Linear(8, 4)
        for layer in (self.a, self.b):
            layer.weight.data *= 3

    def forward(self, x):
        early = self.act1(self.a(x))
        late = self.pool(self.act2(self.b(early))).flatten(1)
        return Found(classes=self.classes(late), box=8 * self.box(late), maps=self.maps(early))


X = torch.randn(9, 2, 8, 8, generator=torch.Generator().manual_seed(0))
MEASURES = {"classes": "classes", "box": "numbers"}


@pytest.fixture(scope="module")
def snn():
    return casc_core.convert(Detector())


@pytest.fixture(scope="module")
def coarse():
    """On a grid so coarse that predictions move."""
    return casc_core.convert(Detector(), numerics=Exact(weight_bits=3))


def labels(snn, at=slice(None)):
    """Those that the network itself gives."""
    found = snn.reference(X[at])
    return {"classes": found.classes.argmax(1), "box": found.box, "maps": found.maps.argmax(1)}


def test_a_report_is_on_all_outputs(snn):
    report = casc_core.verify(snn, X, measures=MEASURES)
    assert report.exact
    assert list(report.outputs) == ["classes", "box", "maps"]
    assert all(output.equal and output.max_difference == 0.0 for output in report.outputs.values())
    assert [output.prediction_mismatches for output in report.outputs.values()] == [0, None, 0]
    assert "all 3 outputs equal bit for bit" in str(report)
    assert [name for name in report.lowering.layers if "readout" in name] == [
        "the readout 'classes'", "the readout 'box'", "the readout 'maps'",
    ]  # fmt: skip
    assert report.lowering.neurons == sum(layer.neurons for layer in report.layers.values())


def test_what_differs_is_said_by_output(snn):
    report = casc_core.verify(snn, X, T=3, measures=MEASURES)
    simulated, expected = snn.simulate(X, T=3).outputs, snn.reference(X)
    assert not report.spikes_exact
    for name, output in report.outputs.items():
        found, wanted = getattr(simulated, name)[-1], getattr(expected, name)
        assert output.equal == torch.equal(found, wanted)
        assert output.max_difference == pytest.approx(float((found - wanted).double().abs().max()))
    moved = simulated.maps[-1].argmax(1) != expected.maps.argmax(1)
    assert report.outputs["maps"].prediction_mismatches == int(moved.flatten(1).any(1).sum())
    either = moved.flatten(1).any(1) | (simulated.classes[-1].argmax(1) != expected.classes.argmax(1))
    assert report.prediction_mismatches == int(either.sum())
    assert f"predictions of {int(either.sum())} of 9 samples differ (" in str(report)
    assert "differ by up to" in str(report)


def test_reports_on_batches_are_one(snn):
    whole = casc_core.verify(snn, X, T=3)
    parts = combine_reports([casc_core.verify(snn, X[:4], T=3), casc_core.verify(snn, X[4:], T=3)])
    assert parts.outputs == whole.outputs
    assert parts.prediction_mismatches == whole.prediction_mismatches


def test_what_a_grid_moves_is_said_by_output(coarse):
    report = casc_core.verify(coarse, X, measures=MEASURES)
    assert report.spikes_exact
    with torch.no_grad():
        own = coarse.ann.double()(X.double())
    coarse.ann.float()
    reference = coarse.reference(X)
    moved = {name: (getattr(own, name).argmax(1) != getattr(reference, name).argmax(1)) for name in ("classes", "maps")}
    by_sample = {name: rows.reshape(9, -1).any(1) for name, rows in moved.items()}
    grid = report.against_ann.own
    assert {name: grid.outputs[name].predictions for name in by_sample} == {
        name: int(rows.sum()) for name, rows in by_sample.items()
    }
    assert grid.outputs["box"].predictions is None
    assert grid.predictions == int((by_sample["classes"] | by_sample["maps"]).sum())
    assert grid.predictions > 0
    assert "of 'maps')" in str(report)


def test_an_analysis_has_every_output_in_its_place(snn):
    data = [(X[:5], labels(snn, slice(5))), (X[5:], labels(snn, slice(5, None)))]
    found = casc_core.analyse(snn, data)
    assert isinstance(found.mse, Found)
    assert isinstance(found.logits, Found)
    assert torch.equal(found.logits.maps, snn.reference(X).maps)
    assert float(found.accuracy.classes[-1]) == float(found.accuracy.maps[-1]) == 100.0
    assert found.accuracy.box is None
    assert found.error.classes is None
    readouts, wanted = snn.simulate(X).outputs, labels(snn)
    off = (readouts.box.double() - wanted["box"]).square().flatten(1).mean(1)
    torch.testing.assert_close(found.error.box, off)
    right = (readouts.maps.argmax(2) == wanted["maps"]).double().flatten(1).mean(1) * 100
    torch.testing.assert_close(found.accuracy.maps, right)
    assert found.exact
    assert int(found.exact_at.max()) == max(int(each.exact_at.max()) for each in found.outputs.values())
    moved = [
        (getattr(readouts, name).argmax(2) != wanted[name]).reshape(len(readouts.box), 9, -1).any(2)
        for name in ("classes", "maps")
    ] + [(readouts.box != wanted["box"]).any(2)]
    assert found.mismatches.tolist() == torch.stack(moved).any(0).sum(1).tolist()
    for said in ("accuracy of 'classes' 100.00%", "mean squared error of 'box' 0", "accuracy of 'maps' 100.00%"):
        assert said in str(found)


def test_labels_come_by_name_in_structure_or_in_order(snn):
    own = labels(snn)
    spellings = [
        (X, own),
        (X, Found(**own)),
        (X, tuple(own.values())),
        (X, *own.values()),
        (X, {"classes": own["classes"], "box": own["box"], "maps": own["maps"]}),
    ]
    first = casc_core.analyse(snn, [spellings[0]])
    for other in spellings[1:]:
        again = casc_core.analyse(snn, [other])
        assert torch.equal(again.error.box, first.error.box)
        assert torch.equal(again.accuracy.maps, first.accuracy.maps)
    some = casc_core.analyse(snn, [(X, {"classes": own["classes"]})])
    assert torch.equal(some.accuracy.classes, first.accuracy.classes)
    assert some.accuracy.maps is some.error.box is None


def test_a_function_of_the_users_measures_an_output(snn):
    boxes = [list(each) for each in snn.reference(X).box.tolist()]  # what only the function understands

    def furthest_side(found, given):
        return torch.tensor(
            [max(abs(a - b) for a, b in zip(*each, strict=True)) for each in zip(found.tolist(), given, strict=True)]
        )

    found = casc_core.analyse(snn, [(X, {"box": boxes})], measures={"box": furthest_side})
    off = (snn.simulate(X).outputs.box - snn.reference(X).box).abs().amax(2).mean(1)
    torch.testing.assert_close(found.error.box, off.double())
    assert "furthest_side of 'box' 0" in str(found)
    single = casc_core.convert(nn.Sequential(nn.Linear(4, 6), CQReLU(2), nn.Linear(6, 2)))
    x = torch.rand(5, 4)
    error = casc_core.analyse(single, [(x, single.reference(x) + 1)], measures=lambda a, b: (a - b).abs().mean(1)).error
    assert float(error[-1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("measures", "given", "error", "said"),
    [
        ({"boxes": "numbers"}, None, ConfigError, "no output is called 'boxes'; there are: 'classes', 'box', 'maps'"),
        ({"box": "mse"}, None, ConfigError, "as 'classes', as 'numbers', or by a function"),
        ({"classes": "classes"}, {"classes": torch.rand(9)}, InputError, "labels of classes are whole numbers"),
        (
            None,
            {"classes": torch.zeros(9), "boxes": torch.zeros(9)},
            InputError,
            "the network has the outputs 'classes'",
        ),
        (None, torch.zeros(9), InputError, "give labels by these names"),
        (None, {"box": torch.zeros(9, 3)}, InputError, "number for each output"),
        (None, {"classes": torch.zeros(8).long()}, InputError, "labels of shape"),
        ({"box": lambda a, b: a}, {"box": torch.zeros(9, 4)}, InputError, "one error for each sample"),
    ],
)
def test_measures_and_labels_that_do_not_fit(snn, measures, given, error, said):
    with pytest.raises(error, match=said):
        casc_core.analyse(snn, [(X, given)], measures=measures)


def test_batches_that_are_run_in_parts_say_the_same(snn):
    data = [(X, labels(snn))]
    whole, report = casc_core.analyse(snn, data), casc_core.verify(snn, X, T=3)
    try:
        snn.memory_limit = 100_000
        assert snn.parts((X,), {}, None).count > 1
        parts, again = casc_core.analyse(snn, data), casc_core.verify(snn, X, T=3)
    finally:
        snn.memory_limit = 2**31
    assert torch.equal(parts.mismatches, whole.mismatches)
    torch.testing.assert_close(parts.mse.box, whole.mse.box)
    assert again.outputs == report.outputs
    assert str(again) == str(report)


def test_a_fault_is_that_of_an_output(snn):
    """A network whose conversion is of another one."""
    wrong = casc_core.convert(Detector())
    wrong.origin.ann.box.bias.data += 0.5
    wrong.origin.checksum = wrong.origin._checksum()
    report = casc_core.verify(wrong, X)
    assert report.spikes_exact
    assert not report.exact
    assert report.lowering.first_fault.name == "the readout 'box'"
    assert "the readout 'box', 36 of 36 logits" in str(report)


# Calibration.


def trained():
    return Detector(nn.ReLU())


def test_a_calibration_counts_the_predictions_of_each_output():
    model = trained()
    with torch.no_grad():
        own = model(X)
    given = Found(classes=own.classes.argmax(1), box=own.box, maps=own.maps.argmax(1))
    calibration = casc_core.calibrate(
        model, [(X[:4], Found(*(each[:4] for each in given))), (X[4:], Found(*(each[4:] for each in given)))], q=3
    )
    with torch.no_grad():
        after = calibration.model(X)
    assert calibration.samples == 9
    assert list(calibration.outputs) == ["classes", "box", "maps"]
    for name, output in calibration.outputs.items():
        a, b = getattr(own, name), getattr(after, name)
        assert output.logit_error == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-4)
    moved = {
        name: (getattr(after, name).argmax(1) != getattr(given, name)).reshape(9, -1) for name in ("classes", "maps")
    }
    for name, rows in moved.items():
        assert calibration.outputs[name].predictions_moved == int(rows.any(1).sum())
        assert calibration.outputs[name].accuracy == pytest.approx(100 * (1 - float(rows.double().mean())))
    assert calibration.outputs["box"].predictions_moved is None
    assert calibration.predictions_moved == int((moved["classes"].any(1) | moved["maps"].any(1)).sum())
    errors = [output.logit_error for output in calibration.outputs.values()]
    assert calibration.logit_error == pytest.approx((sum(error**2 for error in errors) / 3) ** 0.5)
    assert f"predictions of {calibration.predictions_moved} of 9 samples differ, outputs by" in str(calibration)
    assert casc_core.verify(casc_core.convert(calibration.model), X).exact


def test_a_calibration_of_numbers_counts_no_predictions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.rand(20, 4)
    for calibration in (
        casc_core.calibrate(model, [(x, model(x).detach())], q=4),
        casc_core.calibrate(model, [x], q=4, measures="numbers"),
    ):
        assert calibration.predictions_moved is None
        assert "predictions of" not in str(calibration)
    with pytest.raises(ConfigError, match="no output is called 'box'; there are: 'logits'"):
        casc_core.calibrate(model, [x], q=4, measures={"box": "numbers"})


def test_the_means_of_all_outputs_are_put_back():
    calibration = casc_core.calibrate(trained(), [X], q=3, steps=["biases"])
    assert calibration.steps[-1].taken
    with torch.no_grad():
        own, after = trained()(X), calibration.model(X)
    for name in ("classes", "maps"):
        a, b = (getattr(found, name).transpose(0, 1).flatten(1).mean(1) for found in (own, after))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_a_report_without_outputs_is_of_one(snn):
    assert "outputs" not in str(replace(casc_core.verify(snn, X), outputs={}, against_ann=None))
