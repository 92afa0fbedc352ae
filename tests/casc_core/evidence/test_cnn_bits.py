"""Convolutional networks give the same bits however they are run: in parts, loaded, on any batch, engine and threads."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from engines import ENGINES, engine
from recorded import runs_of
from torch import nn
from user_cnns import IMAGES, Head, cnn, conv, converted, settled

import casc_core
from casc_core import CIF, IF, Continuous, CQReLU, Exact, WakeSleep


def forward(self, x):
    x = F.max_pool2d(self.relu(self.n(self.a(x))), 3, 2, 1)
    y = self.m(self.c(self.relu(self.b(x))))
    x, y = self.relu(y + x), self.relu(y)
    x = x + 0.5 * F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)
    return self.head(self.act(F.pad(self.d(torch.cat([x, y], 1)), (1, 0, 0, 1))))


def network():
    return cnn(
        forward, a=conv(3, 6, 3, 1, bias=False), n=nn.BatchNorm2d(6), b=conv(6, 8, 3, 1, groups=2), c=conv(8, 6, 1, 0),
        m=nn.BatchNorm2d(6), d=conv(12, 6), relu=nn.ReLU(), head=Head(),
        act=CQReLU(4, torch.tensor([0.5, 1.0, 0.7, 2.0, 1.5, 0.3])),
    )  # fmt: skip


@pytest.fixture(scope="module")
def snn():
    return converted(network())


@pytest.fixture(scope="module")
def many():
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(4))


def assert_same(found, expected):
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.silent_at, expected.silent_at)
    assert torch.equal(found.readout_operations, expected.readout_operations)
    assert list(found.spikes) == list(expected.spikes)
    for name, layer in expected.spikes.items():
        assert found.spikes[name].neurons == layer.neurons
        for what in ("positive", "negative", "operations", "silent_at"):
            assert torch.equal(getattr(found.spikes[name], what), getattr(layer, what)), (name, what)


def test_it_is_exact(snn, many):
    assert casc_core.verify(snn, many).exact


@pytest.mark.parametrize("way", ENGINES, ids=str)
@pytest.mark.parametrize("steps", [None, 3, 11])
def test_every_engine(snn, many, way, steps):
    with engine((None, "float")):
        expected = snn.simulate(many[:5], T=steps)
    with engine(way):
        assert_same(snn.simulate(many[:5], T=steps), expected)


@pytest.mark.parametrize("limit", [1, 100_000, 200_000])
def test_parts_of_a_batch(many, limit, monkeypatch):
    snn = converted(network())
    whole, silent, reference = snn.simulate(many, T=9), snn.simulate(many), snn.reference(many)
    snn.memory_limit = limit
    sizes = runs_of(snn, monkeypatch)
    assert_same(snn.simulate(many, T=9), whole)
    assert_same(snn.simulate(many), silent)
    assert torch.equal(snn.reference(many), reference)
    assert torch.equal(snn(many), reference)
    assert max(sizes) < 40


def test_batches_orders_memory_formats_and_threads(snn, many):
    whole = snn.simulate(many, T=12)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        for threads, size in ((1, 1), (2, 7), (1, 40)):
            torch.set_num_threads(threads)
            for start in range(0, 40, size):
                rows = order[start : start + size]
                some = many[rows].contiguous(
                    memory_format=torch.channels_last if size == 7 else torch.contiguous_format
                )
                part = snn.simulate(some, T=12)
                assert torch.equal(part.logits, whole.logits[:, rows])
                assert torch.equal(part.silent_at, whole.silent_at[rows])
                assert torch.equal(snn.reference(some), whole.logits[-1, rows])
    finally:
        torch.set_num_threads(before)


def test_a_longer_run_goes_on_as_the_shorter_one(snn, many):
    silent = snn.simulate(many)
    for steps in (1, 2, 5, silent.T, silent.T + 3):
        cut = snn.simulate(many, T=steps)
        shared = min(steps, silent.T)
        assert torch.equal(cut.logits[:shared], silent.logits[:shared])
        assert torch.equal(cut.logits[shared:], silent.logits[-1:].expand(steps - shared, -1, -1))
        for name, layer in silent.spikes.items():
            assert torch.equal(cut.spikes[name].positive[:shared], layer.positive[:shared])
            assert torch.equal(cut.spikes[name].negative[:shared], layer.negative[:shared])


def test_images_of_any_size_by_one_network(snn):
    for height, width in ((8, 8), (12, 20), (4, 4), (8, 16), (8, 8)):
        x = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(height + width))
        report = casc_core.verify(snn, x)
        assert report.exact, str(report)


@pytest.mark.parametrize("numerics", ["exact", Exact(8), Exact(20), "as trained"], ids=str)
@pytest.mark.parametrize(("neuron", "schedule"), [(CIF(), WakeSleep()), (IF(), Continuous())])
def test_a_loaded_network(numerics, neuron, schedule, many, tmp_path):
    ann = casc_core.prepare(network(), adapter="cnn", q=4)
    snn = casc_core.convert(ann, adapter="cnn", numerics=numerics, neuron=neuron, schedule=schedule)
    snn.save(tmp_path / "net")
    loaded = casc_core.load(tmp_path / "net", model=ann)
    assert loaded.layers == snn.layers
    assert_same(loaded.simulate(many, T=10), snn.simulate(many, T=10))
    assert torch.equal(loaded.reference(many), snn.reference(many))


def test_every_operation_that_can_be_saved_is_loaded(tmp_path):
    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act, self.n = conv(), conv(24), CQReLU(4), nn.BatchNorm2d(3)
            self.head = nn.Linear(6 * 36, 3)

        def forward(self, x):
            x = self.act(self.a(F.pad(self.n(x), (1, 1, 1, 1), mode="circular")))
            x = F.pixel_shuffle(F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2), 2)
            x = F.channel_shuffle(F.adaptive_max_pool2d(x, (7, 9)), 2)
            x = torch.stack([F.avg_pool2d(x, 3, 1, 1, True, False), F.adaptive_avg_pool2d(x, (7, 9))], 1).flatten(1, 2)
            x = torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)
            return self.head(F.adaptive_avg_pool2d(self.act(self.b(x)), 6).flatten(1))

    snn = casc_core.convert(settled(Everything()), adapter="cnn")
    assert casc_core.verify(snn, IMAGES).exact
    snn.save(tmp_path / "net")
    assert torch.equal(casc_core.load(tmp_path / "net")(IMAGES), snn(IMAGES))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies(many, copied):
    model = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), conv(6), nn.ReLU(), Head())
    snn = converted(settled(model))
    expected = snn.simulate(many)
    assert_same(copied(snn).simulate(many), expected)


def test_weights_that_change_after_a_run_are_noticed(many):
    """What the kernels keep of weights is made of the weights as they were converted."""
    snn = converted(settled(nn.Sequential(conv(), nn.ReLU(), conv(6), nn.ReLU(), Head())))
    snn(many)
    with torch.no_grad():
        for tensor in snn.state_dict().values():
            tensor.mul_(0.5)
    for use in (snn, lambda x: casc_core.verify(snn, x)):
        with pytest.raises(casc_core.ConfigError, match="has been edited"):
            use(many)


def test_one_convolution_that_two_populations_read_counts_operations_for_both():
    """Folded into one normalisation and read as it is, or under two normalisations: it runs once for each."""

    def forward(self, x):
        x = self.first(self.a(x))
        y = self.b(x)
        return self.head(self.left(self.n(y)) + self.right(self.m(y)))

    acts = {name: CQReLU(4) for name in ("first", "left", "right")}
    model = cnn(forward, a=conv(), b=conv(6), n=nn.BatchNorm2d(6), m=nn.BatchNorm2d(6), head=Head(), **acts)
    spikes = casc_core.convert(model, adapter="cnn").simulate(IMAGES).spikes
    assert spikes["left"].operations.sum() > 0
    assert torch.equal(spikes["left"].operations, spikes["right"].operations)
