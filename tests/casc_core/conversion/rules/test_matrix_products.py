"""Matrix products of two spiking tensors: attention without a softmax, bilinear pooling, filters that inputs decide."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dyadic import agrees, dyadic, network
from engines import ENGINES, engine
from hypothesis import given, settings
from hypothesis import strategies as st
from rational import Oracle, rational
from torch import nn

import casc_core
from casc_core import AsTrained, Exact
from casc_core.engine.ops import Multiply

SEQUENCES = dyadic(3, 4, 6, parts=16, reach=40)
IMAGES = dyadic(3, 3, 5, 5, parts=16, reach=40)


def heads(self, x):
    batch, length, _ = x.shape
    return (F.relu(layer(x)).view(batch, length, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))


def linear_attention(self, x):
    q, k, v = heads(self, x)
    y = q @ (k.transpose(-2, -1) @ v) * 0.25
    return self.fc(F.relu(self.o(y.transpose(1, 2).flatten(2))).sum(1))


def attention_by_relu(self, x):
    q, k, v = heads(self, x)
    y = torch.matmul(F.relu(q @ k.mT * 0.5), v) / x.shape[1]
    return self.fc(F.relu(self.o(y.transpose(1, 2).reshape(x.shape[0], -1, 8))).sum(1))


def attention_of_currents(self, x):
    batch, length, _ = x.shape
    q, k, v = (layer(x).reshape(batch, length, 2, 4).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v))
    y = F.relu(torch.einsum("bhld,bhmd->bhlm", q, k) * 0.125) @ v
    return self.fc(F.relu(x[:, :, :1] + self.o(y.transpose(1, 2).flatten(2))).sum(1))


def co_attention(self, x):
    a, b = F.relu(self.q(x[:, :2])), F.relu(self.k(x[:, 2:]))
    scores = F.relu(torch.bmm(a, b.transpose(1, 2)) - 0.5)
    return self.fc(F.relu(self.o(torch.baddbmm(a, scores, b, beta=0.5, alpha=0.25))).sum(1))


def weights_that_spike(self, x):
    return self.fc(F.relu(F.linear(F.relu(self.q(x[0])), F.relu(self.k(x[1])), self.bias).repeat(1, 2)))


def bilinear_layer(self, x):
    return self.fc(F.relu(self.bilinear(F.relu(self.q(x)), self.k(x))).sum(1))


def outer_product_of_vectors(self, x):
    a, b = F.relu(self.q(x[:, 0])), torch.sigmoid(self.k(x[:, 1]))
    return self.fc(F.relu(torch.einsum("bi,bj", [a[:1], b[:1]]).flatten()[:8]))


def adjacency_from_the_inputs(self, x):
    return self.fc(F.relu(self.o((x[:, :, :4] > 0).to(x.dtype) @ F.relu(self.q(x)))).sum(1))


def input_times_its_own_code(self, x):
    return self.fc(F.relu(self.o(x.transpose(1, 2) @ F.relu(self.q(x)))).sum(1))


def joined_with_other_scales(self, x):
    a, b = F.relu(self.q(x)), F.relu(self.k(x))
    y = torch.cat([a @ b.mT, a * 0.75, torch.tanh(self.v(x))], -1)
    return self.fc(F.relu(self.wide(y)).sum(1))


SEQUENTIAL = [
    linear_attention, attention_by_relu, attention_of_currents, co_attention, weights_that_spike, bilinear_layer,
    outer_product_of_vectors, adjacency_from_the_inputs, input_times_its_own_code, joined_with_other_scales,
]  # fmt: skip


def sequence_model(forward):
    layers = {name: nn.Linear(6, 8) for name in "qkv"}
    return network(
        forward,
        **layers,
        o=nn.Linear(8, 8),
        fc=nn.Linear(8, 3),
        bias=dyadic(4),
        bilinear=nn.Bilinear(8, 8, 8),
        wide=nn.Linear(20, 8),
    )


@pytest.mark.parametrize("forward", SEQUENTIAL, ids=lambda forward: forward.__name__)
def test_sequences(forward, tmp_path):
    snn = agrees(sequence_model(forward), SEQUENCES, folder=tmp_path, spikes=False)
    assert any(isinstance(op, Multiply) for op in snn.operations())
    found = snn(SEQUENCES)
    for choice in ENGINES:
        with engine(choice):
            assert torch.equal(snn(SEQUENCES), found)
            assert torch.equal(snn.reference(SEQUENCES), found)


def bilinear_pooling(self, x):
    x = F.relu(self.a(x)).flatten(2)
    return self.fc((x @ x.transpose(1, 2) / x.shape[2]).flatten(1))


def covariance_pooling(self, x):
    x = F.relu(self.a(x)).flatten(2)
    x = x - x.mean(2, keepdim=True)
    return self.fc(F.relu(self.square(torch.einsum("bcn,bkn->bck", x, x) / 16)).flatten(1))


def dynamic_filters(self, x):
    filters = torch.sigmoid(self.pooled(x.sum((2, 3)))).view(-1, 2, 4)
    y = F.relu(self.c(torch.einsum("bchw,bkc->bkhw", F.relu(self.a(x)), filters)))
    return self.fc(y.flatten(2).repeat(1, 2, 1)[:, :, :4].flatten(1))


def non_local_block(self, x):
    x = F.relu(self.a(x))
    theta, phi, g = (F.relu(layer(x)).flatten(2) for layer in (self.p, self.p, self.r))
    y = (theta.mT @ phi) @ g.mT * 2.0**-6
    return self.fc(F.relu(x + y.mT.reshape(x.shape)).flatten(2)[:, :, :4].flatten(1))


IMAGED = [bilinear_pooling, covariance_pooling, dynamic_filters, non_local_block]


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("forward", IMAGED, ids=lambda forward: forward.__name__)
def test_images(forward, numerics):
    model = network(
        forward, a=nn.Conv2d(3, 4, 2), p=nn.Conv2d(4, 4, 1), r=nn.Conv2d(4, 4, 1), c=nn.Conv2d(2, 2, 1),
        pooled=nn.Linear(3, 8), square=nn.Linear(4, 4), fc=nn.Linear(16, 3),
    )  # fmt: skip
    if numerics == "as trained" and forward is not dynamic_filters:  # whose sigmoid is no binary fraction
        agrees(model, IMAGES, spikes=False)
    snn = casc_core.convert(casc_core.prepare(model, q=3).eval(), numerics=numerics)
    report = casc_core.verify(snn, IMAGES)
    assert report.exact, str(report)
    assert torch.equal(torch.cat([snn(image[None]) for image in IMAGES]), snn(IMAGES))


@settings(max_examples=4)
@given(seed=st.integers(0, 2**16), q=st.sampled_from((2, 3, 8)), length=st.integers(1, 12), of=st.integers(0, 1))
def test_attention_with_weights_as_they_are_in_rationals(seed, q, length, of):
    """Every level and every logit from the definition: nothing is rounded but the weights' own float32."""
    forward = (linear_attention, attention_of_currents)[of]
    torch.manual_seed(seed)
    model = network(forward, fc=nn.Linear(8, 3), o=nn.Linear(8, 8), **{name: nn.Linear(6, 8) for name in "qkv"})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    ann = casc_core.prepare(model, q=q).eval()
    snn, x = casc_core.convert(ann), 2 * torch.randn(1, length, 6)
    with torch.no_grad():
        logits, counts = snn.reference_counts((x,), {})
    levels = {name: each[0] for name, each in counts.items()}
    oracle = Oracle(levels, q, tie=0)
    layers = iter([(name, module) for name, module in ann.named_modules() if isinstance(module, casc_core.CQReLU)])

    def relu(value):
        name, layer = next(layers)
        return oracle(name, layer, value)

    def mapped(layer, value):
        return value @ rational(layer.weight).T + rational(layer.bias)

    given_x, currents = rational(x[0]), forward is attention_of_currents

    def split(layer):
        value = mapped(layer, given_x)
        value = value if currents else relu(value)
        return value.reshape(length, 2, 4).transpose(1, 0, 2)

    a, b, c = (split(layer) for layer in (ann.q, ann.k, ann.v))
    keys = b.transpose(0, 2, 1)
    if currents:
        y = relu(np.stack([one @ other for one, other in zip(a, keys, strict=True)]) / 8)
        y = np.stack([one @ other for one, other in zip(y, c, strict=True)])
        hidden = relu(given_x[:, :1] + mapped(ann.o, y.transpose(1, 0, 2).reshape(length, 8)))
    else:
        y = np.stack([one @ (other @ value) for one, other, value in zip(a, keys, c, strict=True)]) / 4
        hidden = relu(mapped(ann.o, y.transpose(1, 0, 2).reshape(length, 8)))
    assert next(layers, None) is None
    expected = mapped(ann.fc, hidden.sum(0)).astype(float)
    np.testing.assert_allclose(logits[0], expected, rtol=2e-7, atol=2e-7 * np.abs(expected).max())
    assert oracle.differing == 0
    assert torch.equal(snn(x), logits)


