"""einops, as functions and as layers: what our own writing of it computes, and networks that call it."""

from __future__ import annotations

import einops
import pytest
import torch
from dyadic import IMAGES, SERIES, agrees, network
from einops import rearrange, reduce, repeat
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import nn

import casc_core
from casc_core import ConversionError, InputError
from casc_core.conversion.tracing import patterns

X = torch.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3).float()
CALLS = [
    ("rearrange", "b c h w -> w (h b) c", {}),
    ("rearrange", "b (n c) h w -> (b n) c (w h)", {"n": 3}),
    ("rearrange", "b (c p q) h w -> b c (h p) (w q)", {"p": 2, "q": 3}),
    ("rearrange", "b c (h p) w -> b 1 (p c) h () w", {"p": 2, "c": 6}),
    ("rearrange", "b ... w -> w b ...", {}),
    ("rearrange", "... (c p) h w -> (...) h p (w c)", {"p": 2}),
    ("rearrange", "b c ... -> b (c ...)", {}),
    ("repeat", "b c h w -> b k (h r) w c", {"r": 2, "k": 3}),
    ("repeat", "... w -> ... w n", {"n": 2}),
    ("reduce", "b c (h p) w -> b h w", {"reduction": "sum", "p": 2}),
    ("reduce", "b c h w -> b c 1 1", {"reduction": "mean"}),
    ("reduce", "... (h w)  c -> c ...", {"reduction": "max", "h": 2}),
    ("rearrange", "b ... w -> b w (...)", {}),
    ("reduce", "b c h w -> ", {"reduction": "max"}),
    ("repeat", "b c h w -> b c (h 2) (2 w)", {}),
    ("repeat", "b c h w -> b c h w 3", {}),
    ("reduce", "b (c 2) (2 h) w -> b c h w", {"reduction": "max"}),
]


@pytest.mark.parametrize(("name", "pattern", "given"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_what_einops_computes(name, pattern, given):
    expected = getattr(einops, name)(X, pattern, **given)
    assert torch.equal(getattr(patterns, name)(X, pattern, **given), expected)


def test_einsum_is_what_einops_computes():
    pattern = "batch channel row column, out channel -> batch row column out"
    weights = torch.arange(12).reshape(2, 6).float()
    assert torch.equal(patterns.einsum(X, weights, pattern), einops.einsum(X, weights, pattern))
    dots = "... channel row column, channel -> ... row"
    assert torch.equal(patterns.einsum(X, weights[0], dots), einops.einsum(X, weights[0], dots))
    with pytest.raises(ConversionError, match=r"60 axes, and torch.einsum 52"):
        patterns.einsum(X, " ".join(f"a{number}" for number in range(60)) + " -> a0")


def test_lists_are_stacked():
    parts = list(X)
    assert torch.equal(patterns.rearrange(parts, "n c h w -> c n (h w)"), rearrange(parts, "n c h w -> c n (h w)"))


def as_functions(self, x):
    x = self.act(self.a(x))
    y = rearrange(x, "b (g c) h w -> b c g (h w)", g=2)
    y = self.act(self.fc(rearrange(y, "b ... n -> b n (...)", n=x.shape[2] * x.shape[3])))
    z = einops.repeat(reduce(x, "b c (h s) (w t) -> b c h w", "max", s=2, t=2), "b c h w -> b (c 2) h w")
    mixed = einops.einsum(x, self.fc.weight, "b channel h w, out channel -> b out h w")
    pooled = reduce(rearrange([x, x * 2], "n b c h w -> b (n c) h w"), "b c h w -> b c", "sum")
    return y.sum(1) + einops.reduce(self.act(z), "b c h w -> b (c h)", "sum")[:, :3] + pooled[:, 5:] + mixed.sum((2, 3))


def as_layers(self, x):
    x = self.act(self.a(self.patches(x)))
    return self.mean(self.act(self.b(self.largest(x))))


def of_the_input(self, x):
    return self.act(self.fc(repeat(rearrange(x, "b c l -> b l c"), "b l c -> b l (r c)", r=2)[..., :4])).sum(1)


NETWORKS = {
    as_functions: (IMAGES, {"a": nn.Conv2d(3, 4, 3, padding=1), "fc": nn.Linear(4, 3)}),
    as_layers: (
        IMAGES,
        {
            "a": nn.Conv2d(12, 4, 1), "b": nn.Conv2d(4, 4, 1),
            "patches": Rearrange("b c (h p) (w q) -> b (p q c) h w", p=2, q=2),
            "largest": Reduce("b c (h s) w -> b c h w", "max", s=3), "mean": Reduce("b c h w -> b c", "sum"),
        },
    ),
    of_the_input: (SERIES, {"fc": nn.Linear(4, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("forward", NETWORKS, ids=lambda forward: forward.__name__)
def test_networks_that_call_it(forward, tmp_path):
    inputs, held = NETWORKS[forward]
    agrees(network(forward, act=nn.ReLU(), **held), inputs, folder=tmp_path)


def test_another_shape_is_told():
    def forward(self, x):
        return reduce(self.act(rearrange(x, "b (n c) l -> b n c l", n=3)), "b n c l -> b l", "sum")

    snn = casc_core.convert(network(forward, act=casc_core.CQReLU(2)), adapter="cnn")
    snn(SERIES)
    for other in (SERIES[:, :2], SERIES.unsqueeze(1)):
        with pytest.raises(InputError, match=r"condition on sizes(.*\n.*)test_patterns\.py:\d+: return reduce"):
            snn(other)


def product(self, x):
    return reduce(self.act(x), "b c h w -> b c", "prod")


def mixed(self, x):
    return self.mix(self.act(x))


@pytest.mark.parametrize(
    ("forward", "message"),
    [(product, "'prod' is not affine"), (mixed, "use nn.Linear, and einops.rearrange around it")],
)
def test_what_stays_refused_says_why(forward, message):
    mix = EinMix("b c h w -> b h w k", weight_shape="c k", c=3, k=2)
    with pytest.raises(ConversionError, match=message):
        casc_core.prepare(network(forward, act=nn.ReLU(), mix=mix), adapter="cnn", q=2)
