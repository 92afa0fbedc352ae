"""One meaning of "predicted", whatever the outputs look like: in verify, analyse, calibrate, evaluation and comparison."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from user_cnns import IMAGES, cnn, conv

import casc_core
from casc_core import CQReLU, InputError
from casc_core.reporting.predictions import differing, labels_of, reading
from casc_core.rivals.methods import FOUR
from casc_lab.compare.comparison import compare
from casc_lab.compare.network_and_data import NetworkAndData
from casc_lab.compare.page import page
from casc_lab.compare.terminal_summary import terminal_summary
from casc_lab.evaluation.accuracy import Batch, accuracy
from casc_lab.evaluation.methods import evaluate
from casc_lab.evaluation.sweep import levels_row


class Reshaped(nn.Module):
    """Ten numbers for each sample, in any shape."""

    def __init__(self, *shape, inputs=5, width=24):
        super().__init__()
        torch.manual_seed(3)
        size = 1
        for extent in shape:
            size *= extent
        self.a, self.act, self.b, self.shape = nn.Linear(inputs, width), CQReLU(4), nn.Linear(width, size), shape

    def forward(self, x):
        return self.b(self.act(self.a(x))).reshape(x.shape[0], *self.shape)


X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
SHAPES = {
    "classes": ((3,), lambda y: y.argmax(1)),
    "one number": ((), lambda y: (y > 0).long()),
    "one number in a row": ((1,), lambda y: (y > 0).long()[:, 0]),
    "pixels": ((3, 2, 2), lambda y: y.argmax(1)),
    "pixels of one class": ((1, 2, 3), lambda y: (y > 0).long()[:, 0]),
    "voxels": ((3, 2, 2, 2), lambda y: y.argmax(1)),
    "positions": ((4, 3), lambda y: y.argmax(2)),
    "positions of one class": ((4, 1), lambda y: (y > 0).long()[:, :, 0]),
    "positions last": ((3, 4), lambda y: y.argmax(1)),
}


def labelled(shape, classes):
    """A network, its conversion on a grid of three bits, and the classes of the latter."""
    model = Reshaped(*shape).eval()
    snn = casc_core.convert(model, numerics=casc_core.Exact(weight_bits=3))
    return model, snn, classes(snn.reference(X))


@pytest.mark.parametrize(("shape", "classes"), SHAPES.values(), ids=SHAPES)
def test_an_exact_network_is_right_on_its_own_answers(shape, classes):
    _, snn, labels = labelled(shape, classes)
    analysis = casc_core.analyse(snn, [(X[:30], labels[:30]), (X[30:], labels[30:])])
    assert analysis.exact
    assert analysis.accuracy[-1] == 100.0
    assert analysis.error is None
    assert analysis.mismatches[-1] == 0


@pytest.mark.parametrize(("shape", "classes"), SHAPES.values(), ids=SHAPES)
def test_what_differs_is_counted_in_samples_and_alike_everywhere(shape, classes):
    model, snn, labels = labelled(shape, classes)
    with torch.no_grad():
        own = classes(model(X))
    places = (own != labels).reshape(len(X), -1)
    moved = int(places.any(1).sum())
    assert moved > 0 or len(shape) < 2, "a coarse grid moves something"
    reference = snn.reference(X)
    report = casc_core.verify(snn, X)
    if shape != (3, 4):  # without labels a class for each of three positions cannot be told from three for each of four
        with torch.no_grad():
            assert int(differing(model(X), reference).sum()) == moved
        assert report.ann_predictions_moved == report.grid.predictions == moved
    other = casc_core.analyse(snn.under(casc_core.IF(), casc_core.Continuous()), [(X, labels)], T=3)
    readouts = snn.under(casc_core.IF(), casc_core.Continuous()).simulate(X, T=3).logits
    wrong = torch.stack([(classes(readout) != labels).reshape(len(X), -1) for readout in readouts])
    assert other.mismatches.tolist() == wrong.any(2).sum(1).tolist()
    torch.testing.assert_close(other.accuracy, 100.0 * (~wrong).double().mean((1, 2)))
    if shape and len(shape) < 3 and shape != (3, 4):
        evaluation = evaluate(model, snn, lambda share: [Batch((X,), labels, torch.arange(len(X)))], [1, 2, 4])
        assert evaluation.ann.mismatches == moved
        assert evaluation.ann.value == pytest.approx(100.0 * float((~places).double().mean()), abs=1e-4)
        assert evaluation.reference.value == 100.0
        assert levels_row(4, evaluation).silent == 100.0
    result = compare(NetworkAndData(snn, None, lambda: [(X, labels)], None, "shapes", "noise", {}), T=4)
    assert result["reference_accuracy"] == 100.0
    assert result["ann_accuracy"] == pytest.approx(100.0 * float((~places).double().mean()), abs=1e-4)
    if shape != (3, 4):
        assert result["ann_predictions_moved"] == moved


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3)])
def test_numbers_are_met_or_missed_by_so_much(shape):
    model, snn, _ = labelled(shape, lambda y: y)
    wanted = snn.reference(X) + 0.5
    flat = wanted.reshape(len(X), -1)[:, 0] if shape == (1,) else wanted
    analysis = casc_core.analyse(snn, [(X[:30], flat[:30]), (X[30:], flat[30:])])
    assert analysis.accuracy is None
    assert float(analysis.error[-1]) == pytest.approx(0.25, rel=1e-5)
    readouts = snn.simulate(X).logits
    torch.testing.assert_close(analysis.error, (readouts - wanted).double().square().flatten(1).mean(1)[: analysis.T])
    off = (readouts != snn.reference(X)).reshape(len(readouts), len(X), -1).any(2).sum(1)
    assert analysis.mismatches.tolist() == off.tolist()
    assert "mean squared error 0.25" in str(analysis)
    assert "accuracy" not in str(analysis)
    result = compare(NetworkAndData(snn, None, lambda: [(X, flat)], None, "numbers", "noise", {}), T=4)
    assert result["ann_accuracy"] is result["reference_accuracy"] is None
    assert result["reference_error"] == pytest.approx(0.25, rel=1e-5)
    with torch.no_grad():
        assert result["ann_error"] == pytest.approx(float((model(X) - wanted).double().square().mean()), rel=1e-5)
    assert result["ann_predictions_moved"] is None  # nothing is predicted
    assert "mean squared error (MSE)" in terminal_summary(result)
    assert "samples whose outputs differ" in terminal_summary(result)
    assert "predictions" not in terminal_summary(result)
    text = page(result)
    assert "Mean squared error against the labels" in text
    assert "Accuracy (Figure 4 e)" not in text
    assert "Accuracy in percent" not in text


def test_a_sample_without_a_batch_is_one_sample():
    layers = Reshaped(3)
    snn = casc_core.convert(nn.Sequential(layers.a, layers.act, layers.b), numerics=casc_core.Exact(weight_bits=3))
    report, same = casc_core.verify(snn, X[0]), casc_core.verify(snn, X[:1])
    assert (len(report.silent_at), report.exact, report.grid) == (1, True, same.grid)
    assert report.silent_at.tolist() == same.silent_at.tolist() == snn.simulate(X[0]).silent_at.tolist()
    analysis = casc_core.analyse(snn, [X[0], X[1]])
    assert analysis.samples == 2
    torch.testing.assert_close(analysis.mse, casc_core.analyse(snn, [X[:2]]).mse)
    assert analysis.mismatches.tolist() == casc_core.analyse(snn, [X[:2]]).mismatches.tolist()
    assert "1 samples" in str(report)
    result = compare(NetworkAndData(snn, None, lambda: [X[0], X[1]], None, "vectors", "noise", {}), T=4, methods=FOUR)
    whole = compare(NetworkAndData(snn, None, lambda: [X[:2]], None, "vectors", "noise", {}), T=4, methods=FOUR)
    for key in ("data", "ann_predictions_moved", "equivalence"):
        assert result[key] == whole[key]
    # One score for each of several samples is no sample without a batch.
    _, scores, _ = labelled((), lambda y: y)
    assert len(casc_core.verify(scores, X[:4]).silent_at) == casc_core.analyse(scores, [X[:4]]).samples == 4


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((3,), torch.zeros(40, 1, dtype=torch.long), r"labels of shape \[40, 1\] for 40 samples.*\[40\]"),
        ((3,), torch.full((40,), 3), "labels run from 3 to 3, but the network has 3 classes"),
        ((3,), torch.full((40,), -1), "labels run from -1"),
        ((3,), torch.rand(40), r"one number for each output, \[40, 3\]"),
        ((3,), torch.zeros(30, dtype=torch.long), r"labels of shape \[30\] for 40 samples"),
        ((3,), torch.zeros(41, dtype=torch.long), r"labels of shape \[41\] for 40 samples"),
        ((1,), torch.full((40,), 2), "the network has 2 classes"),
        ((), torch.zeros(40, 2, dtype=torch.long), r"labels of shape \[40, 2\]"),
        ((3, 2, 2), torch.zeros(40, dtype=torch.long), r"\[40, 2, 2\]"),
        ((3,), torch.tensor(1), "at least one for each sample"),
        ((3,), "wrong", "labels must be a tensor"),
        ((3,), torch.zeros(40, dtype=torch.complex64), "real numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(shape, labels, message):
    snn = casc_core.convert(Reshaped(*shape).eval())
    with pytest.raises(InputError, match=message):
        casc_core.analyse(snn, [(X, labels)])


def test_classes_and_numbers_do_not_mix_and_an_evaluation_counts_classes():
    snn = casc_core.convert(Reshaped().eval())
    with pytest.raises(InputError, match="of some batches are classes and of some numbers"):
        casc_core.analyse(snn, [(X, torch.zeros(40)), (X, torch.zeros(40, dtype=torch.long))])
    with pytest.raises(InputError, match="counts classes"):
        accuracy(torch.rand(4), torch.rand(4))
    assert labels_of(None) is None
    assert labels_of([1, 2]).tolist() == [1, 2]
    assert reading([4, 3]).classes(torch.eye(4, 3)).tolist() == [0, 1, 2, 0]


def test_calibration_counts_images_and_not_their_columns():
    model = cnn(lambda self, x: self.last(self.act(self.first(x))), first=conv(), act=nn.ReLU(), last=conv(6, 4))
    calibration = casc_core.calibrate(model, [IMAGES[:4], IMAGES[4:]], q=2)
    with torch.no_grad():
        moved = (model(IMAGES).argmax(1) != calibration.model(IMAGES).argmax(1)).flatten(1).any(1)
    assert 0 < calibration.predictions_moved == int(moved.sum()) <= len(IMAGES)
    one = cnn(
        lambda self, x: self.last(self.act(self.first(x)).mean((2, 3))),
        first=conv(),
        act=nn.ReLU(),
        last=nn.Linear(6, 1),
    )
    calibration = casc_core.calibrate(one, [IMAGES], q=1)
    with torch.no_grad():
        assert calibration.predictions_moved == int(((one(IMAGES) > 0) != (calibration.model(IMAGES) > 0)).sum())