def test_many_tokens_and_channels_keep_their_bits():
    torch.manual_seed(0)
    model = network(
        linear_attention, **{name: nn.Linear(6, 8) for name in "qkv"}, o=nn.Linear(8, 8), fc=nn.Linear(8, 3)
    )
    snn = casc_core.convert(casc_core.prepare(model, q=16).eval())
    report = casc_core.verify(snn, torch.randn(2, 1000, 6))
    assert report.exact, str(report)
    assert report.lowering.ties == 0


def test_products_are_counted():
    """Each event meets the totals with which it is multiplied; the network in floats multiplies all of them."""

    def forward(self, x):
        return F.relu(self.q(x)) @ F.relu(self.k(x)).mT

    snn = casc_core.convert(casc_core.prepare(network(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 8)), q=4).eval())
    simulation = snn.simulate(SEQUENCES)
    arriving = Counter({name: float((each.positive + each.negative).sum()) for name, each in simulation.spikes.items()})
    # A spike of one of 4 rows of 8 meets the 4 totals of its column.
    assert float(simulation.readout_multiplications.sum()) == 4 * arriving.total()
    assert simulation.readout_ann_multiplications == 3 * 4 * 4 * 8


def two_products_of_currents(self, x):
    return self.fc(F.relu((self.q(x) @ self.k(x).mT) @ self.v(x)).sum(1))


