"""Changes in place that a trace does not see: they are refused, however the call is spelled; and nothing else is."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, Head, check, cnn, conv

import casc_core
from casc_core import ConversionError

LAYERS = {
    "identity": nn.Identity(), "dropout": nn.Dropout(0.5), "flatten": nn.Flatten(2), "unflatten": nn.Unflatten(1, (2, 3)),
    "relu": nn.ReLU(inplace=True),
}  # fmt: skip

ITSELF_OR_A_VIEW = {
    "a slice": lambda self, y: y[:, :3],
    "view_as": lambda self, y: y.view_as(y),
    "expand_as": lambda self, y: y.expand_as(y),
    "reshape_as": lambda self, y: y.reshape_as(y),
    "moveaxis": lambda self, y: torch.moveaxis(y, 1, 2),
    "requires_grad_": lambda self, y: y.requires_grad_(False),
    "flatten by keyword": lambda self, y: torch.flatten(input=y, start_dim=2),
    "narrow by keyword": lambda self, y: torch.narrow(input=y, dim=1, start=0, length=3),
    "dropout by keyword": lambda self, y: F.dropout(input=y, p=0.5, training=self.training),
    "module by keyword": lambda self, y: self.identity(input=y),
    "dropout module": lambda self, y: self.dropout(y),
    "flatten module": lambda self, y: self.flatten(y),
    "unflatten module": lambda self, y: self.unflatten(y),
}  # fmt: skip


def changed(view, self, x):
    y = self.a(x)
    view(self, y).mul_(0.5)
    return self.head(F.relu(y))


CHANGES = {
    "by keyword": lambda self, y: torch.relu_(input=y),
    "inplace and by keyword": lambda self, y: F.relu(input=y, inplace=True),
    "a module by keyword": lambda self, y: self.relu(input=y),
}


def changing(change, self, x):
    y = self.a(x)
    change(self, y)
    return self.head(F.relu(self.b(y)))


@pytest.mark.parametrize(
    "forward",
    [
        *(pytest.param(partial(changed, view), id=name) for name, view in ITSELF_OR_A_VIEW.items()),
        *(pytest.param(partial(changing, change), id=name) for name, change in CHANGES.items()),
    ],
)
def test_a_tensor_that_is_changed_and_read_by_another_name_is_refused(forward):
    model = cnn(lambda self, x: forward(self, x), a=conv(), b=conv(6), head=Head(), **LAYERS)
    with torch.no_grad():
        model(IMAGES)  # torch runs it
    with pytest.raises(
        ConversionError, match=r"changes a tensor in place and then reads it again(.*\n)*.*test_in_place"
    ):
        casc_core.prepare(model, adapter="cnn", q=4)


def more(n):
    n += 2


def halves(n):
    n //= 2


def rest(n):
    n %= 3


def both(n):
    n &= 7


@pytest.mark.parametrize("change", [more, halves, rest, both])
def test_so_is_an_input(change):
    def forward(self, x, lengths):
        change(lengths)
        return F.relu(self.a(x)).sum((2, 3)) / lengths.unsqueeze(1)

    with pytest.raises(ConversionError, match="changes a tensor in place"):
        casc_core.prepare(cnn(forward, a=conv()), adapter="cnn", q=4)


def sizes(self, x):
    height = x.shape[2]
    half = height
    half //= 2
    rows = height
    rows -= half
    return self.head(F.relu(self.a(x))[:, :, half : rows + 4])


def masks(self, x, first, second):
    both = first & second
    none = ~(first | second)
    return self.head(F.relu(self.a(x)) * first + F.relu(self.b(x)) * (both | none) * second)


def test_sizes_are_numbers_and_masks_are_combined():
    check(cnn(sizes, a=conv(), head=Head()), IMAGES)
    drawn = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    check(cnn(masks, a=conv(), b=conv(), head=Head()), IMAGES, *drawn)


def by_keyword(self, x):
    y = self.relu(input=self.a(input=x))
    y = torch.reshape(input=torch.transpose(input=y, dim0=2, dim1=3), shape=(-1, 6, 8, 8))
    return self.head(torch.squeeze(input=torch.stack(tensors=torch.chunk(input=y, chunks=1, dim=0)), dim=0))


def test_first_arguments_may_be_given_by_keyword():
    check(cnn(by_keyword, a=conv(), relu=nn.ReLU(), head=Head()), IMAGES)
    leaky = cnn(lambda self, x: self.head(self.act(input=self.a(x))), a=conv(), act=nn.LeakyReLU(0.25), head=Head())
    check(leaky, IMAGES)
