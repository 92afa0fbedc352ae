"""Sizes of an input where torch wants numbers, with a torch that asks for stand-ins first and with one that does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from casc_core import ConversionError
from casc_core.conversion.tracing import number_arguments
from casc_core.conversion.tracing.trace import trace

RELU = torch.relu


@pytest.fixture(params=["as torch does", "as before torch 2.9.1"])
def _each_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "as before torch 2.9.1":
        monkeypatch.setattr(number_arguments, "_torch_asks", lambda: False)
    number_arguments.functions.cache_clear()
    yield
    number_arguments.functions.cache_clear()


class Net(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        self.own = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self, x)


FORWARDS = {
    "arange": lambda self, x: x * torch.arange(x.shape[1])[None, :],
    "arange on its device": lambda self, x: x * torch.arange(x.shape[1], device=x.device, dtype=x.dtype),
    "linspace": lambda self, x: x * torch.linspace(0, 1, x.shape[1]),
    "zeros": lambda self, x: x + torch.zeros(x.shape[0], 4),
    "ones": lambda self, x: x + torch.ones((x.shape[0], x.shape[1])),
    "full": lambda self, x: x + torch.full((x.shape[0], 4), 2.0),
    "full of a size": lambda self, x: torch.full_like(x, x.shape[1]),
    "eye": lambda self, x: x @ torch.eye(x.shape[1]),
    "tril": lambda self, x: x @ torch.ones(4, 4).tril(x.shape[0] - 3),
    "tril_indices": lambda self, x: x[:, torch.tril_indices(x.shape[1], 4)[1]],
    "pad": lambda self, x: F.pad(x, (0, x.shape[0])),
    "pool": lambda self, x: F.avg_pool1d(x[None], x.shape[1]),
    "narrow": lambda self, x: torch.narrow(x, 1, 0, x.shape[1] - 2),
    "reshape": lambda self, x: torch.reshape(x, (x.shape[1], x.shape[0])),
    "chunk": lambda self, x: sum(torch.chunk(x, chunks=2, dim=1)),
    "new_zeros of a parameter": lambda self, x: x + next(self.parameters()).new_zeros(1, x.shape[0], 4)[0],
    "which activation it is": lambda self, x: torch.relu(x) if torch.relu is RELU else -x,
}


@pytest.mark.usefixtures("_each_torch")
@pytest.mark.parametrize("forward", FORWARDS)
def test_the_graph_is_the_forward(forward: str) -> None:
    model = Net(FORWARDS[forward]).eval()
    graph = fx.GraphModule(model, trace(model, lambda module: False))
    for batch in (3, 5):
        x = torch.arange(4.0 * batch).reshape(batch, 4) - 6
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


@pytest.mark.usefixtures("_each_torch")
def test_tensors_are_as_they_were_even_after_a_refusal() -> None:
    before = dict(vars(Tensor))
    with pytest.raises(ConversionError, match="mine"):
        trace(Net(lambda self, x: (_ for _ in ()).throw(ValueError("mine"))), lambda module: False)
    assert dict(vars(Tensor)) == before
    assert torch.ones(1, 2).expand(3, 2).shape == (3, 2)


def test_before_torch_2_9_1_a_buffer_may_take_a_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_arguments, "_torch_asks", lambda: False)
    model = Net(lambda self, x: x + torch.ones(1, 4).expand(x.shape[0], -1))
    graph = fx.GraphModule(model, trace(model, lambda module: False))
    assert torch.equal(graph(torch.zeros(3, 4)), torch.ones(3, 4))
