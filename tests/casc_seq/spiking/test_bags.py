"""`nn.EmbeddingBag` in a converted network: sums and means of bags, given as rows or by offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import casc_core


class Bagged(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, **options)
        self.fc, self.act, self.out = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.out(self.act(self.fc(self.bag(tokens, offsets))))


def prepared(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = Bagged(**options)
    with torch.no_grad():
        model.bag.weight.normal_()  # of the padding too
    return casc_core.prepare(model, adapter="rnn", q=8).eval()


ROWS = torch.tensor([[3, 0, 5, 0], [1, 2, 19, 4], [0, 0, 0, 0]])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 0])
def test_rows_of_tokens(mode: str, padding: int | None) -> None:
    ann = prepared(mode=mode, padding_idx=padding)
    snn = casc_core.convert(ann, adapter="rnn")
    report = casc_core.verify(snn, ROWS)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(ROWS), ann(ROWS).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("last", [False, True])
def test_bags_by_their_offsets(mode: str, padding: int | None, last: bool, tmp_path: Any) -> None:
    ann = prepared(mode=mode, padding_idx=padding, include_last_offset=last)
    snn = casc_core.convert(ann, adapter="rnn")
    tokens = torch.tensor([3, 0, 5, 7, 7, 0, 0, 19])
    offsets = torch.tensor([0, 3, 3, 5, 7] + [8] * last)  # the second is empty, the fourth only padding
    report = casc_core.verify(snn, tokens, offsets)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(tokens, offsets), ann(tokens, offsets).detach(), rtol=1e-5, atol=1e-5)
    snn.save(tmp_path / "net")
    assert torch.equal(casc_core.load(tmp_path / "net")(tokens, offsets), snn(tokens, offsets))


def test_what_a_bag_cannot_be() -> None:
    with pytest.raises(casc_core.ConversionError, match=r"the max of a bag; use nn\.Embedding and a maximum"):
        prepared(mode="max")
    with pytest.raises(casc_core.ConversionError, match="max_norm"):
        prepared(mode="sum", max_norm=1.0)
    snn = casc_core.convert(prepared(mode="sum"), adapter="rnn")
    for offsets in ([1, 3], [0, 5, 3], [0, 9]):
        with pytest.raises(casc_core.InputError, match=r"offsets must begin with 0 and ascend to at most 4; got \["):
            snn(torch.tensor([1, 2, 3, 4]), torch.tensor(offsets))
    with pytest.raises(casc_core.InputError, match="one row of tokens"):
        snn(ROWS, torch.tensor([0, 1]))
