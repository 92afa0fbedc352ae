"""Mistakes with batches, networks and numbers, in whatever looks at data: one clear error each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import casc_core
from casc_core import IF, ConfigError, Continuous, CQReLU, InputError
from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.engine.recording.agreement import Agreement
from casc_core.rivals.methods import FOUR, Calibrated, Method, PercentileReLU, methods_for
from casc_lab.compare.comparison import compare
from casc_lab.compare.network_and_data import NetworkAndData
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.methods import evaluate

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def plain(activation=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), activation or nn.ReLU(), nn.Linear(8, 2))


def converted():
    return casc_core.convert(plain(CQReLU(4)))


LOOKS = {
    "analyse": lambda batches: casc_core.analyse(converted(), batches, T=4),
    "calibrate": lambda batches: casc_core.calibrate(plain(), batches, q=4),
    "ACP": lambda batches: Calibrated(neuron=IF(), schedule=Continuous(), steps=4).network(converted(), batches),
    "percentile": lambda batches: PercentileReLU(neuron=IF(), schedule=Continuous()).network(converted(), batches),
    "compare": lambda batches: compare(NetworkAndData(converted(), None, lambda: batches, None, "a", "b", {}), T=4),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there is no batch to"),
        (iter(()), "there is no batch to"),
        (X, "got a tensor: put it into a list"),
        (None, "must be a list of batches; got NoneType"),
        (3, "must be a list of batches; got int"),
        ([{"x": X}], "dict"),
        ([X.numpy()], "ndarray"),
        ([X[:0]], "empty"),
        ([X[:, :3]], r"\[6, 3\]"),
        ([()], r"nothing|got no input"),
        ([X * float("nan")], "NaN|nan"),
        ([X * float("inf")], "infinite|inf"),
    ],
)
def test_batches_that_cannot_be_looked_at(look, batches, message):
    with pytest.raises(InputError, match=message):
        look(batches)


class Items:
    """Batches by number, as a sequence of one's own has them."""

    def __getitem__(self, index):
        return [X, X[:2]][index]


@pytest.mark.parametrize("look", [LOOKS[name] for name in ("analyse", "calibrate", "percentile")])
def test_batches_may_be_anything_that_can_be_gone_through(look):
    for batches in ([X], (X,), iter([X]), Items(), [(X, Y)]):
        look(batches)
    assert len(list(checked_batches(Items(), "see"))) == 2
    assert inputs_and_labels((X, Y), 1)[1] is Y


@pytest.mark.parametrize("percentile", ["99", None, True, float("nan"), -1, 100.5, [1]])
def test_a_percentile_is_a_number(percentile):
    for look in (
        lambda: casc_core.calibrate(plain(), [X], q=4, percentile=percentile),
        lambda: PercentileReLU(percentile=percentile).network(converted(), [X]),
    ):
        with pytest.raises(ConfigError, match=r"percentile must lie in \(0, 100\]"):
            look()


class Twice(nn.Module):
    """One activation at two widths, or at none."""

    def __init__(self, flat):
        super().__init__()
        self.a, self.b, self.act, self.flat = nn.Linear(4, 8), nn.Linear(8, 5), nn.ReLU(), flat

    def forward(self, x):
        return self.act(self.a(x)[:, 0]) if self.flat else self.act(self.b(self.act(self.a(x))))


def test_thresholds_by_channel_need_channels():
    with pytest.raises(ConfigError, match="with 8 and with 5 channels: use per_channel=False"):
        casc_core.calibrate(Twice(False), [X], q=4, per_channel=True)
    with pytest.raises(ConfigError, match=r"shape \[6\] has no channels: use per_channel=False"):
        casc_core.calibrate(Twice(True), [X], q=4, per_channel=True)


def test_a_network_must_be_one():
    with pytest.raises(ConfigError, match=r"calibrate takes a torch\.nn\.Module; got int"):
        casc_core.calibrate(5, [X], q=4)
    for look in (
        lambda: Method().network(plain(), []),
        lambda: Calibrated().network(plain(), [X]),
        lambda: PercentileReLU().network(plain(), [X]),
        lambda: methods_for(plain(), 4),
    ):
        with pytest.raises(ConfigError, match="a method simulates a converted network; got Sequential"):
            look()


def test_a_network_is_analysed_against_one_of_its_layers():
    snn = converted()
    deeper = nn.Sequential(nn.Linear(4, 8), nn.Identity(), CQReLU(4), nn.Linear(8, 2))
    wider = nn.Sequential(nn.Linear(4, 9), CQReLU(4), nn.Linear(9, 2))
    more = nn.Sequential(nn.Linear(4, 8), CQReLU(4), nn.Linear(8, 3))
    with pytest.raises(ConfigError, match="against one of its own layers, 1; got Sequential with none"):
        casc_core.analyse(snn, [X], T=4, against=plain())
    with pytest.raises(ConfigError, match="got SpikingModel with 2"):
        casc_core.analyse(snn, [X], T=4, against=casc_core.convert(deeper))
    with pytest.raises(ConfigError, match=r"layer '1' of shape \[6, 8\].*\[6, 9\]"):
        casc_core.analyse(snn, [X], T=4, against=casc_core.convert(wider))
    with pytest.raises(ConfigError, match=r"outputs \[6, 2\].*\[6, 3\]"):
        casc_core.analyse(snn, [X], T=4, against=casc_core.convert(more))
    with pytest.raises(ConfigError, match="cannot be compared"):
        Agreement({"a": torch.zeros(3)}, 2, [1, 2]).layer("a", torch.zeros(2, 4, dtype=torch.int8))


@pytest.mark.parametrize("T", [0, -1, True, 2.5, "4", None])
def test_a_comparison_needs_steps(T):
    with pytest.raises(ConfigError, match="must be an integer of at least 1"):
        compare(NetworkAndData(converted(), None, lambda: [X], None, "a", "b", {}), T=T)


def test_our_method_must_be_compared():
    subject = NetworkAndData(converted(), None, lambda: [X], None, "a", "b", {})
    for methods in ({}, {"baseline": FOUR["baseline"]}):
        with pytest.raises(ConfigError, match=r"'baseline\+CIF\+WSC' must be among the methods"):
            compare(subject, 4, methods)

    def batches(share):
        return [Batch((X,), Y, torch.arange(6))]

    for steps, methods in (([], FOUR), ([1], {})):
        with pytest.raises(ConfigError, match="an evaluation needs steps and the method"):
            evaluate(plain(CQReLU(4)), converted(), batches, steps, methods=methods)
    with pytest.raises(InputError, match="the test set is empty"):
        evaluate(plain(CQReLU(4)), converted(), lambda share: [], [1])
