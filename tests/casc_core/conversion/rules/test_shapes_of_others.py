"""Shapes that a forward takes from other tensors, and fills on the way to a maximum, as users write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from user_cnns import IMAGES, cnn, conv, settled

import casc_core
from casc_core.errors import InputError
from casc_core.evidence.equivalence import EquivalenceReport


def _report(forward: Any, *inputs: Tensor, **layers: nn.Module) -> EquivalenceReport:
    model = cnn(forward, **{"first": conv(), "act": nn.ReLU(), "last": nn.Conv2d(6, 2, 1), **layers})
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    assert torch.equal(snn(*inputs), snn.reference(*inputs))
    return casc_core.verify(snn, *inputs)


SHAPES = {
    "expand to the rest of a shape": lambda self, x: self.last(
        x + x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:])
    ),
    "the rest of a shape in a tuple": lambda self, x: (
        self.last(x).view(*x.shape[:1], -1).view(len(x.shape) * 0 - 1, 128)
    ),
    "a shape in a list": lambda self, x: self.last(x.reshape([*x.size()])),
    "len of a shape": lambda self, x: self.last(x).sum(tuple(range(2, len(x.shape)))),
    "behind what keeps the rank": lambda self, x: (
        self.last(F.relu(x + x).clone()).flatten(1).sum(1) * len(x.size()[1:])
    ),
    "expand_as": lambda self, x: self.last(x + x.mean((2, 3), keepdim=True).expand_as(x)),
    "a mask that is expanded": lambda self, x: self.last(x * (x.new_zeros(1, 1, 8, 8) == 0).expand_as(x)),
    "view_as": lambda self, x: self.last(x.flatten(1).view_as(x) + x.permute(0, 2, 3, 1).reshape_as(x)),
    "repeat_interleave": lambda self, x: self.last(x.repeat_interleave(2, dim=2) + torch.repeat_interleave(x, 2, 3).mT),
    "a mean over a dimension": lambda self, x: self.last(x).sum(3) / x.shape[3],
}


@pytest.mark.parametrize("forward", SHAPES.values(), ids=SHAPES)
def test_it_is_exact(forward: Any) -> None:
    report = _report(lambda self, x: forward(self, self.act(self.first(x))), IMAGES)
    assert report.exact, str(report)


def test_a_rank_that_layers_decide_is_checked_when_the_network_runs() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x).reshape(*self.first(x).shape)))

    model = cnn(forward, first=nn.Conv2d(3, 6, 1), act=nn.ReLU(), last=nn.Conv2d(6, 2, 1))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    assert casc_core.verify(snn, IMAGES).exact
    with pytest.raises(InputError):
        snn(IMAGES[0])


FILLS = {
    "a number": lambda mask, x: torch.where(mask, x, float("-inf")),
    "a tensor": lambda mask, x: torch.where(~mask, torch.tensor(float("-inf")), x),
    "the method": lambda mask, x: x.where(mask, torch.tensor(-1e9)),
    "full_like": lambda mask, x: torch.where(mask, x, torch.full_like(x, -1e9)),
    "masked_fill": lambda mask, x: x.masked_fill(~mask, float("-inf")),
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_a_fill_is_left_behind_by_a_maximum(fill: Any) -> None:
    def forward(self: Any, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(fill(mask[:, None], self.act(self.first(x))).amax((2, 3)))

    mask = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5
    report = _report(forward, IMAGES, mask, head=settled(nn.Linear(6, 2)))
    assert report.exact, str(report)


def test_a_mask_that_is_added_says_how_to_write_it() -> None:
    def forward(self: Any, x: Tensor, mask: Tensor) -> Tensor:
        return self.head((self.act(self.first(x)) + (mask[:, None] * -1e12)).amax((2, 3)))

    model = cnn(forward, first=conv(), act=nn.ReLU(), head=nn.Linear(6, 2))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    with pytest.raises(InputError, match=r"write x.masked_fill\(mask, float\('-inf'\)\)"):
        snn(IMAGES, torch.ones(6, 8, 8))


def test_a_network_whose_inputs_are_brought_to_a_memory_format_can_be_saved(tmp_path: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x.to(memory_format=torch.channels_last)))).contiguous()

    model = cnn(forward, first=conv(), act=nn.ReLU(), last=nn.Conv2d(6, 2, 1))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    snn.save(tmp_path / "network")
    assert torch.equal(casc_core.load(tmp_path / "network")(IMAGES), snn(IMAGES))