def test_what_no_type_could_hold_is_refused_when_it_is_converted():
    ann = casc_core.prepare(sequence_model(two_products_of_currents), q=8).eval()
    casc_core.convert(ann)
    with pytest.raises(casc_core.ExactnessError, match=r"matmul: sums may reach .* use fewer weight_bits"):
        casc_core.convert(ann, numerics=Exact(16))


def test_inputs_that_are_too_large_are_refused_when_it_runs():
    snn = casc_core.convert(
        casc_core.prepare(sequence_model(two_products_of_currents), q=8).eval(), numerics=AsTrained()
    )
    with pytest.raises(casc_core.InputError, match="Scale the inputs"):
        snn(2.0**18 * SEQUENCES)


def batched_matrices(self, x):
    return F.relu(self.q(x)) @ self.several


def batches_of_constants(self, x):
    return torch.bmm(F.relu(self.q(x)), self.several)


def einsum_of_batches(self, x):
    return torch.einsum("bik,bkj->bij", F.relu(self.q(x)), self.several)


def three_operands(self, x):
    x = F.relu(self.q(x))
    return torch.einsum("bik,bjk,bjl->bil", x, x, x)


def diagonal(self, x):
    return torch.einsum("bii,bij->bj", F.relu(self.q(x)), F.relu(self.q(x)))


def summed_dots(self, x):
    return torch.einsum("...k,...k->k", F.relu(self.q(x)), F.relu(self.k(x)))


def softmax_in_the_middle(self, x):
    q, k, v = heads(self, x)
    return (q @ k.mT).softmax(-1) @ v


def torch_attention(self, x):
    return F.scaled_dot_product_attention(*heads(self, x))


REFUSED = {
    batched_matrices: r"matmul\(\) .*by \[3\] matrices, one for each entry of a batch; hold one matrix",
    batches_of_constants: r"bmm\(\) .*by \[3\] matrices, one for each entry of a batch; hold one matrix",
    einsum_of_batches: r"einsum\(\) .*by 3 matrices, one for each entry of a batch; hold one matrix",
    three_operands: "of one or two operands can be taken apart; take two at a time",
    diagonal: "a letter stands twice in one operand",
    summed_dots: r"its equation is '\.\.\.' stands for dimensions that the result has; write it as a matrix product",
    softmax_in_the_middle: r"in an attention, put torch\.relu\(scores\) / length in its place",
    torch_attention: r"scaled_dot_product_attention\(\) .* write attention with a ReLU in its place",
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_what_stays_refused_says_what_to_do(forward):
    model = network(forward, **{name: nn.Linear(6, 8) for name in "qkv"}, several=dyadic(3, 8, 2))
    with pytest.raises(casc_core.ConversionError, match=REFUSED[forward]):
        casc_core.prepare(model, q=4)
