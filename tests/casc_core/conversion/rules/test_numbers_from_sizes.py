"""What a forward computes of the sizes of its tensors: factors, lengths of a table, parts that are taken by their place."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from dyadic import dyadic, network
from pretend_device import pretend_device
from torch import nn

import casc_core
from casc_core import InputError
from casc_core.engine.ops import DividedByInput, Multiply

TEXTS = dyadic(3, 5, 6, parts=16, reach=40)
LENGTHS = torch.tensor([5, 2, 4])


def attention(scaled):
    def forward(self, x):
        q, k, v = (F.relu(layer(x)) for layer in (self.q, self.k, self.v))
        return self.fc((F.relu(scaled(self, q @ k.mT, q)) @ v / x.shape[1]).mean(1))

    return forward


FACTORS = {
    "power of a width": lambda self, scores, q: scores * q.shape[-1] ** -0.5,
    "power of a width in heads": lambda self, scores, q: scores * (q.shape[-1] // 2) ** -0.5,
    "root of a width": lambda self, scores, q: scores / math.sqrt(q.size(-1)),
    "root as a power": lambda self, scores, q: scores / q.size(-1) ** 0.5,
    "share of a width": lambda self, scores, q: scores * (0.3 / q.size(-1)),
    "root of a tensor": lambda self, scores, q: scores / torch.sqrt(torch.tensor(q.size(-1)).float()),
    "power of a number": lambda self, scores, q: scores * torch.tensor(q.size(-1)) ** -0.5,
}


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("scaled", FACTORS)
def test_a_factor_that_is_not_whole_is_exact(scaled, numerics):
    model = network(attention(FACTORS[scaled]), fc=nn.Linear(4, 3), **{name: nn.Linear(6, 4) for name in "qkv"})
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval(), numerics=numerics)
    report = casc_core.verify(snn, TEXTS)
    assert report.exact, str(report)
    assert torch.equal(snn(TEXTS[1:]), snn(TEXTS)[1:])


def test_a_factor_has_all_bits_of_a_number():
    model = network(
        lambda self, x: self.fc(F.relu(self.a(x)) / math.sqrt(x.shape[-1])), a=nn.Linear(6, 6), fc=nn.Linear(6, 3)
    )
    prepared = casc_core.prepare(model, q=4).eval()
    snn, x = casc_core.convert(prepared), TEXTS[:, 0]
    torch.testing.assert_close(snn(x).double(), prepared.double()(x.double()), rtol=0, atol=1e-7)


def whole(self, x, lengths):
    return self.fc(F.relu(self.a(x)).sum(1) / (lengths + 1 - x.shape[1] // 3)[:, None])


def broken(self, x, lengths):
    return self.fc(F.relu(self.a(x)).sum(1) / (lengths + 0.5)[:, None])


def root(self, x, lengths):
    return self.fc(F.relu(self.a(x)).sum(1) / lengths.float().sqrt().unsqueeze(1))


def weights(self, x, lengths):
    mask = (torch.arange(x.shape[1]) < lengths[:, None]).float()
    return self.fc((F.relu(self.a(x)) * (mask / mask.sum(1, keepdim=True))[:, :, None]).sum(1))


@pytest.mark.parametrize(
    ("forward", "kind"), [(whole, DividedByInput), (broken, Multiply), (root, Multiply), (weights, Multiply)]
)
def test_what_lengths_give_is_a_divisor_where_it_may_be_whole_and_a_factor_where_not(forward, kind):
    model = network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    assert any(isinstance(op, kind) for op in snn.operations())
    report = casc_core.verify(snn, TEXTS, LENGTHS)
    assert report.exact, str(report)
    assert torch.equal(snn(TEXTS[:2], LENGTHS[:2]), snn(TEXTS, LENGTHS)[:2])


class Places(nn.Module):
    """Reads tables of its own as far as the input is long."""

    def __init__(self, read):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.fc, self.read = nn.Linear(6, 6), nn.Linear(6, 3), read
        self.register_buffer("table", torch.randn(10, 6))
        self.register_buffer("start", torch.randn(1, 1, 6))
        self.register_buffer("ids", torch.arange(10)[None])
        self.register_buffer("causal", torch.tril(torch.ones(10, 10)))
        self.embedding = nn.Embedding(10, 6)

    def forward(self, x):
        return self.fc(F.relu(self.a(self.read(self, F.relu(self.a(x))))).mean(1))


READS = {
    "slice": lambda self, h: h + self.table[: h.shape[1]],
    "slice from the end": lambda self, h: h + self.table[None, -h.size(1) :, :],
    "place": lambda self, h: h + self.table[h.shape[1]],
    "embedding of ids": lambda self, h: h + self.embedding(self.ids[:, : h.shape[1]]),
    "expanded": lambda self, h: torch.cat([self.start.expand(h.shape[0], -1, -1), h], 1),
    "causal mask": lambda self, h: self.causal[: h.shape[1], : h.shape[1]] @ h,
    "masked": lambda self, h: h.masked_fill(self.causal[0, : h.shape[1]].bool()[None, :, None], 0.0),
    "of another shape": lambda self, h: h + self.table.new_ones(h.shape[1], 6),
    "of what was computed": lambda self, h: h + (self.table * 2).T[:, : h.shape[1]].T,
}


@pytest.mark.parametrize("read", READS)
def test_a_buffer_is_read_as_far_as_the_input_is_long(read, tmp_path):
    ann = casc_core.prepare(Places(READS[read]), q=4).eval()
    snn = casc_core.convert(ann)
    for x in (TEXTS, TEXTS[:2, :3]):
        report = casc_core.verify(snn, x)
        assert report.exact, str(report)
        torch.testing.assert_close(snn(x), ann(x), rtol=0, atol=1e-4)
    snn.save(tmp_path / "network")
    assert torch.equal(casc_core.load(tmp_path / "network")(TEXTS), snn(TEXTS))


def test_a_part_that_is_taken_by_its_place_may_be_the_only_one():
    model = network(
        lambda self, x: self.fc(F.relu(F.leaky_relu(self.a(x), 0.25).chunk(2, 1)[0])).sum(1),
        a=nn.Linear(6, 6), fc=nn.Linear(6, 3),
    )  # fmt: skip
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    for x in (TEXTS[:, :1], TEXTS):
        assert casc_core.verify(snn, x).exact


def test_parts_that_are_unpacked_are_counted_by_the_line_of_the_forward():
    def forward(self, x):
        first, second = F.relu(self.a(x)).chunk(2, 1)
        return self.fc(first.sum(1) - second.sum(1))

    snn = casc_core.convert(casc_core.prepare(network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3)), q=4).eval())
    assert casc_core.verify(snn, TEXTS).exact
    with pytest.raises(
        InputError, match=r"falls into 1 for this input(?s:.*)test_numbers_from_sizes\.py:\d+: first, second = "
    ):
        snn(TEXTS[:, :1])


def test_channels_that_are_as_many_as_features_are_no_features_behind_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.PReLU(2), nn.Linear(2, 2)).eval()
    snn = casc_core.convert(casc_core.prepare(model, q=4))
    assert casc_core.verify(snn, torch.randn(3, 2, 2, 2)).exact


CASTS = {
    "to": lambda made, h: made.to(h),
    "type_as": lambda made, h: made.type_as(h),
    "device": lambda made, h: made.to(h.device),
}


@pytest.mark.parametrize("cast", CASTS)
def test_what_is_cast_to_a_spiking_tensor_follows_it_to_its_device(cast):
    def forward(self, x):
        h = F.relu(self.a(x))
        return self.fc(F.relu(torch.cat([h, CASTS[cast](torch.ones(h.shape[0], 5, 1), h)], 2)).mean(1))

    model = network(forward, a=nn.Linear(6, 5), fc=nn.Linear(6, 3))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    expected = snn(TEXTS)
    with pretend_device() as device:
        copy.deepcopy(model).to(device)(TEXTS.to(device))  # as the model does
        assert torch.equal(snn.to(device)(TEXTS.to(device)).cpu(), expected)


def test_a_number_from_sizes_is_made_where_the_network_is():
    model = network(
        attention(FACTORS["root of a width"]), fc=nn.Linear(4, 3), **{name: nn.Linear(6, 4) for name in "qkv"}
    )
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    expected = snn(TEXTS)
    with pretend_device() as device:
        assert torch.equal(snn.to(device)(TEXTS.to(device)).cpu(), expected)


def branches(condition):
    def forward(self, x):
        x = self.a(x)
        x = -x if condition(x) else x * 0.5
        return self.head(F.relu(x))

    return network(
        forward, a=nn.Conv2d(3, 4, 1), head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    )


CONDITIONS = {
    "dimensions": lambda x: x.dim() > 2,
    "ndim": lambda x: x.ndim == 4,
    "channels": lambda x: x.shape[1] > 1,
    "size": lambda x: x.size(1) // 2 == 2,
    "negated": lambda x: not x.shape[1] > 7,
    "false": lambda x: x.dim() < 4,
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_that_layers_decide_is_what_they_make_it(condition):
    images = dyadic(2, 3, 4, 4, parts=16, reach=40)
    ann = casc_core.prepare(branches(CONDITIONS[condition]), q=4).eval()
    snn = casc_core.convert(ann)
    report = casc_core.verify(snn, images)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(images), ann(images), rtol=0, atol=1e-5)


def test_a_condition_that_the_inputs_decide_is_refused_where_it_is_true():
    def forward(self, x):
        if x.dim() > 2:
            x = x.flatten(1)
        return self.fc(F.relu(self.a(x)))

    snn = casc_core.convert(casc_core.prepare(network(forward, a=nn.Linear(30, 6), fc=nn.Linear(6, 3)), q=4).eval())
    with pytest.raises(InputError, match=r"Do to the input what the forward would do there(?s:.*): if x\.dim\(\) > 2:"):
        snn(TEXTS)
    assert casc_core.verify(snn, TEXTS.flatten(1)).exact


@pytest.mark.parametrize("power", [2, 3, 4, 3.0])
def test_a_whole_power_of_what_a_layer_gives_is_a_product(power):
    model = network(lambda self, x: self.fc(F.relu(self.a(x) ** power - 1)), a=nn.Linear(6, 6), fc=nn.Linear(6, 3))
    ann = casc_core.prepare(model, q=4).eval()
    snn = casc_core.convert(ann)
    assert any(isinstance(op, Multiply) for op in snn.operations())
    report = casc_core.verify(snn, TEXTS)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(TEXTS).double(), ann.double()(TEXTS.double()), rtol=0, atol=1e-6)


def centred(self, x):
    h = F.silu(x) ** 2
    return h - h.mean(1, keepdim=True)


TOWERS = {
    "of one scale": lambda self, x: self.fc(centred(self, x).square() + centred(self, x)),
    "of a mean": lambda self, x: self.fc(centred(self, x).square().mean(-1, keepdim=True) + centred(self, x)),
    "of no centre": lambda self, x: self.fc((F.silu(x) ** 4).mean(1, keepdim=True) + F.silu(x) ** 2),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_no_factor_is_lost_on_the_grid_of_what_it_multiplies(tower):
    torch.manual_seed(0)
    model = network(TOWERS[tower], fc=nn.Linear(6, 3))
    ann, x = casc_core.prepare(model, q=8).eval(), torch.randn(4, 6)
    snn = casc_core.convert(ann)
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(x).double(), ann.double()(x.double()), rtol=0, atol=1e-5)


def test_products_of_products_of_which_no_fraction_is_left_are_refused():
    def forward(self, x):
        h = centred(self, x) ** 4
        return self.fc(self.a(h) + h)

    ann = casc_core.prepare(network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3)), q=8).eval()
    said = r"products of products as large as these may be are exact to \S+ alone"
    with pytest.raises(casc_core.ConversionError, match=said):
        casc_core.convert(ann)


def test_a_factor_that_is_not_whole_is_saved_and_written_for_other_tools(tmp_path):
    model = network(
        lambda self, x: self.fc(F.relu(self.a(x)) / math.sqrt(x.shape[-1])), a=nn.Linear(6, 6), fc=nn.Linear(6, 3)
    )
    snn, x = casc_core.convert(casc_core.prepare(model, q=4).eval()), TEXTS[:, 0]
    snn.save(tmp_path / "network")
    assert torch.equal(casc_core.load(tmp_path / "network")(x), snn(x))
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    snn.export_onnx(tmp_path / "model.onnx", x)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x.numpy()})
    assert torch.equal(torch.from_numpy(logits), snn(x))


def padded_to_the_stride(self, x):
    """As TensorFlow pads."""
    missing = max((math.ceil(x.shape[-1] / 2) - 1) * 2 + 3 - x.shape[-1], 0)
    return self.act(self.conv(F.pad(x, (missing // 2, missing - missing // 2))))


def at_most(self, x):
    longest = min([x.shape[2], 5])
    return self.act(self.fc(x[:, :, :longest].sum(2) * max(longest, 2.5))) / max(x.size(1), 6.5)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("forward", [padded_to_the_stride, at_most])
def test_maxima_of_sizes(forward, functional, tmp_path):
    """In a forward, and in the code that a preparation writes of one."""
    act = (lambda x: F.relu(x)) if functional else nn.ReLU()
    model = network(forward, act=act, conv=nn.Conv1d(6, 4, 3, stride=2), fc=nn.Linear(6, 3))
    ann = casc_core.prepare(model, q=4).eval()
    snn = casc_core.convert(ann)
    snn.save(tmp_path / "saved")
    for length in (3, 4, 8, 9):
        x = dyadic(2, 6, length, parts=16, reach=40)
        assert casc_core.verify(snn, x).exact
        assert torch.equal(snn(x), casc_core.load(tmp_path / "saved")(x))
        torch.testing.assert_close(snn(x), ann(x), rtol=0, atol=1e-6)
