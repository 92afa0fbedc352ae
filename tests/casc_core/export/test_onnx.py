"""A network as ONNX: in onnxruntime, the bits of its reference; what cannot be written is refused by name."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

import casc_core
from casc_core import AsTrained, ConfigError, ConversionError, CQReLU, Exact, ExactnessError, StorageError
from casc_core.engine.ops import Multiply, Op
from casc_core.export.onnx.graph import Graph
from casc_core.export.onnx.rules import RULES
from casc_core.export.onnx.signals import Writer

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from exported import Attention
from forwards import FORWARDS
from named_forwards import Forwards
from onnx_runs import answers, compare, opened
from user_models import user_model

NUMERICS = [AsTrained(), Exact(8)]
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))
SERIES = torch.randn(3, 3, 12, generator=torch.Generator().manual_seed(5))
VOLUMES = torch.randn(2, 2, 4, 5, 5, generator=torch.Generator().manual_seed(6))
CASES = Forwards(IMAGES)
case = CASES.add


def mlp(q: int = 4, threshold: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), CQReLU(q, threshold), nn.Linear(20, 16), CQReLU(q, threshold), nn.Linear(16, 3)
    )


@case(a=nn.Conv2d(3, 4, 3, padding=1, bias=False), n=nn.BatchNorm2d(4), act=nn.ReLU(), b=nn.Conv2d(4, 4, 3, padding=1))
def residual_with_a_maximum(self, x):
    x = F.max_pool2d(self.act(self.n(self.a(x))), 3, 2, padding=1)
    return self.act(self.b(x) + x).mean((2, 3))


@case(a=nn.Conv2d(3, 4, 3), act=nn.ReLU())
def maximum_of_currents(self, x):
    return self.act(F.max_pool2d(self.a(x), 2, ceil_mode=True)).sum((2, 3))


@case(a=nn.Conv2d(3, 6, 3, padding=1, groups=3, dilation=(2, 1), stride=(1, 2)), act=nn.ReLU(), b=nn.Conv2d(6, 4, 1))
def unequal_averages(self, x):
    x = F.avg_pool2d(self.act(self.a(x)), 3, 2, padding=1, count_include_pad=False)
    return self.act(F.adaptive_avg_pool2d(self.b(x), (2, 1))).flatten(1)


@case(a=nn.Conv2d(3, 4, 3, padding=1), act=nn.ReLU(), b=nn.ConvTranspose2d(4, 4, 3, stride=2, padding=2))
def transposed_and_enlarged(self, x):
    x = self.act(self.b(self.act(self.a(x))))
    return self.act(F.interpolate(x, scale_factor=2, mode="bilinear") - 0.25).amax((2, 3))


@case(a=nn.Conv2d(3, 8, 3, padding=1), act=nn.ReLU(), s=nn.Linear(8, 8), gate=nn.Hardsigmoid())
def squeeze_and_excitation(self, x):
    x = self.act(self.a(x))
    return self.act(x * self.gate(self.s(x.mean((2, 3))))[:, :, None, None]).sum((2, 3))


@case(a=nn.Conv2d(3, 8, 1), act=nn.Sigmoid(), b=nn.Conv2d(8, 8, 1), tanh=nn.Tanh(), c=nn.Conv2d(8, 8, 3))
def rounded_activations_in_a_row(self, x):
    return self.tanh(self.c(self.b(self.act(self.a(x))))).sum((2, 3))


@case(a=nn.Conv2d(3, 8, 3), act=nn.ReLU(), h=nn.Linear(4, 6))
def layouts(self, x):
    x = self.act(self.a(x))
    one, two = x.chunk(2, 1)
    x = torch.cat([one, two.flip(-1)], 2).permute(0, 2, 3, 1)[:, 1:-1:2, :, :].reshape(x.shape[0], -1, 4)
    x = torch.stack([self.act(self.h(x)), self.act(self.h(x.roll(1, 1)))], 1)
    return F.pad(x.transpose(1, 3), (1, 0))[..., 0].sum(2) + x.squeeze(1)[:, 0, -1]


@case(SERIES.mT, q=nn.Linear(3, 4), k=nn.Linear(3, 4), v=nn.Linear(3, 4), act=nn.ReLU(), o=nn.Linear(4, 3))
def attention_without_a_softmax(self, x):
    q, k, v = (self.act(layer(x)) for layer in (self.q, self.k, self.v))
    return self.o(self.act((q @ k.mT * 0.25) @ v / x.shape[1]))


@case(SERIES.mT, q=nn.Linear(3, 4), k=nn.Linear(3, 5), act=nn.ReLU(), c=nn.Linear(7, 3))
def products_by_equations(self, x):
    lengths = (x[..., 0] > -1).sum(1)[:, None, None]
    a = self.act(self.q(x)) / lengths
    scores = self.act(torch.einsum("bli,blj->bji", a, self.act(self.k(x))))
    outer = torch.einsum("bji,bk->bijk", scores, scores[:, :, 0])
    return self.c(torch.cat([scores.sum(2), outer.sum((1, 3))[:, :2]], 1)) + torch.einsum("bji->b", scores)[:, None]


@case(SERIES.mT, q=nn.Linear(3, 4), k=nn.Linear(12, 4), act=nn.ReLU(), first=nn.Parameter(torch.ones(1, 1, 4) / 4))
def larger_of_two_behind_a_first_token(self, x):
    q, k = self.act(self.q(x)), self.act(self.k(x.mT))
    y = torch.maximum(q, k.amax(1, keepdim=True) - 0.25).tril(1) + q * (k > 0.5)[:, :1]
    y = torch.cat([self.first.expand(x.shape[0], -1, -1), y.swapdims(1, 2).mT], 1)
    return self.act(torch.minimum(y, y[:, :1] + 0.5)).sum(1)


@case(act=nn.ReLU(), a=nn.Conv2d(3, 4, 3))
def larger_of_spikes_and_the_input(self, x):
    return self.act(self.a(torch.fmax(self.act(x) * 0.5, x))).sum((2, 3))


@case(a=nn.Conv2d(3, 4, 3), tanh=nn.Tanh(), act=nn.ReLU(), b=nn.Conv2d(4, 4, 2))
def tables_by_level(self, x):
    x = F.gelu(self.tanh(self.a(x)))
    return self.act(self.b(F.max_pool2d(x, 2))).exp().mean((2, 3))


@case(SERIES, a=nn.Conv1d(3, 4, 3, padding=2, dilation=2), act=nn.ReLU(), b=nn.Conv1d(4, 5, 2, stride=2))
def series(self, x):
    return self.act(self.b(F.max_pool1d(self.act(self.a(x)), 2))).mean(2)


@case(VOLUMES, a=nn.Conv3d(2, 3, (2, 3, 3), padding=(0, 1, 1)), act=nn.ReLU(), b=nn.Conv3d(3, 4, 2, stride=(1, 2, 2)))
def volumes(self, x):
    return self.act(self.b(self.act(self.a(x)))).sum((2, 3, 4))


@case(a=nn.Conv2d(3, 4, 3), act=nn.ReLU(), c=nn.Conv2d(4, 2, 1), d=nn.Conv2d(4, 3, 3))
def several_outputs(self, x):
    x = self.act(self.a(x))
    return {"classes": self.c(x), "boxes": (self.d(F.avg_pool2d(x, 2)), x.sum((2, 3)) / 3), "size": torch.tensor(8.0)}


@case(a=nn.Linear(8, 6), act=nn.ReLU())
def functions_of_the_inputs(self, x):
    kept = x.where(x > -0.5, torch.zeros_like(x)).clamp(max=1.5)
    weights = torch.where((x > 0).any(3), 2, 1).unsqueeze(-1)
    return (self.act(self.a(kept)) * weights).sum((1, 2)) / (x != 0).sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_the_reference(name, numerics):
    forward, inputs, layers = CASES[name]
    q = 3 if name == "rounded_activations_in_a_row" else 4
    body = type("Net", (nn.Module,), {"forward": forward})()
    torch.manual_seed(1)
    for layer, module in layers.items():
        setattr(body, layer, module)
    model = casc_core.prepare(body.eval(), q=q).eval()
    snn, x = casc_core.convert(model, numerics=numerics), inputs[0]
    compare(snn, inputs, (x[:1] * 3,), (torch.cat([x, -x, x.flip(0) / 7]),))


@pytest.mark.parametrize("terms", [4, 300])
def test_products_of_currents_are_rounded_once(terms):
    """As trained, whatever the number of products that are summed."""
    torch.manual_seed(0)
    snn = casc_core.convert(Attention(of_currents=True).eval())
    assert any(op.settings["arriving"] is not None for op in snn.operations() if isinstance(op, Multiply))
    compare(snn, (torch.randn(2, terms, 4),), (3 * torch.randn(4, terms, 4),))


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
@pytest.mark.parametrize(("q", "threshold"), [(1, 1.0), (4, 0.3), (7, 1.0)])
def test_an_mlp_of_any_levels_and_thresholds(q, threshold, numerics):
    snn = casc_core.convert(mlp(q, threshold), numerics=numerics)
    x = torch.randn(200, 6)
    compare(snn, (x[:2],), (x,), (x[:1] * 100,))


def test_every_test_image_of_a_trained_network():
    images, digits = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    images = images.float() / 16
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 40), CQReLU(4), nn.Linear(40, 30), CQReLU(4), nn.Linear(30, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in torch.arange(1500).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), digits[batch]).backward()
        optimizer.step()
    snn, tested = casc_core.convert(model), images[1500:]
    assert (snn.reference(tested).argmax(1) == digits[1500:]).float().mean() > 0.6
    compare(snn, (tested[:2],), (tested,))


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
def test_thresholds_by_channel_and_half_steps(numerics):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), CQReLU(4, torch.tensor([0.5, 1.0, 0.3, 2.0]), half_step=True),
        nn.Conv2d(4, 4, 2), CQReLU(4, 0.7, half_step=True), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    snn = casc_core.convert(model, numerics=numerics)
    layers = [op for op in snn.operations() if op.is_layer]
    assert layers[0].thresholds is not None
    assert all(op.charge is not None for op in layers)
    compare(snn, (IMAGES,), (torch.randn(9, 3, 8, 8),))


@pytest.mark.parametrize("name", list(FORWARDS)[::9])
def test_forwards_of_users(name):
    forward, inputs, sizes = FORWARDS[name]
    snn = casc_core.convert(casc_core.prepare(user_model(forward, **sizes), adapter="rnn", q=4).eval())
    compare(snn, inputs, tuple(each[:3] for each in inputs))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_random_convolutions(data):
    channels, outputs, groups = data.draw(st.sampled_from([(2, 4, 1), (4, 4, 2), (3, 3, 3)]))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(2))
    options = {
        name: tuple(data.draw(st.integers(low, high)) for _ in range(2))
        for name, low, high in (("stride", 1, 3), ("padding", 0, 2), ("dilation", 1, 2))
    }
    torch.manual_seed(data.draw(st.integers(0, 99)))
    q = data.draw(st.integers(1, 6))
    bias = data.draw(st.booleans())
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), CQReLU(q),
        nn.Conv2d(channels, outputs, kernel, groups=groups, bias=bias, **options), CQReLU(q),
        nn.Flatten(), nn.LazyLinear(2),
    )  # fmt: skip
    x = torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        model(x)
    compare(casc_core.convert(model, numerics=data.draw(st.sampled_from(NUMERICS))), (x,), (2 * x[:1],))


@settings(max_examples=8, deadline=None)
@given(st.integers(-40, 9), st.integers(-10, 9), st.integers(0, 99))
def test_inputs_of_any_magnitude_are_summed_exactly(low, high, seed):
    """Sums of numbers of very different magnitudes, many of them next to a threshold."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 30), CQReLU(8), nn.Linear(30, 2))
    x = torch.randn(40, 8, generator=generator) * 2.0 ** torch.randint(
        min(low, high), max(low, high) + 1, (40, 8), generator=generator
    )
    x = x.clamp(-1000, 1000)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(30, 8, generator=generator))
        model[0].bias.copy_(torch.randint(0, 9, (30,), generator=generator) / 8 - x[:30] @ model[0].weight.T[:, 0])
    compare(casc_core.convert(model), (x[:2],), (x,))


