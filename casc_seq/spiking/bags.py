"""`nn.EmbeddingBag`: an embedding and its sum or mean over each bag of tokens."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.rules.arithmetic import divide
from casc_core.conversion.rules.reduction import total
from casc_core.errors import InputError
from casc_core.extend import (
    Abstract,
    Flag,
    Follower,
    InputNode,
    Op,
    Reader,
    Run,
    SignalNode,
    Snapped,
    Snapping,
    TableLookup,
    Whole,
    settings,
)
from casc_core.operations import name_of


class PaddedBags(Op, saved_as="PaddedBags"):
    """Bags of tokens in one row, as rows of equal length: called with the tokens `[N]` and where each bag begins `[B]`.

    `padding` fills the rows behind a bag's end; with `last`, the offsets end with where the last bag does.
    """

    SETTINGS = settings(padding=Whole(0, 2**53), last=Flag())

    def forward(self, run: Run, tokens: Tensor, offsets: Tensor) -> Tensor:
        if tokens.dim() != 1 or offsets.dim() != 1:
            raise InputError(
                f"bags with offsets need one row of tokens and one of offsets; got shapes {list(tokens.shape)} and "
                f"{list(offsets.shape)}"
            )
        starts, ends = offsets, torch.cat([offsets[1:], offsets.new_tensor([len(tokens)])])
        if self.settings["last"]:
            starts, ends = starts[:-1], ends[:-1]
        bounds = torch.cat([starts[:1], ends])
        fits = len(starts) and int(starts[0]) == 0 and bool((bounds.diff() >= 0).all()) and int(ends[-1]) <= len(tokens)
        if not fits:
            raise InputError(
                f"offsets must begin with 0 and ascend to at most {len(tokens)}; got {offsets.tolist()[:12]}"
            )
        places = torch.arange(max(1, int((ends - starts).max())), device=tokens.device) + starts[:, None]
        rows = F.pad(tokens, (0, 1))[places.clamp(max=len(tokens))]
        return rows.masked_fill(places >= ends[:, None], self.settings["padding"])

    def follow(self, follower: Follower, tokens: Abstract | Tensor, offsets: Abstract | Tensor) -> Abstract:
        raise follower.unprovable("has the tokens of all samples in one row")


@dataclass(frozen=True, eq=False, repr=False)
class Bags(InputNode):
    """Bags of tokens in one row, as rows of equal length."""

    tokens: InputNode
    offsets: InputNode
    padding: int
    last: bool

    def snap(self, snapping: Snapping) -> Snapped:
        return Snapped(snapping.call(PaddedBags(padding=self.padding, last=self.last), self.tokens, self.offsets))


def embedding_bag(
    reader: Reader, bag: nn.EmbeddingBag, input: Any, offsets: Any = None, per_sample_weights: Any = None
) -> SignalNode:
    """The rule: a table with a row of zeros for what is not in a bag, and its sum or mean over each bag."""
    if bag.mode not in ("sum", "mean"):
        raise reader.refuse(f"it takes the {bag.mode} of a bag; use nn.Embedding and a maximum over the tokens")
    if bag.max_norm is not None:
        raise reader.refuse("max_norm rescales the table while it runs; renormalise the weights once")
    if per_sample_weights is not None:
        raise reader.refuse("it weighs each token; use nn.Embedding, and a product with the weights before the sum")
    if not isinstance(input, InputNode) or not (offsets is None or isinstance(offsets, InputNode)):
        raise reader.refuse("its tokens and offsets must be computed from the inputs, not from spiking neurons")
    rows, unread = bag.weight.detach().double(), [] if bag.padding_idx is None else [bag.padding_idx]
    if offsets is not None:
        unread, rows = [*unread, len(rows)], torch.cat([rows, torch.zeros_like(rows[:1])])
        input = reader.add(Bags(input, offsets, len(rows) - 1, bag.include_last_offset))
    if unread:
        rows = rows.index_fill(0, torch.tensor(unread), 0.0)
    embedded = reader.add(TableLookup(input, rows, reader.name))
    if bag.mode == "sum" or not unread:
        return total(reader, embedded, bag.mode == "mean", 1, False)
    read: InputNode = reader.call(_named(operator.ne), input, unread[0])
    for each in unread[1:]:
        read = reader.call(_named(operator.and_), read, reader.call(_named(operator.ne), input, each))
    count = reader.call("Tensor.clamp", reader.call("Tensor.sum", read, 1, True), 1)
    return divide(reader, total(reader, embedded, False, 1, False), count)


def _named(function: Any) -> str:
    name = name_of(function, False)
    assert name is not None
    return name
