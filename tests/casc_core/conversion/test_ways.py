"""Each way of calling a model with optional arguments: lowered at the conversion, or when it is first asked for."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import casc_core
from casc_core import ConversionError, InputError
from casc_core.conversion.convert import convert

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1], [0], [1], [1], [0]])
TAKEN = ({}, {"mask": MASK}, {"more": MASK}, {"mask": MASK, "more": MASK}, {"mask": MASK, "unused": MASK})


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b, self.deep, self.fc = (
            nn.Linear(4, 8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        more: Tensor | None = None,
        bias: Tensor | None = None,
        unused: Tensor | None = None,
        scale: float = 2.0,
        mode: str = "sum",
    ) -> Tensor:
        h = self.act(self.a(x))
        if more is not None:
            h = self.deep(self.b(h))
        if mask is not None:
            h = h * mask
        if bias is not None:
            h = torch.softmax(h + bias, -1)
        return self.fc(h) * scale


@pytest.fixture
def ann() -> nn.Module:
    return casc_core.prepare(Own(), q=4).eval()


def test_each_way_that_is_asked_for_is_exact(ann: nn.Module) -> None:
    snn = convert(ann)
    assert [set(given) for given in snn.programs] == [{"x"}, {"x", "mask"}, {"x", "more"}, {"x", "unused"}]
    shared = len(snn.ops)
    for given in TAKEN:
        report = casc_core.verify(snn, X, **given)
        assert report.exact, str(report)
        torch.testing.assert_close(convert(ann, numerics="as trained").reference(X, **given), ann(X, **given).detach())
    assert snn.layers == ("act", "deep")
    assert len(snn.ops) == shared  # the operations are shared
    count = len(snn.ops)
    for given in reversed(TAKEN):
        casc_core.verify(snn, X, **given)
    assert len(snn.ops) == count  # and nothing is lowered twice


def test_the_answers_do_not_depend_on_what_was_asked_before(ann: nn.Module) -> None:
    one, other = convert(ann), convert(ann)
    found = [one(X, **given) for given in TAKEN]
    assert all(torch.equal(other(X, **given), logits) for given, logits in zip(TAKEN[::-1], found[::-1], strict=True))


def test_a_way_that_cannot_be_converted_says_why(ann: nn.Module) -> None:
    snn = convert(ann)
    with pytest.raises(
        InputError, match=r"got \(x, bias\)\. Called like this .*softmax\(\) cannot be converted exactly"
    ):
        snn(X, bias=X)
    with pytest.raises(InputError, match=r"takes \(x\) or .*; got \(mask\)$"):
        snn(mask=MASK)
    assert casc_core.verify(snn, X).exact


class Output(OrderedDict):
    """What libraries of pretrained models return: a dict whose entries are attributes, too."""

    def __init__(self, **entries: Tensor | None) -> None:
        super().__init__((name, value) for name, value in entries.items() if value is not None)

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Pretrained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.a, self.act, self.fc = nn.Embedding(9, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, input_ids=None, attention_mask=None, labels=None, return_dict=None):
        h = self.act(self.a(self.emb(input_ids)))
        if attention_mask is not None:
            h = h * attention_mask.unsqueeze(-1)
        logits = self.fc(h.sum(1))
        return Output(loss=None if labels is None else nn.functional.cross_entropy(logits, labels), logits=logits)


class WithOptions(Pretrained):
    def forward(self, input_ids=None, attention_mask=None, labels=None, return_dict=None, **options):
        return super().forward(input_ids, attention_mask, labels, return_dict)


def test_a_forward_in_the_manner_of_pretrained_models() -> None:
    """A dict of a class of its own comes back as the dict that it is; what takes any argument is to be wrapped."""
    tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    snn = convert(casc_core.prepare(Pretrained(), q=2))
    assert list(snn(tokens)) == ["logits"]
    assert casc_core.verify(snn, tokens).exact
    assert casc_core.verify(snn, tokens, (tokens > 0).long()).exact
    with pytest.raises(ConversionError, match=r"takes \*\*options, so its inputs are not known") as error:
        casc_core.prepare(WithOptions(), q=2)
    assert "def forward(self, input_ids): return self.model(input_ids)\n" in str(error.value)
    assert "model being your WithOptions" in str(error.value)

    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.model(input_ids, attention_mask).logits

    for kind in (Pretrained, WithOptions):
        snn = convert(casc_core.prepare(Wrapped(kind()), q=2))
        assert casc_core.verify(snn, tokens).exact
        assert casc_core.verify(snn, tokens, (tokens > 0).long()).exact


def test_arguments_with_other_defaults_stay_at_them(ann: nn.Module, tmp_path: object) -> None:
    snn = convert(ann)
    assert torch.equal(snn(X, scale=2.0, mode="sum"), snn(X))
    for named in ({"scale": 3.0}, {"scale": torch.tensor(2.0)}, {"mode": "mean"}, {"scale": 2}):
        with pytest.raises(InputError, match=r"was held at its default, .*, when the network was converted"):
            snn(X, **named)
    snn.save(f"{tmp_path}/network")
    with pytest.raises(
        InputError, match="argument 'scale' was held at its default when the network was converted: leave it"
    ):
        casc_core.load(f"{tmp_path}/network")(X, scale=3.0)


def test_a_loaded_network_has_the_ways_that_were_lowered(ann: nn.Module, tmp_path: object) -> None:
    snn = convert(ann)
    expected = snn(X, mask=MASK, more=MASK)
    snn.save(f"{tmp_path}/network")
    alone = casc_core.load(f"{tmp_path}/network")
    assert torch.equal(alone(X, mask=MASK, more=MASK), expected)
    with pytest.raises(InputError, match=r"takes \(x\) or .*\(x, mask, more\); got \(x, more, unused\)"):
        alone(X, more=MASK, unused=MASK)
    with_ann = casc_core.load(f"{tmp_path}/network", model=ann)
    assert torch.equal(with_ann(X, more=MASK, unused=MASK), snn(X, more=MASK, unused=MASK))


def test_a_network_under_another_schedule_takes_new_ways_too(ann: nn.Module) -> None:
    baseline = convert(ann).under(casc_core.IF(), casc_core.Continuous())
    assert baseline.simulate(X, mask=MASK, T=3).logits.shape == (3, 5, 3)
    with pytest.raises(InputError, match="got"):
        convert(ann).with_layers(copy.deepcopy)(X, mask=MASK, more=MASK)