def test_only_the_batch_and_lengths_vary(tmp_path):
    snn = casc_core.convert(mlp())
    written = snn.export_onnx(tmp_path / "model.onnx", torch.randn(2, 6))
    assert written.inputs == {"input": ("batch", 6)}
    assert written.outputs == {"logits": ("batch", 3)}
    with pytest.raises(Exception, match="Got: 5 Expected: 6"):
        answers(opened(snn, torch.randn(2, 6)), {"input": torch.randn(2, 5)})


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1024.0, 2.0**-90])
def test_inputs_that_could_not_be_summed_give_no_answer(wrong):
    running, x = opened(casc_core.convert(mlp()), torch.randn(2, 6)), torch.randn(4, 6)
    x[2, 3] = wrong
    assert np.isnan(answers(running, {"input": x})["logits"]).all()


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(8)])
def test_currents_beyond_every_sum_are_as_the_reference_has_them(numerics):
    model = mlp()
    with torch.no_grad():
        model[0].weight.mul_(2.0**20)
    snn = casc_core.convert(model, numerics=numerics)
    compare(snn, (torch.randn(2, 6),), (torch.randn(50, 6) / 2.0**20,), (torch.randn(50, 6) * 300,))


def test_every_operation_has_a_rule():
    ours = {kind for kind in Op.kinds.values() if kind.__module__.startswith(("casc_core.", "casc_seq."))}
    # Which tokens belong together, and how many, only values tell.
    assert {kind.__name__ for kind in ours - RULES.by_kind.keys()} == {"PaddedBags"}


