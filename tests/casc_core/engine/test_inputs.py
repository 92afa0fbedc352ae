"""Inputs of every kind that torch has, to networks of images, of features and of texts: an answer, or one clear line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import casc_core
import casc_seq
from casc_core import CQReLU, InputError
from casc_core.engine import kernels


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.fc = nn.Embedding(20, 8), nn.RNN(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x, lengths):
        return self.fc(self.rnn(self.embedding(x))[0].sum(1) / lengths.unsqueeze(1))


def networks():
    torch.manual_seed(0)
    image = nn.Sequential(
        nn.Conv2d(3, 6, 3), CQReLU(4), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    features = nn.Sequential(nn.Linear(4, 8), CQReLU(4), nn.Linear(8, 3))
    texts = casc_core.prepare(Texts(), adapter="rnn", q=4).eval()
    tokens, lengths = torch.randint(0, 20, (2, 5)), torch.tensor([5, 5])
    return {
        "image": (casc_core.convert(image), torch.rand(2, 3, 8, 8), ()),
        "features": (casc_core.convert(features), torch.rand(2, 4), ()),
        "texts": (casc_core.convert(texts), tokens, (lengths,)),
    }


NETWORKS = networks()
LARGE = {
    "large": lambda x: x.float() * 1e30,
    "unsigned": lambda x: (-x.int() - 1).to(torch.uint16),
}
REFUSED = {
    "sparse": (lambda x: x.to_sparse(), "is laid out as torch.sparse_coo; give its to_dense"),
    "compressed": (lambda x: x.reshape(2, -1).to_sparse_csr(), "is laid out as torch.sparse_csr"),
    "mkldnn": (lambda x: x.float().to_mkldnn(), "is laid out as torch._mkldnn"),
    "meta": (lambda x: x.to("meta"), "on the device 'meta' and holds no numbers"),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[1]]), "nested tensor; give a padded one"),
    "quantised": (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8), r"quantised \(torch.quint8\)"),
    "complex": (lambda x: x.to(torch.complex64), r"complex \(torch.complex64\); give real numbers"),
    "numpy": (lambda x: x.numpy(), "must be a torch tensor; got ndarray: use torch.as_tensor"),
    "list": (lambda x: x.tolist(), "must be a torch tensor; got list"),
    "tensors in a tuple": (lambda x: (x, x), "got tuple: wrap the model in one whose forward names each tensor"),
    "dictionary": (lambda x: {"x": x}, "must be a torch tensor; got dict"),
    "no samples": (lambda x: x[:0], "the batch is empty"),
    "no entries": (lambda x: x[..., :0], "the batch is empty"),
    "infinite": (lambda x: x.float() / 0, "must be finite|must be integers"),
    "one number": (lambda x: x.flatten()[0], "expected an input|do not go through|counts samples|non-empty batch"),
    "too many dimensions": (lambda x: x.expand(1, 1, 1, *x.shape), "expected"),
    "enormous": (lambda x: x.double() * 1e307, "currents that .* must be finite; one is|must be integers"),
    **{name: (given, "must be integers|cannot be applied to what this input gives") for name, given in LARGE.items()},
}
TAKEN = {
    "wanting gradients": lambda x: x.detach().clone().requires_grad_() if x.is_floating_point() else x,
    "a parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "of another class": lambda x: x.as_subclass(type("Own", (torch.Tensor,), {})),
    "made in inference mode": torch.inference_mode()(lambda x: x.clone()),
    "in double": lambda x: x.double() if x.is_floating_point() else x.int(),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:.*(nested|Sparse CSR|quantize|deprecat):UserWarning")
def test_what_cannot_be_read_is_refused(network, kind):
    snn, x, more = NETWORKS[network]
    if network == "features" and kind == "too many dimensions":
        return  # a linear map takes as many as there are
    if network != "texts" and kind in LARGE:
        return  # none is too large for neurons
    given, why = REFUSED[kind]
    value = given(x)
    for call in (snn, snn.reference, snn.simulate):
        with pytest.raises(InputError, match=why) as caught:
            call(value, *more)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("network", ["image", "features"])
@pytest.mark.parametrize("kind", LARGE)
def test_no_real_valued_input_is_too_large_for_neurons(network, kind):
    snn, x, _ = NETWORKS[network]
    given = LARGE[kind](x)
    assert torch.equal(snn(given), snn.reference(given))
    assert bool(snn(given).isfinite().all())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", TAKEN)
def test_what_can_be_read_is_taken(network, kind):
    snn, x, more = NETWORKS[network]
    found = snn(TAKEN[kind](x), *more)
    assert torch.equal(found, snn(x, *more))
    assert not found.requires_grad


@pytest.mark.parametrize("network", ["image", "features"])
@pytest.mark.parametrize("scale", [1e6, 1e30, 1e100])
def test_no_input_is_too_large(network, scale):
    """Neurons whose sums reach that far fire always or never; as do those of the network in float64."""
    snn, x, more = NETWORKS[network]
    x = (x.double() - 0.5) * scale
    report = casc_core.verify(snn, x, *more)
    assert report.exact, str(report)
    assert torch.equal(snn(x), torch.cat([snn(sample[None]) for sample in x]))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = casc_seq.RNN(6, 10, q=4, batch_first=True), nn.Linear(10, 3)

    def forward(self, x, start=None):
        return self.fc(self.rnn(x, start)[0].mean(1))


@pytest.mark.parametrize("scale", [1e6, 1e30])
@pytest.mark.parametrize("choice", kernels.all_instructions())
def test_no_input_of_a_recurrence_is_too_large(scale, choice):
    torch.manual_seed(0)
    snn, x = casc_core.convert(Recurrent().eval(), adapter="rnn"), torch.randn(3, 5, 6)
    x[0] *= scale
    x[1, 2] *= -scale
    with kernels.using(choice):
        assert casc_core.verify(snn, x).exact
        assert torch.equal(snn(x), torch.cat([snn(sample[None]) for sample in x]))


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, 6), CQReLU(4), nn.Linear(6, 6)

    def forward(self, x):
        return self.b(self.act(self.a(x)) + x)


def pooled():
    return nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.MaxPool1d(2), CQReLU(4), nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("scale", [1e12, 1e30])
def test_maxima_over_inputs_have_a_limit(scale):
    snn, x = casc_core.convert(pooled()), torch.ones((2, 1, 6), dtype=torch.float64) * scale
    for call in (snn, snn.reference, snn.simulate):
        with pytest.raises(
            InputError,
            match=r"a maximum or a product of inputs: currents .* must be below .*; the largest is .*Scale the inputs",
        ):
            call(x)
    assert torch.equal(snn(x / scale * 1000), snn.reference(x / scale * 1000))


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e30])
def test_what_inputs_add_to_a_readout_has_none(scale):
    snn, x = casc_core.convert(Skipping()), torch.randn((4, 6), dtype=torch.float64) * scale
    found = snn(x)
    assert torch.equal(found, snn.reference(x))
    assert torch.equal(found, snn.simulate(x).logits[-1])
    with torch.no_grad():
        exact = snn.ann.double()(x)
    assert float((found - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


@pytest.mark.parametrize("network", ["image", "features"])
def test_unsigned_integers_are_numbers(network):
    snn, x, more = NETWORKS[network]
    given = (x * 60000).to(torch.uint16)
    assert torch.equal(snn(given, *more), snn(given.float(), *more))
    assert torch.equal(snn(given, *more), snn.reference(given, *more))


def test_a_batch_that_does_not_fit_beside_another_input():
    snn, x, more = NETWORKS["texts"]
    with pytest.raises(InputError, match="shapes do not broadcast"):
        snn(torch.cat([x] * 3), *more)
    assert snn(torch.cat([x] * 3), torch.cat([*more] * 3)).shape == (6, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_is_not_to_be_scaled(value):
    snn, x, more = NETWORKS["features"]
    with pytest.raises(
        InputError, match=r"must be finite, and one is (nan|inf): find it with torch\.isfinite"
    ) as caught:
        snn(torch.full(x.shape, value), *more)
    assert "cale" not in str(caught.value)
    rounded = casc_core.convert(snn.ann, numerics=casc_core.Exact())
    with pytest.raises(InputError, match=r"must be below 1024 in magnitude; the largest is 2000\. Scale them"):
        rounded(torch.full(x.shape, 2000.0), *more)


def test_on_another_device():
    snn = casc_core.convert(nn.Sequential(nn.Linear(4, 8), CQReLU(4), nn.Linear(8, 3))).to("meta")
    with pytest.raises(InputError, match=r"input 'input' is on cpu, the network on meta: move one of them"):
        snn(torch.rand(2, 4))


@pytest.mark.parametrize("T", [10**9, 10**30])
@pytest.mark.parametrize("schedule", [casc_core.WakeSleep(), casc_core.Continuous()], ids=str)
def test_more_steps_than_can_be_run_are_refused_before_memory_is_asked_for(schedule, T):
    snn, x, _ = NETWORKS["features"]
    for call in (
        snn.under(schedule=schedule).simulate,
        lambda x, T: casc_core.verify(snn.under(schedule=schedule), x, T=T),
    ):
        with pytest.raises(casc_core.ConfigError, match="must be at most 131,072"):
            call(x, T=T)


def test_batches_of_other_shapes_one_after_the_other():
    snn, fresh = NETWORKS["image"][0], networks()["image"][0]
    for shape in ((2, 3, 8, 8), (1, 3, 8, 8), (5, 3, 12, 9), (2, 3, 4, 4), (3, 3, 20, 7)):
        given = torch.rand(shape)
        assert torch.equal(snn(given), networks()["image"][0](given)), shape
        assert torch.equal(snn.simulate(given).logits[-1], fresh.reference(given)), shape


@pytest.mark.parametrize(("variance", "eps", "works"), [(0.0, 1e-5, True), (0.0, 0.0, False), (-1.0, 1e-5, False)])
def test_a_variance_of_nothing_or_less(variance, eps, works):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=eps), CQReLU(4), nn.Flatten(), nn.Linear(16, 2)
    ).eval()
    model[1].running_var[2] = variance
    x = torch.rand(2, 3, 2, 2)
    if works:
        snn = casc_core.convert(model)
        assert torch.equal(snn(x), snn.reference(x))
    else:
        with pytest.raises(casc_core.ConversionError, match=r"running variance, .* plus eps, .* is not positive"):
            casc_core.convert(model)