def test_what_cannot_be_written_is_named(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(6, 6), CQReLU(4)

        def forward(self, x, weights):
            return self.act(self.a(x)) * weights.cumsum(1)

    snn = casc_core.convert(Odd())
    with pytest.raises(ConversionError, match=r"Tensor.cumsum\(\) cannot be written as ONNX: there is no rule"):
        snn.export_onnx(tmp_path / "model.onnx", torch.randn(2, 6), torch.ones(2, 6))
    rival = casc_core.convert(mlp()).with_layers(
        lambda op: type("Other", (type(op),), {})(**op.settings, **op.tensors())
    )
    with pytest.raises(ConversionError, match=r"test_onnx\.Other '1' cannot be written as ONNX"):
        rival.export_onnx(tmp_path / "model.onnx", torch.randn(2, 6))
    with pytest.raises(ConversionError, match=r"inputs of torch.float16; give float32"):
        casc_core.convert(mlp()).export_onnx(tmp_path / "model.onnx", torch.randn(2, 6).half())
    assert list(tmp_path.iterdir()) == []


def test_sums_that_might_round_are_refused():
    writer = Writer(Graph(), Exact(16), levels=4)
    writer.check(2.0**52, 0, "a layer")
    with pytest.raises(ExactnessError, match="a layer: sums may reach"):
        writer.check(2.0**52, -2, "a layer")


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'pip install "casc\[onnx\]"'):
        casc_core.convert(mlp()).export_onnx(tmp_path / "model.onnx", torch.randn(2, 6))


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot write"):
        casc_core.convert(mlp()).export_onnx(tmp_path / "file" / "model.onnx", torch.randn(2, 6))


def test_it_is_written_alike_every_time(tmp_path):
    snn = casc_core.convert(mlp())
    for name in ("one", "two"):
        snn.export_onnx(tmp_path / name, torch.randn(3, 6))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_parts_of_every_size_together_are_whole():
    """All places at which a limb may end, at once."""
    x = torch.tensor([2.0**e for e in itertools.chain(range(-84, 10, 7))]).repeat(3, 1)
    model = nn.Sequential(nn.Linear(x.shape[1], 5), CQReLU(4), nn.Linear(5, 2))
    compare(casc_core.convert(model), (x,))
